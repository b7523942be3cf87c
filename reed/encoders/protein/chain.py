"""The protein itself (atoms, residues, residue numbers), and the graph of nearest residues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.chem.protein import ALPHABET, NEIGHBOURS
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless


@ENCODERS.register("chain")
class ProteinChain(Weightless):
    """Unchanged coordinates and sequence, and the graph whose edges have pair representations.

    Its fields:

    - ``coords`` [L, 4, 3]: N, CA, C and O in angstroms, NaN where not observed.
    - ``residue`` [L]: indices into ALPHABET.
    - ``number`` [L]: positions in the sequence, as ProteinMPNN counts them.
    - ``chain`` [L]: chain of each residue.
    - ``neighbours`` [L, 48]: see ``neighbours``.
    - ``cluster`` and ``resolution`` (NaN if unknown): one number each.
    """

    reads = ("coords", "sequence", "number", "chain", "cluster", "resolution")
    fields = (
        Field("coords", "data", (None, 4, 3), "float32+nan"),
        Field("residue", "data", (None,), "int32"),
        Field("number", "data", (None,), "int32"),
        Field("chain", "data", (None,), "int32"),
        Field("neighbours", "data", (None, NEIGHBOURS), "int32"),
        Field("cluster", "label", (), "int64"),
        Field("resolution", "data", (), "float32+nan"),
    )
    batch_size = 64
    version = "1"  # raise it when the graph or the alphabet changes
    symbols: ClassVar = {"residue": dict(enumerate(ALPHABET))}

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one array per field and sample.

        Raises:
            BadSample: The entries of a sample differ in length, or a letter is unknown.
        """
        columns: dict[str, list[Any]] = {field.name: [] for field in self.fields}
        for sample in samples:
            coords = backbone(sample)
            columns["coords"].append(coords)
            columns["residue"].append(residues(sample["sequence"]))
            columns["neighbours"].append(neighbours(coords))

            # backbone() compares coordinates and sequence; these two are compared here.
            for name in ("number", "chain"):
                if np.shape(sample[name]) != (len(coords),):
                    raise BadSample(
                        f"{name} is {np.shape(sample[name])} for {len(coords)} residues"
                    )
                columns[name].append(np.asarray(sample[name], np.int32))

            columns["cluster"].append(np.int64(sample["cluster"]))
            columns["resolution"].append(np.float32(sample["resolution"]))
        return columns


def backbone(sample: dict[str, Any]) -> np.ndarray:
    """Return the coordinates of a sample, float32 [L, 4, 3].

    Raises:
        BadSample: The sequence does not have L letters, or is empty.
    """
    coords = np.asarray(sample["coords"], np.float32)
    letters = len(sample["sequence"])
    if coords.shape != (letters, 4, 3) or not letters:
        raise BadSample(f"coords are {list(coords.shape)} and the sequence has {letters} letters")
    return coords


def residues(sequence: str) -> np.ndarray:
    """Return the index of each letter in ALPHABET, int32 [L].

    Raises:
        BadSample: A letter is not in ALPHABET.
    """
    if odd := sorted(set(sequence) - set(ALPHABET)):
        raise BadSample(f"the sequence has the letter {odd[0]!r}, not one of {ALPHABET}")
    return np.array([ALPHABET.index(letter) for letter in sequence], np.int32)


def neighbours(coords: np.ndarray) -> np.ndarray:
    """Return the nearest residues of each residue by CA, from near to far: int32 [L, 48].

    A residue is its own first neighbour. Entries are -1 where no residues with a CA are left, and
    for a residue without a CA. Of residues at equal distance, the one with the lower index is
    first.
    """
    atoms = coords[:, 1].astype(np.float64)  # [L, 3]
    observed = np.flatnonzero(np.isfinite(atoms).all(1))
    distances = np.square(atoms[observed, None] - atoms[None, observed]).sum(-1)
    np.fill_diagonal(distances, -1.0)  # a residue is first even if another coincides with it
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBOURS]
    graph = np.full((len(coords), NEIGHBOURS), -1, np.int32)
    graph[observed, : nearest.shape[1]] = observed[nearest]
    return graph


def segments(sample: dict[str, Any]) -> Iterator[slice]:
    """Return the residues of each chain of a sample, in order, from its field ``chain``."""
    bounds = np.flatnonzero(np.diff(sample["chain"], prepend=-1, append=-1))
    return (slice(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True))


def at_neighbours(pairs: np.ndarray, graph: np.ndarray) -> np.ndarray:
    """Keep a pair representation at the neighbours: [L, L, C] at [L, 48] -> [L, 48, C].

    It is zero where the graph has no neighbour; nothing is compared there.
    """
    kept = pairs[np.arange(len(graph))[:, None], graph]
    return np.where(graph[..., None] < 0, np.zeros((), pairs.dtype), kept)
