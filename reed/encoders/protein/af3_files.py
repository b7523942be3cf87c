"""The files that AlphaFold 3 wrote for one job: embeddings, and the residue of each token.

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
    """One chain of a job's input.

    Attributes:
        name: Chain identifier.
        sequence: Its letters; empty for anything but a protein.
        plain: Whether every residue is exactly one token.
    """

    name: str
    sequence: str
    plain: bool


def find(folder: Path, job: str, seed: int | None) -> Path:
    """Return the file with the embeddings of a job.

    Args:
        folder: Folder that holds one folder per job.
        job: Name of the job.
        seed: Seed to read; None if the job has one seed only.

    Raises:
        BadSample: There is no such file, or more than one.
    """
    # Newer versions keep the case of a job's name; older ones wrote it in lower case.
    paths = [folder / name for name in dict.fromkeys((job, job.lower()))]
    existing = [path for path in paths if path.is_dir()]
    if not existing:
        raise BadSample(f"there is no AlphaFold 3 output {job!r} in {folder}")

    # <job>_seed-1_embeddings.npz since March 2025, embeddings.npz before and in REED's branch.
    wanted = "*" if seed is None else str(seed)
    files = sorted(existing[0].glob(f"seed-{wanted}_embeddings/*embeddings.npz"))
    if len(files) != 1:
        names = ", ".join(path.parent.name for path in files)
        advice = f"there are {names}: choose one with af3.seed" if files else "run with them saved"
        raise BadSample(f"{job}: {len(files)} files of embeddings; {advice}")
    return files[0]


def starts_of(path: Path, chains: Sequence[str]) -> np.ndarray:
    """Return the first token of every residue of some chains, then the end of the last one.

    The job's input names its chains, so that everything else in the arrays can only be padding.
    Ligands and modified residues have one token per atom; for jobs with these the confidences
    state the residue of each token.

    Args:
        path: The file with the embeddings.
        chains: The expected sequences.

    Raises:
        BadSample: The proteins of the job are not these chains in this order.
    """
    job = path.parents[1]
    entities = _entities(job)
    proteins = [entity for entity in entities if entity.sequence]
    compare_chains([protein.sequence for protein in proteins], chains)

    # With one token per residue, token and residue numbers are the same.
    total = sum(map(len, chains))
    if all(entity.plain for entity in entities):
        return np.arange(total + 1)
    return _from_confidences(job, proteins, total)


def load(path: Path, names: Sequence[str], starts: np.ndarray) -> dict[str, np.ndarray]:
    """Read embeddings of residues, float32; a residue of several tokens gets their mean.

    Args:
        path: The file with the embeddings.
        names: Arrays to read: ``single`` [L, 384], ``pair`` [L, L, 128], ``structure`` [L, 768].
        starts: First token of every residue, see ``starts_of``.

    Raises:
        BadSample: An array is missing, of another shape, too short or not finite.
    """
    embeddings = {}

    # The file is opened once: arrays are read from the archive one by one, on access.
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            for name in names:
                key = f"{name}_embeddings"
                if key not in arrays.files:
                    have = ", ".join(arrays.files)
                    raise BadSample(f"{path.name} has no {key}, only {have}; leave {name} out")
                embeddings[name] = _cut(path, name, arrays[key], starts)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadSample(f"cannot read {path.name}: {error}") from error
    return embeddings


def _cut(path: Path, name: str, array: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Check one array, cut it to the residues and average the tokens of each residue."""
    axes = 2 if name == "pair" else 1
    tokens, end = array.shape[0] if array.ndim else 0, int(starts[-1])
    if array.shape != (*[tokens] * axes, CHANNELS[name]) or array.dtype.kind != "f":
        form = f"{array.dtype} {list(array.shape)}"
        raise BadSample(f"{path.name}: {name} is {form}, not [{'tokens, ' * axes}{CHANNELS[name]}]")
    if tokens < end:
        raise BadSample(f"{path.name}: {name} has {tokens} tokens, the sequence needs {end}")

    # Only what is kept has to be finite: padding may hold anything.
    kept = array[starts[0] : end, starts[0] : end] if axes == 2 else array[starts[0] : end]
    if not np.isfinite(kept).all():
        raise BadSample(f"{path.name}: {name} has values that are not finite")

    kept, firsts, counts = kept.astype(np.float32), starts[:-1] - starts[0], np.diff(starts)
    if (counts > 1).any():
        for axis in range(axes):
            shape = [-1 if k == axis else 1 for k in range(kept.ndim)]
            kept = np.add.reduceat(kept, firsts, axis) / counts.reshape(shape).astype(np.float32)
    return kept


