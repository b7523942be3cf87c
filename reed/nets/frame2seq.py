"""The net of Frame2seq, an inverse folding model, on one chain whose letters are all masked.

Source: Akpinaroglu et al., 2023, "Structure-conditioned masked language models"; package frame2seq
0.0.8 (MIT). Attention over invariant points: Jumper et al., 2021, algorithm 22. Names of parameters
are those of the public files.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LETTERS = 21  # of the output, in alphabetical order of the three-letter names, and X
REACH = 32  # positions between two residues up to which they are told apart
BINS, FARTHEST = 24, 12.0  # radial functions of a distance, and the largest of their centres in Å
ATOMS = 4  # N, CA, C and a virtual CB
HEADS, QUERIED, VALUES = 4, 4, 8  # heads of the attention, points of its keys and of its values
FAR = 1e5  # subtracted from the logits of residues that are not there
EPS = 1e-8
CB = (1.522, 1.927, -2.143)  # length to CA, and angle and torsion with N and C, in radians


class Frame2seq(nn.Module):
    """States of the residues of one chain, and logits of their letters."""

    def __init__(self, dim: int, depth: int, wide: int) -> None:
        """Make the layers.

        Args:
            dim: Channels of residues and of pairs.
            depth: Number of layers.
            wide: Factor of the width within a transition.
        """
        super().__init__()
        self.sequence_to_single = nn.Linear(6 + dim, dim)
        self.edge_to_pair = nn.Linear(ATOMS**2 * BINS + 2 * REACH + 1, dim)
        self.single_to_sequence = nn.Linear(dim, LETTERS)
        self.input_sequence_to_single = nn.Linear(LETTERS, dim)  # of letters that are given
        self.input_sequence_layer_norm = nn.LayerNorm(dim)
        layers = []
        for i in range(depth):
            parts = [PointAttention(dim), nn.Identity(), nn.LayerNorm(dim)]
            within = [Transition(dim * wide)]
            if wide > 1:
                within = [nn.Linear(dim, dim * wide), *within, nn.Linear(dim * wide, dim)]
            pairs = [PairTransition(dim)] if i < depth - 1 else []
            layers.append(nn.ModuleList([*parts, *within, *pairs]))
        self.layers = nn.ModuleList(layers)

    def forward(self, atoms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states [L, dim] and the logits [L, 21] of a chain.

        Args:
            atoms: N, CA and C in angstroms, [L, 3, 3]; NaN where not observed.
        """
        seen = atoms.isfinite().flatten(1).all(1)
        atoms = atoms.nan_to_num(0.0)
        length, dim = len(atoms), self.single_to_sequence.in_features

        # A chain without letters adds nothing but the offset of their norm.
        s = self.sequence_to_single(torch.cat([positions(length, dim).to(atoms), turns(atoms)], 1))
        s = s + self.input_sequence_layer_norm.bias
        z = self.edge_to_pair(pair_features(with_cb(atoms)))
        frame = frames(atoms)

        for attention, _, norm, *within in self.layers:
            s = norm(s + attention(s, z, frame, seen))
            for part in within:
                if isinstance(part, PairTransition):
                    z = part(s, z)
                else:
                    s = part(s)
        return s, self.single_to_sequence(s)


class PointAttention(nn.Module):
    """Attention by queries and keys, by pairs, and by points in the frames of the residues."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear_q, self.linear_kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.linear_q_points = nn.Linear(dim, HEADS * QUERIED * 3)
        self.linear_kv_points = nn.Linear(dim, HEADS * (QUERIED + VALUES) * 3)
        self.linear_b, self.head_weights = nn.Linear(dim, HEADS), nn.Parameter(torch.zeros(HEADS))
        self.linear_out = nn.Linear(HEADS * (dim + dim // HEADS + 4 * VALUES), dim)

    def forward(self, s: Tensor, z: Tensor, frame: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        """Return what is added to the states.

        Args:
            s: States, [L, dim].
            z: Pairs, [L, L, dim].
            frame: Rotations [L, 3, 3] and origins [L, 3].
            seen: Which residues are there, [L].
        """
        length, (turn, origin) = len(s), frame
        q = self.linear_q(s).view(length, HEADS, -1)
        k, v = self.linear_kv(s).view(length, HEADS, -1).chunk(2, -1)
        q_points = _placed(self.linear_q_points(s), frame)
        k_points, v_points = _placed(self.linear_kv_points(s), frame).split([QUERIED, VALUES], 2)

        # The three terms have the same variance at first, hence the thirds.
        logits = torch.einsum("ihc,jhc->hij", q, k) * math.sqrt(1 / (3 * q.shape[-1]))
        logits = logits + math.sqrt(1 / 3) * self.linear_b(z).permute(2, 0, 1)
        apart = (q_points[:, None] - k_points[None]).square().sum((-1, -2))  # [L, L, heads]
        weight = F.softplus(self.head_weights) * math.sqrt(1 / (3 * QUERIED * 9 / 2))
        both = (seen[:, None] & seen[None]).to(s)
        logits = logits - 0.5 * (apart * weight).permute(2, 0, 1) + FAR * (both - 1)
        share = logits.softmax(-1)

        # Points go back to the frame of the residue that looks at them.
        found = torch.einsum("hij,jhpx->ihpx", share, v_points) - origin[:, None, None]
        found = torch.einsum("ixy,ihpx->ihpy", turn, found).flatten(1, 2)
        norms = (found.square().sum(-1) + EPS).sqrt()
        values = torch.einsum("hij,jhc->ihc", share, v).flatten(1)
        pairs = torch.einsum("hij,ijc->ihc", share, z).flatten(1)
        return self.linear_out(torch.cat([values, *found.unbind(-1), norms, pairs], 1))


def _placed(flat: Tensor, frame: tuple[Tensor, Tensor]) -> Tensor:
    """Return points in space, [L, heads, points, 3], from those in frames, [L, 3 * heads * ...]."""
    turn, origin = frame
    local = torch.stack(flat.chunk(3, -1), -1)  # [L, heads * points, 3]
    placed = torch.einsum("ixy,ipy->ipx", turn, local) + origin[:, None]
    return placed.unflatten(1, (HEADS, -1))


class Transition(nn.Module):
    """Three linear layers beside the identity, and a norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        parts = {f"linear_{i}": nn.Linear(dim, dim) for i in (1, 2, 3)}
        self.layers, self.layer_norm = nn.ModuleList([nn.ModuleDict(parts)]), nn.LayerNorm(dim)

    def forward(self, s: Tensor) -> Tensor:
        """Return the new states, [L, dim]."""
        (each,) = self.layers
        first, second, third = (each[f"linear_{i}"] for i in (1, 2, 3))
        return self.layer_norm(s + third(second(first(s).relu()).relu()))


