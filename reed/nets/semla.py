"""Semla: an E(3)-equivariant attention net over molecules, with SemlaFlow's state-dict names.

Source: SemlaFlow (arXiv 2406.07266) and its released code, whose 428 entries load key for key.
Every atom carries invariant features and several sets of coordinates; messages between all pairs of
atoms update both by attention. In three ways this is not the released code: an atom without others
attends to nothing (there: to padding), distances come from a Gram matrix, and the weights of a
CoordNorm begin at one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reed.chem.molecule import ATOMS, BONDS, CHARGES
from reed.errors import ReedError, at_least
from reed.nets import Net, Tap

EPS = 1e-6


@dataclass(frozen=True)
class SemlaConfig:
    """The sizes of the net; the defaults are those published for GEOM-DRUGS.

    width: of an atom's features; sets: of coordinates; message: width of an atom in a message, and
    hidden: of a message's layer; edge: width of a bond; size_emb: of the number of atoms, which is
    below max_atoms; self_cond: whether the net is given its last prediction.
    """

    width: int = 384
    layers: int = 12
    heads: int = 32
    sets: int = 64
    message: int = 128
    hidden: int = 128
    edge: int = 128
    size_emb: int = 64
    max_atoms: int = 256
    self_cond: bool = True

    def __post_init__(self) -> None:
        sizes = "width heads sets message hidden edge size_emb max_atoms".split()
        at_least(1, "net: ", **{name: getattr(self, name) for name in sizes})
        at_least(3, "net: ", layers=self.layers)
        if self.width % self.heads:
            raise ReedError(f"net: heads {self.heads} must divide width {self.width}")


def mlp(first: int, hidden: int, last: int) -> nn.Sequential:
    """Linear, SiLU, Linear. Keys: 0, 2."""
    return nn.Sequential(nn.Linear(first, hidden), nn.SiLU(), nn.Linear(hidden, last))


def centred(coords: Tensor, mask: Tensor) -> Tensor:
    """Coordinates [..., N, 3] about the mean of the real ones, zero elsewhere; mask: [..., N]."""
    weight = mask.unsqueeze(-1).to(coords.dtype)
    mean = (coords * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp(min=1)
    return (coords - mean) * weight


def attention(messages: Tensor, pairs: Tensor) -> Tensor:
    """Weights over the other atoms, [B, N, N, H]; zero for an atom that has none."""
    pairs = pairs.unsqueeze(-1)
    least = torch.finfo(messages.dtype).min
    return messages.masked_fill(~pairs, least).softmax(2) * pairs


class CoordNorm(nn.Module):
    """Centred coordinate sets [B, S, N, 3], by `length` divided by their mean length, weighed."""

    def __init__(self, sets: int, *, length: bool = True) -> None:
        super().__init__()
        self.length = length
        self.set_weights = nn.Parameter(torch.ones(1, sets, 1, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = centred(x, mask[:, None].expand(x.shape[:-1]))
        if self.length:
            count = mask.sum(-1).clamp(min=1).view(-1, 1, 1)
            # the norm has no gradient at zero, where padding lies
            lengths = (x.square().sum(-1) + EPS**2).sqrt() * mask[:, None]
            x = x / (lengths.sum(-1, keepdim=True) / count + EPS).unsqueeze(-1)
        return x * self.set_weights


class LengthsMLP(nn.Module):
    """Features from features and the lengths of the coordinate sets. Key: node_ff."""

    def __init__(self, width: int, sets: int) -> None:
        super().__init__()
        self.node_ff = mlp(width + sets, 4 * width, width)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        lengths = (x.square().sum(-1) + EPS**2).sqrt().transpose(1, 2)  # [B, N, S]
        return self.node_ff(torch.cat([h, lengths], -1))


class EquivariantMLP(nn.Module):
    """Coordinate sets mixed, scaled by features and mixed again."""

    def __init__(self, width: int, sets: int, inner: int) -> None:
        super().__init__()
        self.node_proj = mlp(width, inner, inner)
        self.coord_proj = nn.Linear(sets, inner, bias=False)
        self.attn_proj = nn.Linear(inner, sets, bias=False)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        total = self.coord_proj(x.transpose(1, -1)).sum(-1, keepdim=True)  # [B, 3, N, 1]
        return self.attn_proj(self.node_proj(h).unsqueeze(1) * total).transpose(1, -1)


class NodeFeedForward(nn.Module):
    """Updates of the coordinate sets [B, S, N, 3] and of the features [B, N, D], each by itself."""

    def __init__(self, width: int, sets: int, inner: int) -> None:
        super().__init__()
        self.node_norm, self.coord_norm = nn.LayerNorm(width), CoordNorm(sets)
        self.invariant_mlp = LengthsMLP(width, sets)
        self.equivariant_mlp = EquivariantMLP(width, sets, inner)

    def forward(self, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        h, x = self.node_norm(h), self.coord_norm(x, mask)
        return self.equivariant_mlp(x, h), self.invariant_mlp(x, h)


def both(h: Tensor) -> Tensor:
    """The features of both atoms of every pair, [B, N, D] -> [B, N, N, 2 D]."""
    shape = (h.shape[0], h.shape[1], h.shape[1], h.shape[2])
    return torch.cat([h.unsqueeze(2).expand(shape), h.unsqueeze(1).expand(shape)], -1)


class EdgeMessages(nn.Module):
    """A message for every pair of atoms, [B, N, N, out]; edge: width of the edges, or 0."""

    def __init__(self, config: SemlaConfig, hidden: int, out: int, edge: int) -> None:
        super().__init__()
        self.coord_norm = CoordNorm(config.sets, length=False)
        self.node_norm = nn.LayerNorm(config.width)
        self.edge_norm = nn.LayerNorm(edge) if edge else None
        self.node_proj = nn.Linear(config.width, config.message)
        self.message_mlp = mlp(2 * config.message + config.sets + edge, hidden, out)

    def forward(self, x: Tensor, h: Tensor, mask: Tensor, edges: Tensor | None) -> Tensor:
        x = self.coord_norm(x, mask)
        dots = torch.einsum("bsic,bsjc->bijs", x, x)
        parts = [both(self.node_proj(self.node_norm(h))), dots]
        if self.edge_norm is not None and edges is not None:
            parts.append(self.edge_norm(edges))
        return self.message_mlp(torch.cat(parts, -1))


class CoordAttention(nn.Module):
    """Sums of directions to other atoms, weighed by messages and by how few these single out.

    The last factor keeps the variance (arXiv 2403.04747), as in NodeAttention.
    """

    def __init__(self, sets: int) -> None:
        super().__init__()
        self.coord_norm = CoordNorm(sets)
        self.coord_proj = nn.Linear(sets, sets, bias=False)
        self.attn_proj = nn.Linear(sets, sets, bias=False)

    def forward(self, x: Tensor, messages: Tensor, pairs: Tensor, mask: Tensor) -> Tensor:
        x = self.coord_proj(self.coord_norm(x, mask).transpose(1, -1))  # [B, 3, N, S]
        squares = x.square().sum(1)
        gram = torch.einsum("bcip,bcjp->bijp", x, x)
        apart = (squares[:, :, None] + squares[:, None] - 2 * gram).clamp(min=1e-12).sqrt()
        weight = attention(messages, pairs)
        scaled = weight / (apart + EPS)
        moved = x * scaled.sum(2)[:, None] - torch.einsum("bijp,bcjp->bcip", scaled, x)
        return self.attn_proj(moved * _spread(weight).unsqueeze(1)).transpose(1, -1)


class NodeAttention(nn.Module):
    """Features of other atoms, weighed by messages, one head per channel of these."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.feat_norm = nn.LayerNorm(width)
        self.in_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor, messages: Tensor, pairs: Tensor) -> Tensor:
        weight = attention(messages, pairs)
        split = self.in_proj(self.feat_norm(h)).unflatten(-1, (self.heads, -1))
        mixed = torch.einsum("bijh,bjhd->bihd", weight, split)
        return self.out_proj((mixed * _spread(weight).unsqueeze(-1)).flatten(2))


