"""The graph of a protein backbone: nearest residues, and what an edge knows of their atoms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Distances of an edge, as (atom of the residue, atom of its neighbour) in N, CA, C, O, CB;
# the order is that of the columns of the public edge_embedding.
_N, _CA, _C, _O, _CB = range(5)
ATOM_PAIRS = (
    (_CA, _CA),
    (_N, _N),
    (_C, _C),
    (_O, _O),
    (_CB, _CB),
    (_CA, _N),
    (_CA, _C),
    (_CA, _O),
    (_CA, _CB),
    (_N, _C),
    (_N, _O),
    (_N, _CB),
    (_CB, _C),
    (_CB, _O),
    (_O, _C),
    (_N, _CA),
    (_C, _CA),
    (_O, _CA),
    (_CB, _CA),
    (_C, _N),
    (_O, _N),
    (_CB, _N),
    (_C, _CB),
    (_O, _CB),
    (_C, _O),
)
_BASES, _NEAREST, _FARTHEST = 16, 2.0, 22.0  # radial basis functions, centred over this many A
_REACH = 32  # offsets along the chain beyond this look alike
_POSITIONS = 16  # channels that encode the offset


def gather_nodes(nodes: Tensor, index: Tensor) -> Tensor:
    """The states of the neighbours: nodes [B, L, C], index [B, L, K] -> [B, L, K, C]."""
    batch, length, width = nodes.shape
    first = torch.arange(0, batch * length, length, device=index.device).view(-1, 1, 1)
    flat = nodes.reshape(-1, width).index_select(0, (index + first).flatten())
    return flat.view(*index.shape, width)


def nearest(ca: Tensor, resolved: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k resolved residues nearest by CA, the residue itself first.

    ca: [B, L, 3] in A; resolved: [B, L]. Returns index [B, L, min(k, L)] and whether that edge is
    real, which it is only between two resolved residues: padding is nobody's neighbour, and where
    there are too few the index is the residue's own.
    """
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(ca, ca, compute_mode=exact)  # [B, L, L]
    joined = resolved[:, :, None] & resolved[:, None, :]
    distance = distance.masked_fill(~joined, float("inf"))
    found = distance.topk(min(k, ca.shape[1]), largest=False)
    real = found.values.isfinite()
    own = torch.arange(ca.shape[1], device=ca.device).view(1, -1, 1)
    return torch.where(real, found.indices, own), real


def with_beta_carbon(coords: Tensor) -> Tensor:
    """N, CA, C, O [..., 4, 3] -> N, CA, C, O, CB [..., 5, 3], CB where an ideal residue has it.

    Source: ProteinMPNN (Dauparas et al. 2022), released code: constants and frame.
    """
    n, ca, c = coords[..., 0, :], coords[..., 1, :], coords[..., 2, :]
    b, c = ca - n, c - ca
    cb = ca - 0.58273431 * torch.linalg.cross(b, c) + 0.56802827 * b - 0.54067466 * c
    return torch.cat([coords, cb.unsqueeze(-2)], -2)


class _Positions(nn.Module):
    """Offset along the chain -> channels, one more code for another chain. Key: linear."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * _REACH + 2, _POSITIONS)

    def forward(self, offset: Tensor, same_chain: Tensor) -> Tensor:
        code = (offset + _REACH).clamp(0, 2 * _REACH)
        code = torch.where(same_chain, code, 2 * _REACH + 1)
        # a row of the transposed weight is what a one-hot vector would pick out
        return F.embedding(code, self.linear.weight.T) + self.linear.bias


class ProteinFeatures(nn.Module):
    """Backbones to a graph and its edge features; distances only, so it is invariant to motion.

    coords: [B, L, 4, 3] (N, CA, C, O) in A, finite; resolved: [B, L], False for padding and for
    residues without coordinates; number, chain: [B, L]. Returns edges [B, L, K, hidden], index
    and real as `nearest` does. Keys: embeddings.linear, edge_embedding, norm_edges.
    Source: ProteinMPNN (Dauparas et al. 2022), supplement and released code. Distances are taken
    of the k neighbours only, not of all L x L pairs, which gives the same numbers.
    """

    def __init__(self, hidden: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.embeddings = _Positions()
        width = _POSITIONS + _BASES * len(ATOM_PAIRS)
        self.edge_embedding = nn.Linear(width, hidden, bias=False)
        self.norm_edges = nn.LayerNorm(hidden)

    def forward(
        self, coords: Tensor, resolved: Tensor, number: Tensor, chain: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(coords.device.type, enabled=False):
            index, real = nearest(coords[:, :, 1], resolved, self.neighbours)
            radial = _radial(_distances(with_beta_carbon(coords), index))  # [B, L, K, 400]
        places = torch.stack([number, chain], -1)
        there = gather_nodes(places, index)  # [B, L, K, 2]
        offset, other = (places[:, :, None] - there).unbind(-1)
        positions = self.embeddings(offset, other == 0)
        near, far = self.edge_embedding.weight.split([_POSITIONS, radial.shape[-1]], dim=1)
        # one product for each, so that the widest array of the net is never copied
        edges = F.linear(positions, near) + F.linear(radial, far)
        return self.norm_edges(edges), index, real


def _distances(atoms: Tensor, index: Tensor) -> Tensor:
    """Between the atoms [B, L, 5, 3] of every residue and its neighbours: [B, L, K, 25] in A."""
    there = gather_nodes(atoms.flatten(2), index).unflatten(-1, (5, 3))  # [B, L, K, 5, 3]
    ours, theirs = (list(side) for side in zip(*ATOM_PAIRS, strict=True))
    between = atoms[:, :, None, ours] - there[:, :, :, theirs]
    return (between.square().sum(-1) + 1e-6).sqrt()


def _radial(distance: Tensor) -> Tensor:
    """Gaussian radial basis functions, [..., 25] -> [..., 25 * 16]."""
    centres = torch.linspace(_NEAREST, _FARTHEST, _BASES, device=distance.device)
    width = (_FARTHEST - _NEAREST) / _BASES
    offset = (distance[..., None] - centres) / width  # no gradient is ever asked of it
    return offset.square_().neg_().exp_().flatten(-2)
