"""Semla: an E(3)-equivariant attention net over molecules, with SemlaFlow's state-dict names.

Source: SemlaFlow (arXiv 2406.07266) and its released code, whose 428 entries load key for key.
Every atom has invariant features and several sets of coordinates. Messages between all pairs of
atoms update both by attention. Three things differ from the released code: a single atom attends to
nothing (there: to padding), distances come from a Gram matrix, and the weights of a CoordNorm are
initialised with one.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reed.chem.molecule import ATOMS, BONDS, CHARGES
from reed.nets import Extra, Net, Tap, semla_drawing
from reed.nets.layers import is_drawing
from reed.nets.semla_layers import (
    BondRefine,
    CoordNorm,
    Layer,
    NodeFeedForward,
    SemlaConfig,
    centred,
    mlp,
)


class Dynamics(nn.Module):
    """The layers of the net, between the embedding of its inputs and the heads."""

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
        """Return coordinates [B, N, 3], features, edges, and tap -> features after that layer.

        Args:
            coords: Coordinates, and those of the last prediction, [B, N, 3, 1 or 2].
            h: Features, [B, N, D].
            mask: Real atoms are True, [B, N].
            edges: Features of the bonds, [B, N, N, E].
            taps: Layers whose features are returned, counted from 1.
        """
        pairs = (
            mask[:, :, None]
            & mask[:, None]
            & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        )
        x = self.coord_proj(coords).movedim(-1, 1) * mask[:, None, :, None]

        # Only the first layer gets edges, and only those of the last layer are used.
        states, new_edges = {}, edges
        for number, layer in enumerate(self.layers, 1):
            x, h, new_edges = layer(x, h, pairs, mask, edges if number == 1 else None)
            if number in taps:
                states[number] = h

        x, h = self.final_ff_block(x, h, mask)
        out = self.coord_head(self.coord_norm(x, mask).transpose(1, -1)).transpose(1, -1)
        out = out.squeeze(1)
        edges = self.bond_norm(self.refine_layer(out, h, mask, new_edges))
        return out, self.feat_norm(h), edges, states


class Semla(Net):
    """Semla: a noised molecule -> the molecule without noise.

    The net is equivariant to rotation, reflection and renumbering, and padding changes nothing.
    """

    enters, beside = ("vector",), "together"

    def __init__(self, config: SemlaConfig) -> None:
        super().__init__()
        self.config = config
        width, edge, kinds = config.width, config.edge, len(ATOMS)
        self.edge_in_proj = mlp(BONDS * (1 + config.self_cond), edge, edge)
        self.edge_out_proj = mlp(edge, edge, BONDS)
        self.size_emb = nn.Embedding(config.max_atoms, config.size_emb)
        inputs = 1 + kinds * (1 + config.self_cond) + config.size_emb
        self.feat_proj = mlp(inputs, width, width)
        self.dynamics = Dynamics(config)
        self.atom_classifier_head = mlp(width, width, kinds)
        self.charge_classifier_head = mlp(width, width, len(CHARGES))
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.xavier_uniform_(weight)

    def taps(self) -> list[Tap]:
        """Return one tap for each layer."""
        return [Tap(self.config.width, None) for _ in range(self.config.layers)]

    def repeated(self) -> list[nn.Module]:
        """Return the layers, which torch.compile compiles one by one."""
        return list(self.dynamics.layers)

    @property
    def widths(self) -> tuple[int, int]:
        """Channels of what enters, and of the embedding of a number of atoms."""
        return self.config.width, self.config.size_emb

    def given(self, **inputs: Any) -> Tensor:
        """Return the embeddings of the numbers of atoms, [B, G]."""
        return self.size_emb(inputs["mask"].sum(1))

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
        extra: Extra | None = None,
    ) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
        """Predict the molecule without noise.

        Args:
            coords: Coordinates, [B, N, 3].
            atoms: Categories of atoms, int64 [B, N].
            bonds: Kinds of bonds, int64 [B, N, N], symmetric.
            time: Time of each sample, [B]; 0 is noise and 1 is data, as in SemlaFlow.
            mask: Real atoms are True, [B, N].
            past: The last prediction, with probabilities instead of logits; or None.
            twice: Samples that are predicted twice, the second time with the first prediction as
                `past`, bool [B] (self-conditioning, arXiv 2208.04202).
            taps: Layers whose features are returned, counted from 1.
            extra: What guides add to the features of every atom.

        Returns:
            The prediction: centred "coords" [B, N, 3] and the logits of "atoms" [B, N, 18], "bonds"
            [B, N, N, 5], symmetric, and "charges" [B, N, 7]; and tap -> features [B, N, D].
        """
        atoms, bonds = F.one_hot(atoms, len(ATOMS)), F.one_hot(bonds, BONDS)
        inputs = (coords, atoms.to(coords.dtype), bonds.to(coords.dtype), time, mask)

        # No gradient passes through the first prediction, as in the paper.
        if self.config.self_cond and past is None:
            past = {"coords": 0 * inputs[0], "atoms": 0 * inputs[1], "bonds": 0 * inputs[2]}
            if twice is not None:
                with torch.no_grad():
                    first = probable(self._predict(*inputs, past, (), extra)[0])
                # With torch 2.8, autocast would give the second prediction the weights that it
                # has cast here, without a gradient (findings/autocast-keeps-casts-...).
                torch.clear_autocast_cache()
                past = {
                    name: first[name] * twice.view(-1, *[1] * (first[name].ndim - 1))
                    for name in past
                }

        return self._predict(*inputs, past, taps, extra)

    def _predict(
        self,
        coords: Tensor,
        atoms: Tensor,
        bonds: Tensor,
        time: Tensor,
        mask: Tensor,
        past: dict[str, Tensor] | None,
        taps: Collection[int],
        extra: Extra | None,
    ) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
        """Predict once, from one-hot atoms [B, N, 18] and bonds [B, N, N, 5]."""
        shape = (*mask.shape, -1)
        size = self.size_emb(mask.sum(1, keepdim=True)).expand(shape)
        features = [time[:, None, None].expand(shape), atoms, size]
        all_coords = [coords]
        if self.config.self_cond and past is not None:
            features.append(past["atoms"])
            all_coords.append(past["coords"])
            bonds = torch.cat([bonds, past["bonds"]], -1)

        h = self.feat_proj(torch.cat(features, -1))
        if extra is not None and extra.vector is not None:
            h = h + extra.vector.unsqueeze(1)
        drawing = is_drawing(coords)
        edges = (
            semla_drawing.bonds_in(self.edge_in_proj, bonds)
            if drawing
            else self.edge_in_proj(bonds)
        )
        x, h, edges, states = self.dynamics(torch.stack(all_coords, -1), h, mask, edges, taps)

        # The sum with the transpose makes the logits of bonds symmetric.
        if drawing:
            logits = semla_drawing.bonds_out(self.edge_out_proj, edges)
        else:
            logits = self.edge_out_proj(edges + edges.transpose(1, 2))
        prediction = {
            "coords": centred(x, mask),
            "atoms": self.atom_classifier_head(h),
            "bonds": logits,
            "charges": self.charge_classifier_head(h),
        }
        return prediction, states


def probable(prediction: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a prediction with probabilities instead of logits."""
    if is_drawing(prediction["coords"]):
        softmax = semla_drawing.softmax
    else:
        softmax = functools.partial(torch.softmax, dim=-1)
    return {k: v if k == "coords" else softmax(v) for k, v in prediction.items()}


def released(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Split the state dict of a Lightning file of SemlaFlow or REED into "model" and "ema".

    REED's projectors, which are inside its net, are renamed to `projectors.<i>`. Its time embedder,
    which is not used, is left out.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for group, prefix in (("model", "gen."), ("ema", "ema_gen.module.")):
        for key, value in state.items():
            name = key.removeprefix(prefix).removeprefix("_orig_mod.")
            if key.startswith(prefix) and not name.startswith("dynamics.time_embedder."):
                name = name.replace("dynamics.projectors.", "projectors.")
                groups.setdefault(group, {})[name] = value
    return groups
