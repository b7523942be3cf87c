"""What AlphaFold 3 wrote for one job: its embeddings, and which residue each token is of.

Source: google-deepmind/alphafold3, docs/output.md and docs/input.md.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import BadSample

CHANNELS = {"single": 384, "pair": 128, "structure": 768}


@dataclass(frozen=True)
class Entity:
    """One chain of a job's input; sequence: empty for what is no protein; plain: one token each."""

    name: str
    sequence: str
    plain: bool


def find(folder: Path, job: str, seed: int | None) -> Path:
    """The file with the embeddings of a job; BadSample where there is not exactly one.

    Newer versions keep the case of a job's name, older ones wrote it in lower case.
    """
    places = [folder / name for name in dict.fromkeys((job, job.lower()))]
    there = [place for place in places if place.is_dir()]
    if not there:
        raise BadSample(f"there is no AlphaFold 3 output {job!r} in {folder}")
    wanted = "*" if seed is None else str(seed)
    # <job>_seed-1_embeddings.npz since March 2025, embeddings.npz before and in REED's branch
    files = sorted(there[0].glob(f"seed-{wanted}_embeddings/*embeddings.npz"))
    if len(files) != 1:
        names = ", ".join(path.parent.name for path in files)
        advice = f"there are {names}: choose one with af3.seed" if files else "run with them saved"
        raise BadSample(f"{job}: {len(files)} files of embeddings; {advice}")
    return files[0]


def starts_of(path: Path, chains: Sequence[str]) -> np.ndarray:
    """The first token of every residue of these chains, then the end of the last one's tokens.

    path: of the embeddings; chains: the sequences that are expected. BadSample unless the proteins
    of the job are these chains, in this order: its input says so, so that what else the arrays hold
    can only be padding. Where it has ligands or modified residues, with a
    token for every atom, its confidences say which residue a token is of.
    """
    job = path.parents[1]
    entities = _entities(job)
    proteins = [each for each in entities if each.sequence]
    _compare([each.sequence for each in proteins], chains)
    total = sum(map(len, chains))
    if all(each.plain for each in entities):
        return np.arange(total + 1)
    return _from_confidences(job, proteins, total)


def load(path: Path, names: Sequence[str], starts: np.ndarray) -> dict[str, np.ndarray]:
    """The embeddings of the residues: single [L, 384], pair [L, L, 128], structure [L, 768].

    float32; a residue of several tokens is their mean. BadSample where one is absent, of another
    shape, too short or not finite.
    """
    found = {}
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            for name in names:
                key = f"{name}_embeddings"
                if key not in arrays.files:
                    have = ", ".join(arrays.files)
                    raise BadSample(f"{path.name} has no {key}, only {have}; leave {name} out")
                found[name] = _cut(path, name, arrays[key], starts)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadSample(f"cannot read {path.name}: {error}") from error
    return found


def _cut(path: Path, name: str, array: np.ndarray, starts: np.ndarray) -> np.ndarray:
    axes = 2 if name == "pair" else 1
    tokens, end = array.shape[0] if array.ndim else 0, int(starts[-1])
    if array.shape != (*[tokens] * axes, CHANNELS[name]) or array.dtype.kind != "f":
        what = f"{array.dtype} {list(array.shape)}"
        raise BadSample(f"{path.name}: {name} is {what}, not [{'tokens, ' * axes}{CHANNELS[name]}]")
    if tokens < end:
        raise BadSample(f"{path.name}: {name} has {tokens} tokens, the sequence needs {end}")
    kept = array[starts[0] : end, starts[0] : end] if axes == 2 else array[starts[0] : end]
    if not np.isfinite(kept).all():
        raise BadSample(f"{path.name}: {name} has values that are not finite")
    kept, places, counts = kept.astype(np.float32), starts[:-1] - starts[0], np.diff(starts)
    if (counts > 1).any():
        for axis in range(axes):
            shape = [-1 if k == axis else 1 for k in range(kept.ndim)]
            kept = np.add.reduceat(kept, places, axis) / counts.reshape(shape).astype(np.float32)
    return kept


def _entities(job: Path) -> list[Entity]:
    """The chains of a job's input, in order, each copy on its own."""
    files = sorted(job.glob("*_data.json"))
    if len(files) != 1:
        problem = f"{job.name} has {len(files)} files *_data.json"
        raise BadSample(f"{problem}; the one that AlphaFold 3 wrote says what it embedded")
    found = []
    try:
        for entry in json.loads(files[0].read_text(encoding="utf-8"))["sequences"]:
            ((kind, content),) = entry.items()
            names = content["id"] if isinstance(content["id"], list) else [content["id"]]
            sequence = content["sequence"] if kind == "protein" else ""
            plain = kind == "protein" and not content.get("modifications")
            found += [Entity(str(name), sequence, plain) for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadSample(f"{files[0].name} is no input of AlphaFold 3: {error!r}") from error
    return found


def _compare(have: Sequence[str], want: Sequence[str]) -> None:
    if list(have) == list(want):
        return
    if list(have) == [sequence.replace("X", "") for sequence in want]:
        raise BadSample(
            "AlphaFold 3 was given the sequence without its X, so that rows do not match residues; "
            "leave such chains out with source.max_x=0, or embed them with the X"
        )
    if len(have) != len(want):
        raise BadSample(f"AlphaFold 3 was given {len(have)} proteins, the sample has {len(want)}")
    for one, other in zip(have, want, strict=True):
        pairs = enumerate(zip(one, other, strict=False))
        place = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
        if one != other:
            raise BadSample(
                f"AlphaFold 3 was given another sequence: {len(one)} residues for {len(other)}, "
                f"first difference at {place + 1} ({one[place : place + 8]!r} for "
                f"{other[place : place + 8]!r})"
            )


def _from_confidences(job: Path, proteins: Sequence[Entity], total: int) -> np.ndarray:
    """The starts of tokens by the chain and residue that the confidences give each."""
    files = [p for p in sorted(job.rglob("*confidences.json")) if "summary" not in p.name]
    if not files:
        problem = f"{job.name} has ligands or modified residues, and no *_confidences.json"
        raise BadSample(f"{problem} that says which residue each of its tokens is of")
    try:
        table: Mapping[str, Any] = json.loads(files[0].read_text(encoding="utf-8"))
        pairs = list(zip(table["token_chain_ids"], table["token_res_ids"], strict=True))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadSample(f"{files[0].name} does not name the tokens: {error!r}") from error
    wanted = [(each.name, i + 1) for each in proteins for i in range(len(each.sequence))]
    firsts = [i for i, pair in enumerate(pairs) if i == 0 or pair != pairs[i - 1]]
    named = [pairs[i] for i in firsts]
    ends = [*firsts[1:], len(pairs)]
    begin = named.index(wanted[0]) if wanted[0] in named else 0
    if named[begin : begin + total] != wanted:
        raise BadSample(f"the tokens that {files[0].name} names are not those of the proteins")
    return np.array([*firsts[begin : begin + total], ends[begin + total - 1]])