def _spread(weight: Tensor) -> Tensor:
    """The length of each atom's weights, [B, N, N, H] -> [B, N, H]."""
    return (weight.square().sum(2) + EPS**2).sqrt()


class Layer(nn.Module):
    """A feed-forward of each atom, then messages; the first layer takes edges, the last gives them.

    edge_feat_norm has weights in the public files but no place in the computation.
    """

    def __init__(self, config: SemlaConfig, *, takes: bool, gives: bool) -> None:
        super().__init__()
        self.cut = (config.heads, config.sets, config.edge if gives else 0)
        if takes:
            self.edge_feat_norm = nn.LayerNorm(config.edge).requires_grad_(False)
        out = sum(self.cut)
        self.node_ff = NodeFeedForward(config.width, config.sets, config.message)
        hidden = out if takes or gives else config.hidden
        self.message_ff = EdgeMessages(config, hidden, out, config.edge if takes else 0)
        self.coord_attn = CoordAttention(config.sets)
        self.node_attn = NodeAttention(config.width, config.heads)

    def forward(
        self, x: Tensor, h: Tensor, pairs: Tensor, mask: Tensor, edges: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        dx, dh = self.node_ff(x, h, mask)
        x, h = x + dx, h + dh
        messages = self.message_ff(x, h, mask, edges)
        for_h, for_x, for_edges = messages.split(self.cut, -1)
        h = h + self.node_attn(h, for_h, pairs)
        return x + self.coord_attn(x, for_x, pairs, mask), h, for_edges


class BondRefine(nn.Module):
    """Edges from the final coordinates [B, N, 3], features and edges."""

    def __init__(self, config: SemlaConfig) -> None:
        super().__init__()
        self.coord_norm = CoordNorm(1, length=False)
        self.node_norm, self.edge_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.edge)
        self.node_proj = nn.Linear(config.width, config.message)
        self.message_mlp = mlp(2 * config.message + config.edge + 2, config.message, config.edge)

    def forward(self, x: Tensor, h: Tensor, mask: Tensor, edges: Tensor) -> Tensor:
        x = self.coord_norm(x.unsqueeze(1), mask).squeeze(1)
        apart = (x.unsqueeze(2) - x.unsqueeze(1)).square().sum(-1, keepdim=True)
        dots = (x @ x.transpose(1, 2)).unsqueeze(-1)
        pairs = both(self.node_proj(self.node_norm(h)))
        return self.message_mlp(torch.cat([pairs, apart, dots, self.edge_norm(edges)], -1))


