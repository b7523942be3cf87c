"""A protein chain as a net is given it: atoms, residues, numbers, neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.chem.protein import ALPHABET, NEIGHBOURS
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless


@ENCODERS.register("chain")
class ProteinChain(Weightless):
    """Coordinates and sequence as they are, and the graph that pair representations are kept on.

    coords: N, CA, C, O in angstroms [L, 4, 3], NaN where not observed; residue: places in ALPHABET
    [L]; number: positions in the sequence [L], as ProteinMPNN counts them; chain: [L]; neighbours:
    [L, 48], see `neighbours`; cluster, resolution (NaN if unknown): one number each.
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

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """One array per field and sample; BadSample where their lengths differ."""
        found: dict[str, list[Any]] = {field.name: [] for field in self.fields}
        for sample in samples:
            coords = backbone(sample)
            found["coords"].append(coords)
            found["residue"].append(residues(sample["sequence"]))
            found["neighbours"].append(neighbours(coords))
            for name in ("number", "chain"):
                if np.shape(sample[name]) != (len(coords),):
                    raise BadSample(f"{name} is {np.shape(sample[name])} of {len(coords)} residues")
                found[name].append(np.asarray(sample[name], np.int32))
            found["cluster"].append(np.int64(sample["cluster"]))
            found["resolution"].append(np.float32(sample["resolution"]))
        return found


def backbone(sample: dict[str, Any]) -> np.ndarray:
    """The coordinates of a sample, float32 [L, 4, 3]; BadSample unless there are L letters."""
    coords = np.asarray(sample["coords"], np.float32)
    letters = len(sample["sequence"])
    if coords.shape != (letters, 4, 3) or not letters:
        raise BadSample(f"coords are {list(coords.shape)} and the sequence has {letters} letters")
    return coords


def residues(sequence: str) -> np.ndarray:
    """The place of each letter in ALPHABET, int32 [L]; BadSample for a letter that is not there."""
    if odd := sorted(set(sequence) - set(ALPHABET)):
        raise BadSample(f"the sequence has the letter {odd[0]!r}, not one of {ALPHABET}")
    return np.array([ALPHABET.index(letter) for letter in sequence], np.int32)


def neighbours(coords: np.ndarray) -> np.ndarray:
    """The nearest residues of each by CA, itself first: int32 [L, 48], near to far.

    -1 where there are no more residues with a CA, and throughout for a residue without one. Of
    equal distances the lower place comes first.
    """
    atoms = coords[:, 1].astype(np.float64)  # [L, 3]
    there = np.flatnonzero(np.isfinite(atoms).all(1))
    apart = np.square(atoms[there, None] - atoms[None, there]).sum(-1)
    np.fill_diagonal(apart, -1.0)  # itself, also before one at the same place
    nearest = np.argsort(apart, axis=1, kind="stable")[:, :NEIGHBOURS]
    found = np.full((len(coords), NEIGHBOURS), -1, np.int32)
    found[there, : nearest.shape[1]] = there[nearest]
    return found


def segments(sample: dict[str, Any]) -> Iterator[slice]:
    """The residues of each chain of a sample, in order; the field `chain` says which they are."""
    bounds = np.flatnonzero(np.diff(sample["chain"], prepend=-1, append=-1))
    return (slice(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True))


def at_neighbours(pairs: np.ndarray, graph: np.ndarray) -> np.ndarray:
    """The rows of a pair representation that are kept: [L, L, C] at [L, 48] -> [L, 48, C].

    Zero where the graph has no neighbour: nothing is compared there.
    """
    found = pairs[np.arange(len(graph))[:, None], graph]
    return np.where(graph[..., None] < 0, np.zeros((), pairs.dtype), found)
