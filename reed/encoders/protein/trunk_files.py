"""The files that Boltz and OpenFold3 wrote for one job: embeddings, and a structure beside them.

Source: jwohlwend/boltz, src/boltz/data/write/writer.py (``--write_embeddings``); aqlaboratory/
openfold-3, openfold3/core/runners/writer.py (``write_latent_outputs``).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reed import weights
from reed.build.shard import BadSample
from reed.encoders.protein import af3_files
from reed.errors import ReedError

CHANNELS = {"single": 384, "pair": 128}
STRUCTURES = (".cif", ".pdb")
# Residues that are one token; any other, such as a modified one, has one token per atom.
AMINO_ACIDS = "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL UNK"
NUCLEOTIDES = "A C G U N DA DC DG DT DN"
ONE_TOKEN = frozenset(f"{AMINO_ACIDS} {NUCLEOTIDES}".split())


@dataclass(frozen=True)
class Program:
    """How a program lays out its output.

    Attributes:
        name: Name of the program, for messages.
        embeddings: Patterns of the file of a job, in which {job} stands for its name.
        keys: Its entries of ``single`` and ``pair``.
        structures: Pattern of the structures, below the folder of the job.
        advice: The option that makes it write the file.
    """

    name: str
    embeddings: tuple[str, ...]
    keys: Mapping[str, str]
    structures: str
    advice: str


BOLTZ = Program(
    "Boltz",
    tuple(
        f"{start}{{job}}/embeddings_{{job}}.npz" for start in ("", "predictions/", "*/predictions/")
    ),
    {"single": "s", "pair": "z"},
    "{job}_model_*",
    "--write_embeddings",
)
OPENFOLD3 = Program(
    "OpenFold3",
    ("{job}/**/*latent_output*.pt",),
    {"single": "si_trunk", "pair": "zij_trunk"},
    "**/*_model.*",
    "output_writer_settings.write_latent_outputs: true",
)


@dataclass(frozen=True)
class Residues:
    """The tokens of the proteins of a job.

    Attributes:
        sequences: Letters of each protein chain.
        index: Tokens of the residues of the proteins, in order, [T].
        counts: Number of tokens of each residue, [L].
        tokens: Number of all tokens of the job.
    """

    sequences: list[str]
    index: np.ndarray
    counts: np.ndarray
    tokens: int


def find(program: Program, folder: Path, job: str, seed: int | None) -> Path:
    """Return the file with the embeddings of a job.

    Args:
        program: The program that wrote it.
        folder: The output folder of the program.
        job: Name of the job.
        seed: Seed to read; None if the job has one seed only.

    Raises:
        BadSample: There is no such file, or more than one.
    """
    patterns = [pattern.format(job=_literal(job)) for pattern in program.embeddings]
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    if not files:
        problem = f"there are no embeddings of {program.name} for {job!r} in {folder}"
        raise BadSample(f"{problem}; run it with {program.advice}")

    # The seed is in the name of a folder or of the file: seed_1 or seed-1.
    chosen = [path for path in files if seed is None or seed in _seeds(path, folder)]
    if len(chosen) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in files)
        raise BadSample(f"{job}: {len(chosen)} files of embeddings among {names}; choose one seed")
    return chosen[0]


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _seeds(path: Path, folder: Path) -> set[int]:
    text = str(path.relative_to(folder))
    return {int(number) for number in re.findall(r"seed[_-](\d+)", text)}


def residues(program: Program, path: Path, folder: Path, job: str) -> Residues:
    """Return the tokens of a job's proteins, from one of the structures that it predicted.

    A standard residue or nucleotide is one token, and anything else has one token per atom.

    Args:
        program: The program that wrote the job.
        path: The file with the embeddings.
        folder: The output folder of the program.
        job: Name of the job.

    Raises:
        BadSample: There is no structure, or it cannot be read.
    """
    import gemmi

    # Every structure of a job has the same residues, so that the first one will do.
    place = next(parent for parent in path.parents if parent.name == job)
    found = place.glob(program.structures.format(job=_literal(job)))
    structures = sorted(p for p in found if p.suffix in STRUCTURES)
    if not structures:
        problem = f"{place.relative_to(folder)} has no structure that {program.name} predicted"
        raise BadSample(f"{problem} (.cif or .pdb), which says what its tokens are; keep one")

    # All structures of a job have the same tokens, so the first one says what they are.
    try:
        model = gemmi.read_structure(str(structures[0]))[0]
        chains = list(model)
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise BadSample(f"cannot read {structures[0].name}: {error}") from error
    return _tokens(chains)


def _tokens(chains: Sequence[Any]) -> Residues:
    """Count the tokens of the chains of a structure, in order."""
    import gemmi

    sequences, index, counts, tokens = [], [], [], 0
    for chain in chains:
        known = [gemmi.find_tabulated_residue(residue.name) for residue in chain]
        is_protein = any(info.is_amino_acid() for info in known)
        letters = ""

        # Whatever else is in a chain with amino acids gets a letter, so that it is not overlooked.
        for residue, info in zip(chain, known, strict=True):
            size = 1 if residue.name in ONE_TOKEN else len(residue)
            if is_protein:
                letters += info.one_letter_code.strip().upper() or "X"
                index += range(tokens, tokens + size)
                counts.append(size)
            tokens += size
        if is_protein:
            sequences.append(letters)
    return Residues(sequences, np.array(index, int), np.array(counts, int), tokens)


def load(program: Program, path: Path, names: Sequence[str], where: Residues) -> dict[str, Any]:
    """Read embeddings of the proteins' residues; one of several tokens gets their mean.

    Args:
        program: The program that wrote the file.
        path: The file with the embeddings.
        names: Arrays to read: ``single`` [L, 384], ``pair`` [L, L, 128].
        where: The tokens of the residues.

    Returns:
        One float32 array per name.

    Raises:
        BadSample: An array is missing, of another shape or not finite.
    """
    arrays = _read(program, path, names)
    return {name: _pooled(path, name, array, where) for name, array in arrays.items()}


def _read(program: Program, path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the arrays of a file, without their batch axis."""
    try:
        if path.suffix == ".npz":
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
                table = {key: content[key] for key in content.files}
        else:
            table = weights.read(path, finite=False)  # padding may hold anything
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, ReedError) as error:
        raise BadSample(f"cannot read {path.name}: {error}") from error

    # Both write the batch of one sample that the model computed.
    arrays = {}
    for name in names:
        key = program.keys[name]
        if key not in table:
            raise BadSample(f"{path.name} has no {key}, only {', '.join(table)}; leave {name} out")
        value = table[key]
        array = np.asarray(value.float() if hasattr(value, "float") else value)
        axes = 4 if name == "pair" else 3
        arrays[name] = array[0] if array.ndim == axes and array.shape[0] == 1 else array
    return arrays


