"""Reader of the protein chains of a PDB or mmCIF file: backbone, sequence, positions."""

from __future__ import annotations

import codecs
import dataclasses
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from reed.build.source import BadSample, NoSample
from reed.chem.letters import letter_of
from reed.chem.mmcif import read_mmcif
from reed.chem.pdb import read_pdb
from reed.chem.polymers import BREAK, STEP, Molecule, distance, is_bonded, molecules
from reed.chem.protein import ATOMS
from reed.chem.residues import Content, Residue, Stated
from reed.weights import library

ENDINGS = re.compile(r"\.(pdb[0-9]*|ent|cif|mmcif)(\.gz)?$", re.IGNORECASE)
_BYTE_ORDER_MARK = "\xef\xbb\xbf"  # of UTF-8, as latin-1; some editors write it
ASSEMBLY = re.compile(r"\.pdb[0-9]+(\.gz)?$", re.IGNORECASE)  # the PDB's names of assemblies


@dataclass(frozen=True)
class Chain:
    """One protein chain.

    Attributes:
        name: Name of the chain.
        sequence: L letters of ALPHABET.
        coords: N, CA, C, O in angstroms, float32 [L, 4, 3]; NaN where not observed.
        number: Position in the sequence from 0, including gaps, int32 [L].
        ways: Number of letters by their origin (reed.chem.letters.WAYS).
    """

    name: str
    sequence: str
    coords: np.ndarray
    number: np.ndarray
    ways: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Structure:
    """The protein chains of a file.

    Attributes:
        chains: The chains by name.
        resolution: Resolution in angstroms; NaN if unknown.
        unsound: The reasons for which chains cannot be read, by name.
    """

    chains: dict[str, Chain]
    resolution: float
    unsound: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read_structure(path: Path) -> Structure:
    """Read the protein chains of a file.

    Each molecule is a chain. It ends at a TER record, where the residue numbers fall or repeat,
    where the segment changes or, in mmCIF, with its label_asym_id, unless a peptide bond connects
    both sides. Its name is the author's, "_" for a blank name, and "A-2" for the second chain
    called A. Models are alternatives, of which the first is read, or the parts of an assembly.

    Positions are those of SEQRES (in mmCIF, of the entity), so residues that were not observed have
    a letter and NaN coordinates. In a file without a sequence, the positions count the observed
    residues; where two neighbours are further apart than a bond allows, they jump as the author's
    numbers do. Author numbers and insertion codes are used for nothing else. Of the alternative
    locations of a residue, the one with the most occupancy is read, and likewise of two residues
    that share a position.

    Raises:
        BadSample: The file cannot be read, or has no protein chain.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise BadSample(f"cannot read {path.name}: {error.strerror}") from error
    return _read(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)  # each chain of a file is a sample, so one file is asked for many times
def _read(path: Path, size: int, changed: int) -> Structure:
    library("gemmi", "reading structures", "proteins")  # fails here if gemmi is missing

    # size and changed are part of the key of lru_cache: a changed file is read again.
    try:
        content = _content(path)
        if not any(content.models):
            raise BadSample("holds no atoms")
        results = _named(_chains(content, molecules(content)))
        if not results:
            raise NoSample("holds no protein chain")
    except BadSample as error:
        raise type(error)(f"{path.name} {error}") from error
    except (RuntimeError, ValueError, IndexError, OSError, EOFError, zlib.error) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadSample(f"{path.name} is not a valid structure: {reason[:200]}") from error

    chains = {name: chain for name, chain in results.items() if isinstance(chain, Chain)}
    unsound = {name: reason for name, reason in results.items() if isinstance(reason, str)}
    if not chains:
        raise BadSample(f"{path.name}: {next(iter(unsound.values()))}")
    return Structure(chains, content.resolution, unsound)


def _content(path: Path) -> Content:
    """Read the content of a file; its first bytes, not its name, decide how it is read."""
    data = path.read_bytes()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    is_utf_16 = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    text = data.decode("utf-16" if is_utf_16 else "latin-1")
    lines = re.split(r"\r\n?|\n", text.removeprefix(_BYTE_ORDER_MARK))
    first = next((line for line in lines if line.strip() and line[0] != "#"), "")
    if first[:5].lower() == "data_":
        return read_mmcif("\n".join(lines))
    content = read_pdb(lines)
    return replace(content, is_assembly=True) if ASSEMBLY.search(path.name) else content


def _named(results: Iterable[tuple[str, Chain | str]]) -> dict[str, Chain | str]:
    """Return the chains by names that differ from each other and can be part of a key."""
    cleaned = [(re.sub(r"[^!-~]|/", "_", author) or "_", chain) for author, chain in results]
    taken = {author for author, _ in cleaned}
    named: dict[str, Chain | str] = {}
    for author, chain in cleaned:
        name, count = author, 1
        while name in named or (count > 1 and name in taken):
            count += 1
            name = f"{author}-{count}"
        named[name] = replace(chain, name=name) if isinstance(chain, Chain) else chain
    return named


def _chains(content: Content, in_file: Sequence[Molecule]) -> list[tuple[str, Chain | str]]:
    """Return author's name and chain, or why it cannot be read, in the order of the file."""
    units: dict[str, list[Molecule]] = {}
    for molecule in in_file:
        units.setdefault(molecule.unit, []).append(molecule)
    chains: dict[int, tuple[str, Chain | str]] = {}
    for unit, parts in units.items():
        for first, chain in _of_unit(content, content.sequences.get(unit), parts):
            chains[id(first)] = first.chain, chain
    return [chains[id(molecule)] for molecule in in_file if id(molecule) in chains]


