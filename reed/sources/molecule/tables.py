"""Lists of SMILES: what separates their cells, where the SMILES are, and where each record lies."""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from reed.chem import rdkit
from reed.errors import ReedError

NAME = "smiles"  # in the name of a column that holds SMILES
SEPARATORS = (",", ";", "\t", "|")
BLANKS = ""  # the separator of lists whose first word is the SMILES
_BLANK = " \r\n"
NOTHING = frozenset({"", "-", "na", "n/a", "nan", "none", "null"})  # cells of no SMILES, lower case
_SHORT = 3
LOOKED = 10  # records that show what a list holds
_NAMES = re.compile(r"(?:[^a-z]|\A)(?:name|title|id)\Z")  # "zinc_id", "Compound ID"
# The SMILES; the extension of a CXSMILES, which is no column; what separates the name; the name.
_WORDS = re.compile(r"\s*\S+(?:[ \t]+\|[^|\r\n]*\|)?([ \t]+)(\S.*)")
_EXCEL = re.compile(rb'"?sep=(.)"?[ \t]*(?:\r\n|\r|\n|\Z)', re.IGNORECASE)
_LONGEST = 131072  # characters of a quoted cell, as in Python's csv: a stray quote ends nowhere


@dataclass(frozen=True)
class Dialect:
    """How the records of a list are written.

    Attributes:
        separator: Between cells, or BLANKS.
        column: The number of the cell that holds the SMILES, from 0.
        header: Names of the columns in the first record; empty if it names none.
    """

    separator: str
    column: int
    header: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Return the number of columns that the first record names; 0 if it names none."""
        return len(self.header)

    @property
    def has_header(self) -> bool:
        """Whether the first record names the columns."""
        return self.width > 0

    def name_column(self, wanted: str, is_table: bool, path: str) -> int | None:
        """Return the column of the names; None if the list has none.

        Args:
            wanted: Name of the column, or "auto": the first one beside the SMILES; in a table with
                a header, the one called name, title or id, or the only one that ends so.
            is_table: Whether the ending is that of a table.
            path: The path of the file, for the message.

        Raises:
            ReedError: No column has the name that is asked for.
        """
        lower = [name.lower() for name in self.header]
        if wanted != "auto" and self.header:
            if wanted.lower() not in lower:
                names = ", ".join(self.header)
                raise ReedError(
                    f"{path} has no column {wanted!r} of names; its first line is {names[:200]!r}: "
                    "name another by --set source.names=NAME, or use numbers: source.names=none"
                )
            return lower.index(wanted.lower())
        if not is_table or not self.header:
            return 0 if self.column else 1

        # In a table the second column may be anything, so it has to be called a name.
        for called in ("name", "title", "id"):
            if called in lower:
                return lower.index(called)
        ending = [i for i, name in enumerate(lower) if _NAMES.search(name) and i != self.column]
        return ending[0] if len(ending) == 1 else None

    def name(self, record: str, column: int | None) -> str:
        """Return the cell of a record that holds its name; empty if there is none."""
        if column is None:
            return ""
        if self.separator == BLANKS and not self.header:
            match = _WORDS.match(record)
            # Blanks may be part of a name behind a tab.
            return _named(match[2].split("\t" if "\t" in match[1] else None)) if match else ""
        values = cells(record, self.separator)
        return _named(values[column:])

    def spans(self, data: bytes | mmap.mmap, start: int) -> list[tuple[int, int]]:
        """Return where each record begins and ends, without the header; blank lines are none."""
        pattern = _record(self.separator)
        found = [match.span() for match in pattern.finditer(data, start)]
        return found[self.has_header :]

    def smiles(self, record: str) -> str:
        """Return the SMILES of a record; empty if the record has none, or is a comment."""
        values = cells(record, self.separator)
        found = values[self.column] if self.column < len(values) else ""
        return "" if found.lower() in NOTHING or found.startswith("#") else found

    def excess(self, record: str) -> int:
        """Return the number of cells of a record with more than its header names; 0 for others.

        A separator within a cell that is not quoted shifts the cells behind it.
        """
        if not self.width or self.separator == BLANKS:
            return 0
        values = cells(record, self.separator)
        while len(values) > self.width and not values[-1]:
            values.pop()
        return len(values) if len(values) > self.width else 0


def _named(values: list[str]) -> str:
    """Return the first cell as a name; empty if there is none."""
    found = values[0].strip() if values else ""
    return "" if found.lower() in NOTHING else found


def separator_of_excel(data: bytes | mmap.mmap, start: int) -> tuple[str, int]:
    """Return what a first line such as ``sep=;`` says, and where the text behind it begins."""
    match = _EXCEL.match(data, start)
    return (match[1].decode("latin-1"), match.end()) if match else ("", start)


def dialect(
    data: bytes | mmap.mmap, start: int, path: str, smiles: str, is_table: bool, stated: str = ""
) -> Dialect:
    """Return how a list is written, as its first records tell.

    Args:
        data: The bytes of the file.
        start: The place where its text begins.
        path: The path of the file, for messages.
        smiles: The column that holds the SMILES; empty: one called smiles, else the only one whose
            name has it, else the first.
        is_table: Whether the ending is that of a table; other lists have SMILES first in a line,
            unless the first line names columns.
        stated: The separator that the file states.

    Raises:
        ReedError: If several columns may hold the SMILES, or none has the name that is asked for.
    """
    known = (stated,) if stated else SEPARATORS
    firsts = {separator: _first(data, start, separator) for separator in known}
    several = {sep: names for sep, names in firsts.items() if len(names) > 1}
    if not is_table:  # Blanks separate cells unless something else does.
        firsts = {sep: names for sep, names in several.items() if _is_header(names)}
        words = [] if len(firsts) < len(several) else _first(data, start, BLANKS)
        firsts |= {BLANKS: words} if words and _is_header(words) else {}
    headers = {sep: names for sep, names in firsts.items() if _candidates(names, smiles)}

    if headers:
        separator = max(headers, key=lambda sep: _certainty(headers[sep], sep, smiles))
        column = _column(headers[separator], smiles, path)
        found = Dialect(separator, column, tuple(headers[separator]))
        if not smiles and headers[separator][column].lower() != NAME:
            _check_rivals(found, data, start, headers[separator], path)
        return found
    if smiles and is_table:
        names = ", ".join(max(firsts.values(), key=len))
        problem = f"{path} has no column {smiles!r}; its first line is {names[:200]!r}"
        raise ReedError(f"{problem}: name the one that holds SMILES by --set source.smiles=NAME")
    if is_table:
        return Dialect(stated or _after_first(firsts), 0)
    return max(
        (Dialect(separator, 0) for separator in (BLANKS, *several)),
        key=lambda way: sum(is_smiles(way.smiles(text)) for text in _records(way, data, start)),
    )


def cells(record: str, separator: str) -> list[str]:
    """Return the cells of a record, without the quotes and blanks around them."""
    if separator == BLANKS:
        return record.split()
    found = re.findall(rf"(?:\A|{re.escape(separator)}){_cell(separator)}", record)
    texts = (text.removeprefix(separator) if i else text for i, text in enumerate(found))
    return [_bare(text) for text in texts]


def _bare(text: str) -> str:
    """Return a cell without quotes, and blanks around it; a tab may be another list's separator."""
    text = text.strip(_BLANK)
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('""', '"').strip(_BLANK)
    return text


