"""Backbones with their sequences, as designing and measuring take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reed.nets.mpnn import LETTERS


@dataclass(frozen=True)
class Structure:
    """A backbone and its sequence.

    Attributes:
        name: Name of the structure.
        coords: N, CA, C and O in angstroms, float32 [L, 4, 3]; NaN for a missing atom.
        residue: Letters as indices into ALPHABET, [L].
        number: Positions along the chain, [L].
        chain: Numbers of the chains, [L].
    """

    name: str
    coords: np.ndarray
    residue: np.ndarray
    number: np.ndarray
    chain: np.ndarray

    @property
    def resolved(self) -> np.ndarray:
        """Residues with all four atoms, bool [L]."""
        return np.asarray(np.isfinite(self.coords).all((1, 2)))

    @property
    def counts(self) -> np.ndarray:
        """Residues that recovery is measured on: resolved and not X, bool [L]."""
        return self.resolved & (self.residue < LETTERS)


def collated(structures: tuple[Structure, ...], device: Any) -> tuple[dict[str, Any], Tensor]:
    """Return the padded arguments of `MPNN.encode` for structures, and their residues [B, L]."""
    longest = max(len(structure.residue) for structure in structures)
    coords = np.zeros((len(structures), longest, 4, 3), np.float32)
    resolved = np.zeros((len(structures), longest), bool)
    integers = np.zeros((3, len(structures), longest), np.int64)
    for row, structure in enumerate(structures):
        length = len(structure.residue)
        coords[row, :length] = np.where(structure.resolved[:, None, None], structure.coords, 0)
        resolved[row, :length] = structure.resolved
        integers[:, row, :length] = structure.number, structure.chain, structure.residue
    tensors = [torch.from_numpy(array).to(device) for array in (coords, resolved, *integers)]
    return dict(zip(("coords", "resolved", "number", "chain"), tensors, strict=False)), tensors[-1]
