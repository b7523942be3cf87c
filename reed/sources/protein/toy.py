"""The source ``proteins-toy``: generated backbones with sequences drawn given the structure.

The best possible recovery is known exactly: the letters are independent draws from a distribution
that the coordinates determine, so the best guess is right with the largest probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.chem.protein import (
    ALPHABET,
    COIL,
    HELIX,
    HYDROPATHY,
    STRAND,
    phi_psi,
    secondary,
    virtual_beta,
)
from reed.errors import ReedError
from reed.seeding import seed_for
from reed.sources import SOURCES
from reed.sources.protein.backbones import backbone

LETTERS = ALPHABET[:20]
# Conformational parameters x 100 in the order of LETTERS; Chou and Fasman, 1978.
PREFERENCE = {
    COIL: "66 119 146 74 60 156 95 47 101 59 60 156 152 98 95 143 96 50 96 114",
    HELIX: "142 70 101 151 113 57 100 108 114 121 145 67 57 111 98 77 83 106 108 69",
    STRAND: "83 119 54 37 138 75 87 160 74 130 105 89 55 110 93 75 119 170 137 147",
}
BACKGROUND = (  # per cent in Swiss-Prot, in the order of LETTERS
    8.25,
    1.38,
    5.46,
    6.72,
    3.86,
    7.07,
    2.27,
    5.91,
    5.80,
    9.65,
    2.41,
    4.06,
    4.74,
    3.93,
    5.53,
    6.65,
    5.36,
    6.86,
    1.10,
    2.92,
)
BURIED = 10.0  # angstroms between CB atoms, below which a residue counts as a neighbour
TRIES = 12  # candidates for each element of structure
VERSION = 1  # raise it when the protein of any seed changes


@SOURCES.register("proteins-toy")
@dataclass(frozen=True)
class ProteinsToy:
    """Ideal helices, strands and loops, with a sequence drawn for each structure.

    It has the entries of the source ``proteins``, and ``distribution``: the distribution that the
    letters were drawn from, float32 [L, 20], a function of the coordinates alone (see the function
    ``distribution``).

    Attributes:
        data: Must be None, because nothing is read from disk.
        samples: Number of proteins.
        split: Name of the split; the proteins of different splits are independent.
        seed: Seed of the proteins.
        min_length: Smallest number of residues.
        max_length: Greatest number of residues.
        preference: How strongly the letters follow the secondary structure.
        burial: How strongly the letters follow burial.
    """

    data: Path | None = None
    samples: int = 1024
    split: str = "train"
    seed: int = 0
    min_length: int = 48
    max_length: int = 80
    preference: float = 4.0
    burial: float = 3.0

    entries = (
        "coords",
        "sequence",
        "number",
        "chain",
        "cluster",
        "resolution",
        "distribution",
    )
    views = 1

    def __post_init__(self) -> None:
        if self.data is not None:
            raise ReedError(f"proteins-toy generates its data and takes no --data, got {self.data}")
        if self.samples < 1 or not 3 <= self.min_length <= self.max_length:
            raise ReedError(
                f"proteins-toy: samples is {self.samples}, min_length {self.min_length}, "
                f"max_length {self.max_length}; they must be at least 1, 3 and min_length"
            )

    def listing(self) -> dict[str, str]:
        """Return every key with the version of the generator; the plan records the settings."""
        return {f"{self.split}-{row:06d}": f"generator{VERSION}" for row in range(self.samples)}

    def read(self, key: str, view: int = 0) -> dict[str, Any]:
        """Return one protein, a function of its key and the settings.

        Raises:
            BadSample: There is no such key.
        """
        split, _, row = key.rpartition("-")
        if split != self.split or not row.isdecimal() or int(row) >= self.samples:
            raise BadSample(f"no protein {key!r}: there are {self.samples} in {self.split!r}")

        seed = seed_for("proteins-toy", VERSION, self.seed, split, int(row))
        rng = np.random.Generator(np.random.PCG64(seed))
        length = int(rng.integers(self.min_length, self.max_length + 1))
        coords = backbone(rng, length, TRIES).astype(np.float32)
        odds = distribution(coords, self.preference, self.burial)
        # Inverse transform sampling: one uniform number per residue. clip guards against rounding.
        drawn = (odds.cumsum(1) < rng.random((length, 1))).sum(1).clip(max=len(LETTERS) - 1)

        return {
            "coords": coords,
            "sequence": "".join(LETTERS[i] for i in drawn),
            "number": np.arange(length, dtype=np.int32),
            "chain": np.zeros(length, np.int32),
            "cluster": int(row),
            "resolution": float("nan"),
            "distribution": odds.astype(np.float32),
        }


def distribution(coords: np.ndarray, preference: float, burial: float) -> np.ndarray:
    """Return P(letter | structure) of every residue, float64 [L, 20].

    Up to a constant, its logarithm is log background + ``preference`` * log of Chou and Fasman's
    parameter of the letter in the secondary structure + ``burial`` * ``buried(coords)`` *
    hydropathy / 4.5. A positive phi favours G, then N and D; a helix has hardly any P.

    Args:
        coords: N, CA, C and O in angstroms, [L, 4, 3].
        preference: Weight of the secondary structure.
        burial: Weight of the burial.
    """
    angles = phi_psi(coords)
    kind = secondary(angles)
    rows = [np.array(PREFERENCE[k].split(), float) / 100 for k in (COIL, HELIX, STRAND)]
    score = np.log(BACKGROUND) + preference * np.log(np.array(rows)[kind])
    score += burial * buried(coords)[:, None] * (np.array(HYDROPATHY) / 4.5)
    positive_phi = np.array([(a in "GND") * 2.5 + (a == "G") for a in LETTERS])
    score += (angles[:, :1] > 0) * positive_phi
    score[kind == HELIX, LETTERS.index("P")] -= 3
    odds = np.exp(score - score.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def buried(coords: np.ndarray) -> np.ndarray:
    """Return the number of CB atoms within 10 angstroms, standardised over the chain, [L]."""
    beta = virtual_beta(coords)
    near = np.linalg.norm(beta[:, None] - beta[None], axis=-1) < BURIED
    count = near.sum(1)
    return (count - count.mean()) / (count.std() + 1e-6)