def _pooled(path: Path, name: str, array: np.ndarray, where: Residues) -> np.ndarray:
    """Check one array, take the proteins' tokens and average those of each residue."""
    axes = 2 if name == "pair" else 1
    shape = (*[where.tokens] * axes, CHANNELS[name])
    if array.shape != shape or array.dtype.kind != "f":
        form = f"{array.dtype} {list(array.shape)}"
        raise BadSample(f"{path.name}: {name} is {form}, the structure beside needs {list(shape)}")

    # Only what is kept has to be finite.
    kept = array[np.ix_(where.index, where.index)] if axes == 2 else array[where.index]
    if not np.isfinite(kept).all():
        raise BadSample(f"{path.name}: {name} has values that are not finite")

    kept, counts = kept.astype(np.float32), where.counts
    if (counts > 1).any():
        firsts = np.cumsum(counts) - counts
        for axis in range(axes):
            form = [-1 if k == axis else 1 for k in range(kept.ndim)]
            kept = np.add.reduceat(kept, firsts, axis) / counts.reshape(form).astype(np.float32)
    return kept


def compare(program: Program, where: Residues, chains: Sequence[str]) -> None:
    """Raise BadSample unless the proteins of a job are the chains of the sample."""
    af3_files.compare_chains(where.sequences, chains, program.name)
