"""Teachers of generated proteins: exact descriptors of structure, and the best there can be.

Nothing here has weights. The descriptors are those that a net which is given the coordinates would
have to work out: secondary structure, burial, hydrogen bonds, and the company that residues keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.chem.protein import (
    ALPHABET,
    COIL,
    HELIX,
    HYDROPATHY,
    NEIGHBOURS,
    STRAND,
    phi_psi,
    secondary,
    virtual_beta,
)
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless
from reed.encoders.protein.chain import at_neighbours, backbone, residues

RADII = (6.0, 8.0, 10.0, 12.0, 14.0)  # angstroms between CB, within which neighbours are counted
CENTRES, WIDTH = np.linspace(2.0, 20.0, 12), 1.5  # angstroms, of the radial functions of a pair
CHARGE = dict.fromkeys("DE", -1.0) | dict.fromkeys("KR", 1.0)
TOKEN, PAIR = 33, 22  # channels


@ENCODERS.register("toy-structure")
class ToyStructure(Weightless):
    """Descriptors of local structure, of residues, of pairs at the neighbours, and of the chain.

    token: [L, 33]; pair: [L, 48, 22], at chain/neighbours; sample: [66], mean and deviation of the
    tokens. All are whitened over the data set by their codec, which keeps fewer channels. BadSample
    where an atom is missing.
    """

    reads = ("coords", "sequence", "chain/neighbours")
    fields = (
        Field("token", "token", (None, TOKEN), "pca:24+int8"),
        Field("pair", "pair", (None, NEIGHBOURS, PAIR), "pca:16+int8"),
        Field("sample", "sample", (2 * TOKEN,), "pca:8+int8"),
    )
    licence = "MIT"
    batch_size = 64
    version = "1"  # raise it when a descriptor changes

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """One array per field and sample."""
        found: dict[str, list[np.ndarray]] = {"token": [], "pair": [], "sample": []}
        for sample in samples:
            coords, letters = backbone(sample).astype(np.float64), residues(sample["sequence"])
            if not np.isfinite(coords).all() or (letters == 20).any():
                raise BadSample("has a missing atom or an X, which a generated protein has not")
            chain = _Chain(coords, letters)
            tokens = chain.tokens()
            found["token"].append(tokens.astype(np.float32))
            pairs = at_neighbours(chain.pairs(), np.asarray(sample["chain/neighbours"]))
            found["pair"].append(pairs.astype(np.float32))
            whole = np.concatenate([tokens.mean(0), tokens.std(0)])
            found["sample"].append(whole.astype(np.float32))
        return found


@ENCODERS.register("toy-bayes")
class ToyBayes(Weightless):
    """The best that any model can do on generated proteins.

    bayes: the probability that the best guess of a residue is right, float32 [L]; its mean over
    residues is the best recovery there can be; distribution: of the 20 letters, float32 [L, 20].
    """

    reads = ("distribution",)
    fields = (Field("bayes", "data", (None,)), Field("distribution", "data", (None, 20)))
    licence = "MIT"

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """bayes and distribution of each sample."""
        odds = [np.asarray(sample["distribution"], np.float32) for sample in samples]
        return {"bayes": [each.max(1) for each in odds], "distribution": odds}


class _Chain:
    """The parts that descriptors are made of, each an array over residues or over pairs."""

    def __init__(self, coords: np.ndarray, letters: np.ndarray) -> None:
        self._coords, self._length = coords, len(coords)
        self._beta = virtual_beta(coords)
        self._apart = np.linalg.norm(self._beta[:, None] - self._beta[None], axis=-1)  # [L, L]
        self._energy = bond_energies(coords)
        angles = phi_psi(coords)
        waves = np.concatenate([np.sin(angles), np.cos(angles)], 1)
        self._waves = np.nan_to_num(waves)  # at the ends, where there is no angle
        self._kind = np.eye(3)[secondary(angles)][:, [COIL, HELIX, STRAND]]
        charge = np.array([CHARGE.get(letter, 0.0) for letter in ALPHABET[:20]])
        self._nature = np.stack([np.array(HYDROPATHY) / 4.5, charge], 1)[letters]  # [L, 2]

    def tokens(self) -> np.ndarray:
        """Torsions here and beside, elements, burial, bonds, company: [L, TOKEN]."""
        counts = [(self._apart < radius).sum(1) - 1.0 for radius in RADII]
        burial = (counts[2] - counts[2].mean()) / (counts[2].std() + 1e-6)
        weight = np.exp(-np.square(self._apart / 8.0)) * (1 - np.eye(self._length))
        company = weight @ self._nature / (weight.sum(1, keepdims=True) + 1e-6)
        bonded = np.stack([self._energy.min(0), self._energy.min(1)], 1).clip(-3, 0)
        turns = [self._at(k) for k in (-1, 1)]
        smooth = np.stack([self._kind[max(0, i - 3) : i + 4].mean(0) for i in range(self._length)])
        parts = [
            self._waves,
            *turns,
            self._kind,
            smooth,
            np.log1p(np.stack(counts, 1)),
            burial[:, None],
            bonded,
            company,
            self._bends(),
            self._nature[:, :1],
        ]
        return np.concatenate(parts, 1)

    def pairs(self) -> np.ndarray:
        """Distance, separation, direction, bonds, burial, nature: [L, L, PAIR]."""
        radial = np.exp(-np.square((self._apart[..., None] - CENTRES) / WIDTH))
        apart = np.subtract.outer(*[np.arange(self._length)] * 2)
        frames = _frames(self._coords)
        ca = self._coords[:, 1]
        toward = np.einsum("ixk,ijx->ijk", frames, ca[None] - ca[:, None])
        toward = toward / (np.linalg.norm(toward, axis=-1, keepdims=True) + 1e-6)
        side = self._beta - ca
        facing = np.einsum("ix,jx->ij", side, side) / 2.3  # |CB - CA|^2 is 1.53^2
        energy = self._energy.clip(-3, 0)
        nature = np.einsum("ic,jc->ijc", self._nature, self._nature)
        single = [np.sign(apart), np.log1p(np.abs(apart)), facing, energy, energy.T]
        return np.concatenate([radial, toward, nature, np.stack(single, -1)], -1)

    def _at(self, offset: int) -> np.ndarray:
        """The torsions of the residue `offset` further on, zero beyond the ends."""
        padded = np.pad(self._waves, ((1, 1), (0, 0)))
        return padded[1 + offset : 1 + offset + self._length]

    def _bends(self) -> np.ndarray:
        """CA to CA of residues 3 and 4 apart on both sides, in tens of angstroms, [L, 4]."""
        ca, places = self._coords[:, 1], np.arange(self._length)
        ends = [np.clip(places + k, 0, self._length - 1) for k in (-4, -3, 3, 4)]
        return np.stack([np.linalg.norm(ca[end] - ca, axis=1) / 10 for end in ends], 1)


def bond_energies(coords: np.ndarray) -> np.ndarray:
    """The energy of a hydrogen bond from the NH of one residue to the CO of another, kcal/mol.

    [L, L], rows donate; zero for the first residue, which has no H placed, and for neighbours.
    Source: Kabsch and Sander, 1983 (DSSP), 27.9 kcal/mol (1/ON + 1/CH - 1/OH - 1/CN).
    """
    n, _, c, o = np.moveaxis(coords, 1, 0)
    back = c[:-1] - o[:-1]
    hydrogen = n.copy()
    hydrogen[1:] += back / np.linalg.norm(back, axis=-1, keepdims=True)  # 1 angstrom, against C=O

    def inverse(donor: np.ndarray, acceptor: np.ndarray) -> np.ndarray:
        return 1 / np.linalg.norm(donor[:, None] - acceptor[None], axis=-1).clip(0.5)

    found = 27.9 * (inverse(n, o) + inverse(hydrogen, c) - inverse(hydrogen, o) - inverse(n, c))
    beside = np.abs(np.subtract.outer(*[np.arange(len(coords))] * 2)) < 2
    found[beside] = 0
    found[0] = 0
    return found


def _frames(coords: np.ndarray) -> np.ndarray:
    """An orthonormal frame at each CA, its axes the columns: [L, 3, 3]."""
    n, ca, c = np.moveaxis(coords[:, :3], 1, 0)
    first = (c - ca) / np.linalg.norm(c - ca, axis=-1, keepdims=True)
    other = (n - ca) - ((n - ca) * first).sum(-1, keepdims=True) * first
    second = other / np.linalg.norm(other, axis=-1, keepdims=True)
    return np.stack([first, second, np.cross(first, second)], -1)