def _cell(separator: str) -> str:
    """Return the pattern of a cell: quoted, where line breaks and separators may be, or plain."""
    sep = re.escape(separator)
    some = rf'[^"]{{0,{_LONGEST}}}+'
    quoted = rf'"{some}(?:""{some})*+" *(?={sep}|[\r\n]|\Z)'
    return rf"(?:{quoted}|[^{sep}\r\n]*+)"


@lru_cache(maxsize=len(SEPARATORS) + 1)
def _record(separator: str) -> re.Pattern[bytes]:
    """Return the pattern of a record that is not blank."""
    if separator == BLANKS:
        return re.compile(rb"[^\r\n]*[^\s][^\r\n]*")
    cell, sep = _cell(separator), re.escape(separator)
    return re.compile(rf"(?=[^\r\n]){cell}(?:{sep}{cell})*+".encode())


def _first(data: bytes | mmap.mmap, start: int, separator: str) -> list[str]:
    """Return the cells of the first record."""
    match = _record(separator).search(data, start)
    return cells(match[0].decode(errors="replace"), separator) if match else []


def _records(way: Dialect, data: bytes | mmap.mmap, start: int) -> list[str]:
    """Return the first records below the header."""
    matches = islice(_record(way.separator).finditer(data, start), LOOKED + way.has_header)
    return [match[0].decode(errors="replace") for match in matches][way.has_header :]