class Dynamics(nn.Module):
    """The layers between what goes in and what comes out."""

    def __init__(self, config: SemlaConfig) -> None:
        super().__init__()
        last, sets = config.layers - 1, config.sets
        self.layers = nn.ModuleList(
            Layer(config, takes=i == 0, gives=i == last) for i in range(config.layers)
        )
        self.final_ff_block = NodeFeedForward(config.width, sets, sets)
        self.coord_norm, self.feat_norm = CoordNorm(sets), nn.LayerNorm(config.width)
        self.coord_proj = nn.Linear(1 + config.self_cond, sets, bias=False)
        self.coord_head = nn.Linear(sets, 1, bias=False)
        self.bond_norm = nn.LayerNorm(config.edge)
        self.refine_layer = BondRefine(config)

    def forward(
        self, coords: Tensor, h: Tensor, mask: Tensor, edges: Tensor, taps: Collection[int]
    ) -> tuple[Tensor, Tensor, Tensor, dict[int, Tensor]]:
        """coords: [B, N, 3, 1 or 2]; returns coordinates, features, edges and states."""
        pairs = (
            mask[:, :, None]
            & mask[:, None]
            & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        )
        x = self.coord_proj(coords).movedim(-1, 1) * mask[:, None, :, None]
        states, given = {}, edges
        for number, layer in enumerate(self.layers, 1):
            x, h, given = layer(x, h, pairs, mask, edges if number == 1 else None)
            if number in taps:
                states[number] = h
        x, h = self.final_ff_block(x, h, mask)
        out = self.coord_head(self.coord_norm(x, mask).transpose(1, -1)).transpose(1, -1)
        out = out.squeeze(1)
        edges = self.bond_norm(self.refine_layer(out, h, mask, given))
        return out, self.feat_norm(h), edges, states