def _entities(job: Path) -> list[Entity]:
    """Return the chains of a job's input, in order, with copies of a chain one by one."""
    files = sorted(job.glob("*_data.json"))
    if len(files) != 1:
        problem = f"{job.name} has {len(files)} files *_data.json"
        raise BadSample(f"{problem}; keep the one that AlphaFold 3 wrote, which lists its chains")

    # A list of ids stands for copies of one chain, each with tokens of its own.
    entities = []
    try:
        for entry in json.loads(files[0].read_text(encoding="utf-8"))["sequences"]:
            ((kind, content),) = entry.items()
            names = content["id"] if isinstance(content["id"], list) else [content["id"]]
            sequence = content["sequence"] if kind == "protein" else ""
            plain = kind == "protein" and not content.get("modifications")
            entities += [Entity(str(name), sequence, plain) for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadSample(
            f"{files[0].name} is not an input file of AlphaFold 3: {error!r}"
        ) from error
    return entities


def compare_chains(have: Sequence[str], want: Sequence[str], program: str = "AlphaFold 3") -> None:
    """Raise BadSample, with the first difference, unless the sequences are equal.

    Args:
        have: The proteins of a job, in order.
        want: The chains of a sample.
        program: What the job was given to, for the message.
    """
    if list(have) == list(want):
        return

    # Leaving out the X is the most likely cause, and has a remedy.
    if list(have) == [sequence.replace("X", "") for sequence in want]:
        raise BadSample(
            f"{program} was given the sequence without its X, so that rows do not match residues; "
            "leave such chains out with source.max_x=0, or embed them with the X"
        )
    if len(have) != len(want):
        raise BadSample(f"{program} was given {len(have)} proteins, the sample has {len(want)}")

    for given, expected in zip(have, want, strict=True):
        pairs = enumerate(zip(given, expected, strict=False))
        index = next((i for i, (a, b) in pairs if a != b), min(len(given), len(expected)))
        if given != expected:
            raise BadSample(
                f"{program} was given another sequence: {len(given)} residues for "
                f"{len(expected)}, first difference at {index + 1} "
                f"({given[index : index + 8]!r} for {expected[index : index + 8]!r})"
            )


def _from_confidences(job: Path, proteins: Sequence[Entity], total: int) -> np.ndarray:
    """Return the first tokens of residues, from the residue of each token in the confidences."""
    files = [p for p in sorted(job.rglob("*confidences.json")) if "summary" not in p.name]
    if not files:
        problem = f"{job.name} has ligands or modified residues, and no *_confidences.json"
        raise BadSample(f"{problem} with the residue of each token")
    try:
        table: Mapping[str, Any] = json.loads(files[0].read_text(encoding="utf-8"))
        pairs = list(zip(table["token_chain_ids"], table["token_res_ids"], strict=True))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadSample(f"{files[0].name} does not list the tokens: {error!r}") from error

    # Tokens of one residue follow one another; find the run of residues that the proteins are.
    wanted = [(chain.name, i + 1) for chain in proteins for i in range(len(chain.sequence))]
    firsts = [i for i, pair in enumerate(pairs) if i == 0 or pair != pairs[i - 1]]
    named = [pairs[i] for i in firsts]
    ends = [*firsts[1:], len(pairs)]
    begin = named.index(wanted[0]) if wanted[0] in named else 0
    if named[begin : begin + total] != wanted:
        raise BadSample(f"the tokens in {files[0].name} are not those of the proteins")
    return np.array([*firsts[begin : begin + total], ends[begin + total - 1]])