def is_smiles(cell: str) -> bool:
    """Return whether RDKit reads a cell as a SMILES."""
    return bool(cell) and rdkit.library().MolFromSmiles(cell) is not None


def _check_rivals(
    way: Dialect, data: bytes | mmap.mmap, start: int, names: list[str], path: str
) -> None:
    """Refuse a list of which another column holds molecules, too.

    Only a column called smiles is certain: "reactant_smiles" beside "product" is not.
    """
    rows = [cells(record, way.separator) for record in _records(way, data, start)]
    rivals = [way.column]
    for column in range(len(names)):
        held = [row[column] for row in rows if column < len(row)]
        held = [cell for cell in held if cell.lower() not in NOTHING]
        # Some names and formulas of two or three letters are SMILES as well.
        is_long = any(len(cell) > _SHORT for cell in held)
        if column != way.column and is_long and all(map(is_smiles, held)):
            rivals.append(column)
    if len(rivals) > 1:
        raise _ambiguous([names[column] for column in sorted(rivals)], names[way.column], path)


def _after_first(firsts: dict[str, list[str]]) -> str:
    """Return the separator behind the first cell of the first record; SMILES contain none."""
    several = {sep: names for sep, names in firsts.items() if len(names) > 1}
    return min(several, key=lambda sep: len(several[sep][0]), default=SEPARATORS[0])


def _candidates(names: list[str], smiles: str) -> list[int]:
    """Return the columns that may hold the SMILES: those asked for, called smiles, or ending so."""
    wanted, lower = smiles or NAME, [name.lower() for name in names]
    same = [number for number, name in enumerate(names) if name == wanted]
    if len(same) == 1:
        return same
    exact = [number for number, name in enumerate(lower) if name == wanted.lower()]
    if exact or smiles:
        return exact
    return [number for number, name in enumerate(lower) if NAME in name]


def _certainty(names: list[str], separator: str, smiles: str) -> tuple[bool, bool, int]:
    """Return how likely a separator is, from the names that it gives."""
    chosen = names[_candidates(names, smiles)[0]]
    return separator != BLANKS, not any(sep in chosen for sep in SEPARATORS), len(names)


def _is_header(names: list[str]) -> bool:
    """Return whether the first line of a list without columns is no molecule with its name."""
    first = names[0]
    return first.lower().endswith(NAME) or rdkit.library().MolFromSmiles(first) is None


def _column(names: list[str], smiles: str, path: str) -> int:
    """Return the only column that may hold the SMILES; ReedError where there are several."""
    found = _candidates(names, smiles)
    if len(found) > 1:
        raise _ambiguous([names[i] for i in found], names[found[0]], path)
    return found[0]


def _ambiguous(names: list[str], first: str, path: str) -> ReedError:
    several = ", ".join(map(repr, names))
    problem = f"{path}: the columns {several} may all hold the SMILES"
    return ReedError(f"{problem}; name one by --set source.smiles={first}")