class Semla(Net):
    """The data that a noised molecule comes from: coordinates, and logits of the rest.

    forward: coords [B, N, 3]; atoms [B, N] and bonds [B, N, N], whole numbers; time [B], 0 is noise
    and 1 is data, as in SemlaFlow; mask [B, N], True on atoms; past: a prediction with
    probabilities for logits, or None; twice [B]: predict first without a past and take the outcome
    as past, where True (self-conditioning, arXiv 2208.04202). Returns coords [B, N, 3], centred,
    and logits of atoms [B, N, 18], bonds [B, N, N, 5], symmetric, and charges [B, N, 7]; and the
    features [B, N, D] at `taps`. Rotation, reflection and renumbering carry over; padding changes
    nothing.
    """

    def __init__(self, config: SemlaConfig) -> None:
        super().__init__()
        self.config = config
        width, edge, kinds = config.width, config.edge, len(ATOMS)
        self.edge_in_proj = mlp(BONDS * (1 + config.self_cond), edge, edge)
        self.edge_out_proj = mlp(edge, edge, BONDS)
        self.size_emb = nn.Embedding(config.max_atoms, config.size_emb)
        given = 1 + kinds * (1 + config.self_cond) + config.size_emb
        self.feat_proj = mlp(given, width, width)
        self.dynamics = Dynamics(config)
        self.atom_classifier_head = mlp(width, width, kinds)
        self.charge_classifier_head = mlp(width, width, len(CHARGES))
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.xavier_uniform_(weight)

    def taps(self) -> list[Tap]:
        """One after each layer."""
        return [Tap(self.config.width, None) for _ in range(self.config.layers)]

    def repeated(self) -> list[nn.Module]:
        """The layers."""
        return list(self.dynamics.layers)

    def forward(
        self,
        coords: Tensor,
        atoms: Tensor,
        bonds: Tensor,
        time: Tensor,
        mask: Tensor,
        past: dict[str, Tensor] | None = None,
        twice: Tensor | None = None,
        taps: Collection[int] = (),
    ) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
        atoms, bonds = F.one_hot(atoms, len(ATOMS)), F.one_hot(bonds, BONDS)
        given = (coords, atoms.to(coords.dtype), bonds.to(coords.dtype), time, mask)
        if self.config.self_cond and past is None:
            past = {"coords": 0 * given[0], "atoms": 0 * given[1], "bonds": 0 * given[2]}
            if twice is not None:
                with torch.no_grad():
                    first = probable(self._predict(*given, past, ())[0])
                past = {
                    name: first[name] * twice.view(-1, *[1] * (first[name].ndim - 1))
                    for name in past
                }
        return self._predict(*given, past, taps)

    def _predict(
        self,
        coords: Tensor,
        atoms: Tensor,
        bonds: Tensor,
        time: Tensor,
        mask: Tensor,
        past: dict[str, Tensor] | None,
        taps: Collection[int],
    ) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
        shape = (*mask.shape, -1)
        size = self.size_emb(mask.sum(1, keepdim=True)).expand(shape)
        features = [time[:, None, None].expand(shape), atoms, size]
        places = [coords]
        if self.config.self_cond and past is not None:
            features.append(past["atoms"])
            places.append(past["coords"])
            bonds = torch.cat([bonds, past["bonds"]], -1)
        x, h, edges, states = self.dynamics(
            torch.stack(places, -1),
            self.feat_proj(torch.cat(features, -1)),
            mask,
            self.edge_in_proj(bonds),
            taps,
        )
        found = {
            "coords": centred(x, mask),
            "atoms": self.atom_classifier_head(h),
            "bonds": self.edge_out_proj(edges + edges.transpose(1, 2)),
            "charges": self.charge_classifier_head(h),
        }
        return found, states


def probable(prediction: dict[str, Tensor]) -> dict[str, Tensor]:
    """A prediction with probabilities in place of logits."""
    return {k: v if k == "coords" else v.softmax(-1) for k, v in prediction.items()}


def released(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The state dict of a Lightning file of SemlaFlow or REED as groups: "model" and "ema".

    REED's projectors, which lie inside its net, get the names of projectors; its time embedder,
    which takes no part, is left out.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for group, prefix in (("model", "gen."), ("ema", "ema_gen.module.")):
        for key, value in state.items():
            name = key.removeprefix(prefix).removeprefix("_orig_mod.")
            if key.startswith(prefix) and not name.startswith("dynamics.time_embedder."):
                name = name.replace("dynamics.projectors.", "projectors.")
                found.setdefault(group, {})[name] = value
    return found