class PairTransition(nn.Module):
    """New pairs from the pairs and the states of both residues."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.initial_embed = nn.Linear(dim, dim // 2)
        hidden = [nn.Linear(2 * dim, 2 * dim), nn.ReLU()]
        self.trunk = nn.Sequential(*hidden, nn.Linear(2 * dim, 2 * dim), nn.ReLU())
        self.final_layer, self.layer_norm = nn.Linear(2 * dim, dim), nn.LayerNorm(dim)

    def forward(self, s: Tensor, z: Tensor) -> Tensor:
        """Return the new pairs, [L, L, dim]."""
        each = self.initial_embed(s)
        shape = (len(s), len(s), -1)
        both = torch.cat([z, each[:, None].expand(shape), each[None].expand(shape)], -1)
        return self.layer_norm(self.final_layer(self.trunk(both) + both))


def with_cb(atoms: Tensor) -> Tensor:
    """Add a virtual CB to N, CA and C: [L, 3, 3] -> [L, 4, 3]; the origin where it is undefined."""
    n, ca, c = atoms.unbind(1)
    length, angle, torsion = CB
    along = F.normalize(n - ca, dim=-1)
    across = torch.linalg.cross(n - c, along)
    across = across / across.norm(dim=-1, keepdim=True)
    side = torch.linalg.cross(across, along)
    inward, outward = math.cos(angle), math.sin(angle)
    step = inward * along + outward * math.cos(torsion) * side
    cb = ca + length * (step - outward * math.sin(torsion) * across)
    return torch.cat([atoms, cb.nan_to_num(0.0)[:, None]], 1)


def pair_features(atoms: Tensor) -> Tensor:
    """Return radial functions of distances, and positions apart: [L, 4, 3] -> [L, L, 449]."""
    length, flat = len(atoms), atoms.flatten(0, 1)
    exact = "donot_use_mm_for_euclid_dist"  # the faster way gives an atom a distance to itself
    distances = torch.cdist(flat, flat, compute_mode=exact)
    centres = torch.linspace(0, FARTHEST, BINS, device=atoms.device)
    radial = torch.exp(-(((distances[..., None] - centres) / (FARTHEST / BINS)) ** 2))
    radial = radial.view(length, ATOMS, length, ATOMS, BINS).transpose(1, 2).flatten(2)
    place = torch.arange(length, device=atoms.device)
    apart = (place[:, None] - place[None]).clamp(-REACH, REACH) + REACH
    return torch.cat([radial, F.one_hot(apart, 2 * REACH + 1).to(radial)], -1)


def frames(atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Return rotations [L, 3, 3] and origins [L, 3]: x from N to CA, C in the plane of x and y."""
    n, ca, c = atoms.unbind(1)
    x = ca - n
    x = x / (x.square().sum(-1, keepdim=True) + EPS).sqrt()
    y = c - ca
    y = y - x * (x * y).sum(-1, keepdim=True)
    y = y / (y.square().sum(-1, keepdim=True) + EPS).sqrt()
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1), ca


def turns(atoms: Tensor, eps: float = 1e-7) -> Tensor:
    """Return cosines and sines of the torsions phi, psi and omega, [L, 6]; 1 and 0 at the ends."""
    steps = F.normalize(atoms.flatten(0, 1).diff(dim=0), dim=-1)
    normals = F.normalize(torch.linalg.cross(steps[:-1], steps[1:]), dim=-1)
    cosine = (normals[:-1] * normals[1:]).sum(-1).clamp(-1 + eps, 1 - eps)
    angle = torch.sign((steps[:-2] * normals[1:]).sum(-1)) * torch.acos(cosine)
    angle = F.pad(angle, (1, 2)).view(-1, 3)
    return torch.cat([angle.cos(), angle.sin()], 1)


def positions(length: int, dim: int) -> Tensor:
    """Return sines and cosines of the positions in turn, [L, dim]."""
    rate = torch.exp(torch.arange(0, dim, 2) * -(math.log(10000.0) / dim))
    angle = torch.arange(length)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
