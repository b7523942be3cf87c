"""What the documents tell a reader to type: pages, their fenced blocks, commands and files.

Test modules run this file with runpy. A fence says what it holds: `sh` is commands, one or more
lines each; `text` is output; `toml`, `python` and `json` are files, whose name the first line may
give (`# patches.toml`), or, where the format has no comments, the line before (`<!-- my.json -->`).
So is what a page includes (`:::{literalinclude} examples/patches.py`).
A fence that says nothing is taken for commands, so what is none of them fails.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
NAMED = re.compile(r"(?:#|<!--) (?P<name>[\w./-]+\.(?:toml|py|json|jsonl))(?: -->)?")
INCLUDED = re.compile(r"^:::\{literalinclude\} (\S+)$", re.M)
COMMANDS, OUTPUT = ("sh", ""), "text"
PARSERS = {"toml": tomllib.loads, "python": ast.parse, "json": json.loads}


@dataclass(frozen=True)
class Block:
    """A fenced block; line: of its first line in the page; before: the line above the fence."""

    page: str
    line: int
    language: str
    text: str
    before: str

    @property
    def name(self) -> str:
        """The file that the block is, or nothing."""
        first = self.text.partition("\n")[0]
        found = NAMED.fullmatch(first.strip()) or NAMED.fullmatch(self.before.strip())
        return found["name"] if found else ""


@dataclass(frozen=True)
class Command:
    """One command with its continuation lines; said: what the comments beside it say."""

    page: str
    line: int
    text: str
    said: str

    @property
    def words(self) -> list[str]:
        """As the shell gives them to the program."""
        return shlex.split(self.text, comments=True)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def pages() -> list[str]:
    """Every document with commands, by its path in the repository."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "cache" / "README.md"]
    found += sorted((ROOT / "docs").rglob("*.md"))
    return [path.relative_to(ROOT).as_posix() for path in found]


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        above = text[: found.start()]
        indent = len(found["indent"])
        inner = "".join(line[indent:] or "\n" for line in found["text"].splitlines(keepends=True))
        before = above.rstrip("\n").rpartition("\n")[2]
        line = above.count("\n") + 2
        yield Block(page, line, found["language"].strip(), inner, before)


def commands(page: str) -> list[Command]:
    """The commands of a page, in order."""
    found = []
    for block in blocks(page):
        lines, number = block.text.splitlines(), 0
        while block.language in COMMANDS and number < len(lines):
            first = number
            while lines[number].endswith("\\") and number + 1 < len(lines):
                number += 1
            number += 1
            parts = lines[first:number]
            text = " ".join(part.removesuffix("\\").strip() for part in parts)
            if text and not text.startswith("#"):
                said = " ".join(part.partition(" #")[2] for part in parts)
                found.append(Command(page, block.line + first, text.partition("  #")[0], said))
    return found


def files(page: str) -> dict[str, str]:
    """The files that a page shows, by name; what it includes lies beside it."""
    path = ROOT / page
    included = [path.parent / name for name in INCLUDED.findall(path.read_text(encoding="utf-8"))]
    shown = {block.name: block.text for block in blocks(page) if block.name}
    return shown | {each.name: each.read_text(encoding="utf-8") for each in included}


def mentioned(page: str) -> set[str]:
    """What the text of a page has between backticks, in one line each."""
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return {" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text)}


def unclosed(page: str) -> int:
    """How many marks of fences are in no block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return len(re.findall(r"^ *```", text, re.M)) - 2 * len(list(blocks(page)))


def unreadable(block: Block) -> str:
    """Why a block is not what its fence says; empty where it is."""
    if block.language in (*COMMANDS, OUTPUT):
        return ""
    if block.language not in PARSERS:
        return f"a fence of {block.language!r}: use sh, text, toml, python or json"
    try:
        PARSERS[block.language](block.text)
    except (SyntaxError, ValueError) as error:
        return f"is no {block.language}: {error}"
    return ""
