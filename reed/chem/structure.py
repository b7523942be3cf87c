"""Protein chains of one PDB or mmCIF file: backbone atoms, sequence, positions."""

from __future__ import annotations

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

from reed.build.shard import BadSample
from reed.chem.letters import letter_of
from reed.chem.mmcif import read_mmcif
from reed.chem.pdb import read_pdb
from reed.chem.polymers import BREAK, STEP, Molecule, distance, is_bonded, molecules
from reed.chem.protein import ATOMS
from reed.chem.residues import Content, Residue, Stated
from reed.weights import library

ENDINGS = re.compile(r"\.(pdb[0-9]*|ent|cif|mmcif)(\.gz)?$", re.IGNORECASE)
_MARK = "\xef\xbb\xbf"  # of UTF-8, that some editors put first
_ASSEMBLY = re.compile(r"\.pdb[0-9]+(\.gz)?$", re.IGNORECASE)  # as the PDB names its assemblies


@dataclass(frozen=True)
class Chain:
    """One protein chain.

    sequence: letters of ALPHABET, [L]; coords: N, CA, C, O in angstroms, float32 [L, 4, 3], NaN
    where there is none; number: int32 [L], the position in the sequence from 0, gaps counted;
    ways: how many letters came by which of reed.chem.letters.WAYS.
    """

    name: str
    sequence: str
    coords: np.ndarray
    number: np.ndarray
    ways: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Structure:
    """The protein chains of a file by name, and its resolution in angstroms, NaN without one.

    unsound: the chains that cannot be read, each with the reason.
    """

    chains: dict[str, Chain]
    resolution: float
    unsound: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read_structure(path: Path) -> Structure:
    """The protein chains of a file; BadSample with the reason where it has none.

    Each molecule is a chain: one ends at a TER record, where the numbers begin anew, where the
    segment changes or, in mmCIF, with its label_asym, unless a peptide bond goes on. Its name is
    the author's, "_" for a blank, and "A-2" for the second that is called A. Models are
    alternatives, of which the first is taken, or the parts of an assembly.

    Positions are those of SEQRES (mmCIF: of the entity), so residues that were not observed have
    a letter and NaN. In a file without, they are the observed residues in order, and where two
    neighbours are further apart than a bond allows their numbers jump as the author's do. Author
    numbers and insertion codes are used for nothing else. Of alternative locations the one of
    most occupancy counts, per residue; so does the residue, where two share a position.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise BadSample(f"cannot read {path.name}: {error.strerror}") from error
    return _read(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)  # the chains of a file are samples of their own
def _read(path: Path, size: int, changed: int) -> Structure:
    library("gemmi", "reading structures", "proteins")
    try:
        content = _content(path)
        if not any(content.models):
            raise BadSample("holds no atoms")
        found = _named(_chains(content, molecules(content)))
        if not found:
            raise BadSample("holds no protein chain")
    except BadSample as error:
        raise BadSample(f"{path.name} {error}") from error
    except (RuntimeError, ValueError, IndexError, OSError, EOFError, zlib.error) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadSample(f"{path.name} is no sound structure: {reason[:200]}") from error
    chains = {name: each for name, each in found.items() if isinstance(each, Chain)}
    unsound = {name: each for name, each in found.items() if isinstance(each, str)}
    if not chains:
        raise BadSample(f"{path.name}: {next(iter(unsound.values()))}")
    return Structure(chains, content.resolution, unsound)


def _content(path: Path) -> Content:
    """What a file holds, packed or not, read as what it is and not as what it is called."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("latin-1")
    lines = re.split(r"\r\n?|\n", text.removeprefix(_MARK))
    first = next((line for line in lines if line.strip() and line[0] != "#"), "")
    if first[:5].lower() == "data_":
        return read_mmcif("\n".join(lines))
    found = read_pdb(lines)
    return replace(found, is_assembly=True) if _ASSEMBLY.search(path.name) else found


def _named(found: Iterable[tuple[str, Chain | str]]) -> dict[str, Chain | str]:
    """The chains by names that are all different and fit into a key."""
    each = [(re.sub(r"[^!-~]|/", "_", author) or "_", chain) for author, chain in found]
    taken = {author for author, _ in each}
    named: dict[str, Chain | str] = {}
    for author, chain in each:
        name, count = author, 1
        while name in named or (count > 1 and name in taken):
            count += 1
            name = f"{author}-{count}"
        named[name] = replace(chain, name=name) if isinstance(chain, Chain) else chain
    return named


def _chains(content: Content, found: Sequence[Molecule]) -> list[tuple[str, Chain | str]]:
    """Author's name and chain, or why it cannot be read, in the order of the file."""
    units: dict[str, list[Molecule]] = {}
    for molecule in found:
        units.setdefault(molecule.unit, []).append(molecule)
    chains: dict[int, tuple[str, Chain | str]] = {}
    for unit, parts in units.items():
        for first, chain in _of_unit(content, content.sequences.get(unit), parts):
            chains[id(first)] = first.chain, chain
    return [chains[id(each)] for each in found if id(each) in chains]


