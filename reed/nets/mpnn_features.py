"""The graph of a protein backbone: nearest residues, and features of the edges between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The distances that an edge has, as (atom of the residue, atom of its neighbour). The order is that
# of the columns of the public edge_embedding.
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
_BASES, _NEAREST, _FARTHEST = 16, 2.0, 22.0  # radial basis functions, and their centres in A
_REACH = 32  # offsets along the chain are cut off here
_POSITIONS = 16  # channels that encode the offset


def gather_nodes(nodes: Tensor, index: Tensor) -> Tensor:
    """Return the states of the neighbours, nodes [B, L, C], index [B, L, K] -> [B, L, K, C]."""
    batch, length, width = nodes.shape
    first = torch.arange(0, batch * length, length, device=index.device).view(-1, 1, 1)
    flat = nodes.reshape(-1, width).index_select(0, (index + first).flatten())
    return flat.view(*index.shape, width)


def nearest(ca: Tensor, resolved: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k nearest resolved residues by the distance of CA atoms; the first is the residue.

    Args:
        ca: Coordinates of CA in angstroms, [B, L, 3].
        resolved: Residues that have coordinates, [B, L]; False for padding.
        k: Number of neighbours.

    Returns:
        Index of the neighbours, [B, L, min(k, L)], and which of these edges are real. An edge is
        real if both residues are resolved; otherwise its index is that of the residue itself.
    """
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(ca, ca, compute_mode=exact)  # [B, L, L]
    joined = resolved[:, :, None] & resolved[:, None, :]
    distance = distance.masked_fill(~joined, float("inf"))
    smallest = distance.topk(min(k, ca.shape[1]), largest=False)
    real = smallest.values.isfinite()
    itself = torch.arange(ca.shape[1], device=ca.device).view(1, -1, 1)
    return torch.where(real, smallest.indices, itself), real


def with_beta_carbon(coords: Tensor) -> Tensor:
    """Add the CB of an ideal residue: N, CA, C, O [..., 4, 3] -> N, CA, C, O, CB [..., 5, 3].

    The constants and the frame are those of ProteinMPNN (Dauparas et al. 2022), released code.
    """
    n, ca, c = coords[..., 0, :], coords[..., 1, :], coords[..., 2, :]
    b, c = ca - n, c - ca
    cb = ca - 0.58273431 * torch.linalg.cross(b, c) + 0.56802827 * b - 0.54067466 * c
    return torch.cat([coords, cb.unsqueeze(-2)], -2)


class _Positions(nn.Module):
    """Embedding of offsets along the chain; another chain is one more code. Key: linear."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * _REACH + 2, _POSITIONS)

    def forward(self, offset: Tensor, same_chain: Tensor) -> Tensor:
        code = (offset + _REACH).clamp(0, 2 * _REACH)
        code = torch.where(same_chain, code, 2 * _REACH + 1)
        # The same as a linear layer on one-hot vectors.
        return F.embedding(code, self.linear.weight.T) + self.linear.bias


class ProteinFeatures(nn.Module):
    """The graph of a backbone with distances as edge features, which do not change with motion.

    Distances are computed for the k neighbours only, not for all L x L pairs, with the same result.
    Keys: embeddings.linear, edge_embedding, norm_edges. Source: ProteinMPNN (Dauparas et al. 2022),
    supplement and released code.
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
        """Return edges [B, L, K, hidden], and index and real as `nearest` returns them.

        Args:
            coords: N, CA, C and O in angstroms, [B, L, 4, 3], finite.
            resolved: False for padding and for residues without coordinates, [B, L].
            number: Positions along the chain, [B, L].
            chain: Numbers of the chains, [B, L].
        """
        with torch.autocast(coords.device.type, enabled=False):
            index, real = nearest(coords[:, :, 1], resolved, self.neighbours)
            radial = _radial(_distances(with_beta_carbon(coords), index))  # [B, L, K, 400]

        positions = torch.stack([number, chain], -1)
        offset, other_chain = (positions[:, :, None] - gather_nodes(positions, index)).unbind(-1)
        embedded = self.embeddings(offset, other_chain == 0)

        # Two products instead of one, so that the largest array of the net is not copied.
        for_position, for_radial = self.edge_embedding.weight.split(
            [_POSITIONS, radial.shape[-1]], dim=1
        )
        edges = F.linear(embedded, for_position) + F.linear(radial, for_radial)
        return self.norm_edges(edges), index, real


def _distances(atoms: Tensor, index: Tensor) -> Tensor:
    """Return distances of atoms [B, L, 5, 3] to the atoms of the neighbours, [B, L, K, 25] in A."""
    neighbours = gather_nodes(atoms.flatten(2), index).unflatten(-1, (5, 3))  # [B, L, K, 5, 3]
    first, second = (list(side) for side in zip(*ATOM_PAIRS, strict=True))
    difference = atoms[:, :, None, first] - neighbours[:, :, :, second]
    return (difference.square().sum(-1) + 1e-6).sqrt()


def _radial(distance: Tensor) -> Tensor:
    """Return Gaussian radial basis functions of distances, [..., 25] -> [..., 25 * 16]."""
    centres = torch.linspace(_NEAREST, _FARTHEST, _BASES, device=distance.device)
    width = (_FARTHEST - _NEAREST) / _BASES
    offset = (distance[..., None] - centres) / width  # in place below: no gradient is needed
    return offset.square_().neg_().exp_().flatten(-2)