def _of_unit(
    content: Content, stated: Stated | None, parts: Sequence[Molecule]
) -> list[tuple[Molecule, Chain | str]]:
    """Return the chains of the molecules of one unit, each with its first molecule.

    The molecules are one chain if the stated sequence joins them, else one chain each.
    """
    if stated is None:
        return [(part, _as_observed(content, part.residues)) for part in parts]

    whole = [residue for part in parts for residue in part.residues]
    positions = _positions(stated, whole)
    if isinstance(positions, list) and _is_joined(parts, whole, positions):
        return [(parts[0], _as_stated(content, stated, whole, positions))]

    placed = [(part, _positions(stated, part.residues)) for part in parts]
    fits_one = any(isinstance(positions, list) for _, positions in placed)
    chains: list[tuple[Molecule, Chain | str]] = []
    for part, positions in placed:
        if isinstance(positions, list):
            chains.append((part, _as_stated(content, stated, part.residues, positions)))
        elif fits_one:  # the stated sequence is that of another molecule of the unit
            chains.append((part, _as_observed(content, part.residues)))
        else:
            number = f"{positions.site.number}{positions.site.icode}"
            reason = f"residue {number} of chain {part.chain} is not in its SEQRES"
            chains.append((part, reason))
    return chains


def _is_joined(parts: Sequence[Molecule], whole: Sequence[Residue], positions: list[int]) -> bool:
    """Whether the missing residues are enough to bridge the gaps between the parts."""
    ends = np.cumsum([len(part.residues) for part in parts])[:-1]
    gaps = ((distance(whole[i - 1], whole[i]), positions[i] - positions[i - 1]) for i in ends)
    return all(not length > STEP * count + 1 for length, count in gaps)  # NaN is no obstacle


def _positions(stated: Stated, residues: Sequence[Residue]) -> list[int] | Residue:
    """Return the position of each residue in the stated sequence, or the first without one."""
    names, length = set(stated.names), len(stated.names)
    observed = [next((n for n in r.variants if n in names), r.name) for r in residues]

    # mmCIF states the positions itself.
    labels = [residue.site.label for residue in residues]
    if None not in labels:
        positions = [label - 1 for label in labels if label is not None]
        first = {position: i for i, position in reversed(list(enumerate(positions)))}
        wrong = [i for i, p in enumerate(positions) if not 0 <= p < length or first[p] != i]
        return residues[wrong[0]] if wrong else positions

    # Many PDB files number residues by SEQRES; this test is exact where an alignment may not be.
    positions = [residue.site.number - 1 for residue in residues]
    pairs = zip(positions, observed, strict=True)
    fits = all(0 <= p < length and stated.names[p] == name for p, name in pairs)
    if fits and len(set(positions)) == len(positions):
        return positions
    return _aligned(stated, residues, observed)


def _aligned(
    stated: Stated, residues: Sequence[Residue], observed: Sequence[str]
) -> list[int] | Residue:
    """Align the observed names with the stated sequence; the result is that of _positions."""
    gemmi = library("gemmi", "reading structures", "proteins")
    scoring = gemmi.AlignmentScoring("p")
    bonds = map(is_bonded, residues[:-1], residues[1:])
    gaps = [0, *(scoring.bad_gapo if bond else scoring.good_gapo for bond in bonds), 0]
    alignment = gemmi.align_string_sequences(list(stated.names), observed, gaps, scoring)

    # M: both have a residue; I: it was not observed; D: it is not in the stated sequence.
    positions, offset = [], 0
    for count, kind in re.findall(r"(\d+)([MID])", alignment.cigar_str()):
        if kind == "D":
            return residues[len(positions)]
        positions += range(offset, offset + int(count)) if kind == "M" else ()
        offset += int(count)
    return positions


def _as_stated(
    content: Content, stated: Stated, residues: Sequence[Residue], positions: Sequence[int]
) -> Chain:
    """Return the chain of a stated sequence, with the residues at their positions in it."""
    by_position = dict(zip(positions, residues, strict=True))
    coords = np.full((len(stated.names), len(ATOMS), 3), np.nan, np.float32)
    letters = []
    for position, name in enumerate(stated.names):
        residue = by_position.get(position)
        letter = stated.letters[position : position + 1]
        if residue is None:
            letters.append(letter_of(name, _known(letter) or content.parents.get(name, ""), True))
            continue

        # The stated letter is that of the stated name: microheterogeneity may put another there.
        coords[position] = residue.backbone
        stated_letter = _known(letter) if residue.name == name else ""
        letters.append(_letter(residue, stated_letter or content.parent(residue)))
    return _chain(letters, coords, np.arange(len(letters)))


def _as_observed(content: Content, residues: Sequence[Residue]) -> Chain:
    """Return the chain of the observed residues; positions jump at a break, by at least 2."""
    coords = np.stack([residue.backbone for residue in residues])
    lengths = np.linalg.norm(np.diff(coords[:, 1], axis=0), axis=1)
    author = np.diff([residue.site.place[0] for residue in residues])
    steps = np.where(lengths > BREAK, np.maximum(author, 2), 1)  # NaN is no break
    letters = [_letter(residue, content.parent(residue)) for residue in residues]
    return _chain(letters, coords, np.concatenate([[0], np.cumsum(steps)]))


def _letter(residue: Residue, stated: str) -> tuple[str, str]:
    return letter_of(residue.name, stated, residue.is_het, residue.atoms)


def _known(letter: str) -> str:
    """Return a letter, or an empty string for X."""
    return letter if letter != "X" else ""


def _chain(letters: Sequence[tuple[str, str]], coords: np.ndarray, number: np.ndarray) -> Chain:
    ways = Counter(way for _, way in letters)
    text = "".join(letter for letter, _ in letters)
    return Chain("", text, coords, number.astype(np.int32), ways)