def _of_unit(
    content: Content, stated: Stated | None, parts: Sequence[Molecule]
) -> list[tuple[Molecule, Chain | str]]:
    """The chains of molecules of one name: one of all that its SEQRES joins, or one of each."""
    if stated is None:
        return [(part, _as_observed(content, part.residues)) for part in parts]
    whole = [residue for part in parts for residue in part.residues]
    rows = _rows(stated, whole)
    if isinstance(rows, list) and _is_joined(parts, whole, rows):
        return [(parts[0], _as_stated(content, stated, whole, rows))]
    found = [(part, _rows(stated, part.residues)) for part in parts]
    is_known = any(isinstance(rows, list) for _, rows in found)
    chains: list[tuple[Molecule, Chain | str]] = []
    for part, rows in found:
        if isinstance(rows, list):
            chains.append((part, _as_stated(content, stated, part.residues, rows)))
        elif is_known:  # it is not the molecule that SEQRES is of
            chains.append((part, _as_observed(content, part.residues)))
        else:
            number = f"{rows.site.number}{rows.site.icode}"
            reason = f"residue {number} of chain {part.chain} is not in its SEQRES"
            chains.append((part, reason))
    return chains


def _is_joined(parts: Sequence[Molecule], whole: Sequence[Residue], rows: list[int]) -> bool:
    """Whether what is missing between the parts can bridge them."""
    ends = np.cumsum([len(part.residues) for part in parts])[:-1]
    gaps = ((distance(whole[i - 1], whole[i]), rows[i] - rows[i - 1]) for i in ends)
    return all(not apart > STEP * step + 1 for apart, step in gaps)


def _rows(stated: Stated, residues: Sequence[Residue]) -> list[int] | Residue:
    """The position of each residue in the stated sequence, or the first that has none there."""
    names, length = set(stated.names), len(stated.names)
    ours = [next((n for n in each.variants if n in names), each.name) for each in residues]
    labels = [each.site.label for each in residues]
    if None not in labels:
        rows = [label - 1 for label in labels if label is not None]
        first = {row: i for i, row in reversed(list(enumerate(rows)))}
        wrong = [i for i, row in enumerate(rows) if not 0 <= row < length or first[row] != i]
        return residues[wrong[0]] if wrong else rows
    rows = [each.site.number - 1 for each in residues]
    pairs = zip(rows, ours, strict=True)
    fits = all(0 <= row < length and stated.names[row] == name for row, name in pairs)
    if fits and len(set(rows)) == len(rows):
        return rows
    gemmi = library("gemmi", "reading structures", "proteins")
    scoring = gemmi.AlignmentScoring("p")
    bonds = map(is_bonded, residues[:-1], residues[1:])
    gaps = [0, *(scoring.bad_gapo if bond else scoring.good_gapo for bond in bonds), 0]
    found = gemmi.align_string_sequences(list(stated.names), ours, gaps, scoring)
    rows, at = [], 0
    for count, kind in re.findall(r"(\d+)([MID])", found.cigar_str()):
        if kind == "D":
            return residues[len(rows)]
        rows += range(at, at + int(count)) if kind == "M" else ()
        at += int(count)
    return rows


def _as_stated(
    content: Content, stated: Stated, residues: Sequence[Residue], rows: Sequence[int]
) -> Chain:
    """The chain at the positions of its stated sequence."""
    there = dict(zip(rows, residues, strict=True))
    coords = np.full((len(stated.names), len(ATOMS), 3), np.nan, np.float32)
    letters = []
    for row, name in enumerate(stated.names):
        residue = there.get(row)
        letter = stated.letters[row : row + 1]
        if residue is None:
            letters.append(letter_of(name, _sure(letter) or content.parents.get(name, ""), True))
            continue
        coords[row] = residue.backbone
        says = _sure(letter) if residue.name == name else ""
        letters.append(_letter(residue, says or content.parent(residue)))
    return _chain(letters, coords, np.arange(len(letters)))


def _as_observed(content: Content, residues: Sequence[Residue]) -> Chain:
    """The chain of the residues that are there; numbers jump, by 2 at the least, at a break."""
    coords = np.stack([each.backbone for each in residues])
    apart = np.linalg.norm(np.diff(coords[:, 1], axis=0), axis=1)
    author = np.diff([each.site.place[0] for each in residues])
    steps = np.where(apart > BREAK, np.maximum(author, 2), 1)  # NaN is no break
    letters = [_letter(each, content.parent(each)) for each in residues]
    return _chain(letters, coords, np.concatenate([[0], np.cumsum(steps)]))


def _letter(residue: Residue, stated: str) -> tuple[str, str]:
    return letter_of(residue.name, stated, residue.is_het, residue.atoms)


def _sure(letter: str) -> str:
    return letter if letter != "X" else ""


def _chain(letters: Sequence[tuple[str, str]], coords: np.ndarray, number: np.ndarray) -> Chain:
    ways = Counter(way for _, way in letters)
    text = "".join(letter for letter, _ in letters)
    return Chain("", text, coords, number.astype(np.int32), ways)
