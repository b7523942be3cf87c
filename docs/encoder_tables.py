"""The tables of docs/encoders.md, from the registry: run it to write them anew; a test compares."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from reed import stage_one
from reed.encoders import ENCODERS

PAGE = Path(__file__).with_name("encoders.md")
HEAD = "| encoder | reads | fields | weights | licence |\n|---|---|---|---|---|\n"
BLOCK = re.compile(r"(<!-- encoders of (.*?) -->\n).*?(<!-- end -->)", re.S)


def written(page: str) -> str:
    """The page with its tables as the registry has them; an encoder that has none is an error."""
    groups: dict[str, list[str]] = {}
    for name in ENCODERS.names():
        groups.setdefault(module_of(ENCODERS.get(name)), []).append(row(name))

    def table(found: re.Match[str]) -> str:
        rows = [line for module in found[2].split() for line in groups.pop(module)]
        return found[1] + HEAD + "".join(rows) + found[3]

    page = BLOCK.sub(table, page)
    assert not groups, f"docs/encoders.md has no table for the encoders of {', '.join(groups)}"
    return page


def module_of(item: Any) -> str:
    """The module below reed.encoders that an encoder is made in."""
    return (item.func if isinstance(item, partial) else item).__module__.removeprefix(
        "reed.encoders."
    )


def row(name: str) -> str:
    """One line of a table."""
    encoder = stage_one.make_encoder(name, Path(), {})
    reads = ", ".join(f"`{place}`" for place in encoder.reads)
    fields = "; ".join(
        f"`{f.name}` {f.kind} {'×'.join('N' if n is None else str(n) for n in f.shape)} {f.codec}"
        for f in encoder.fields
    ).replace("  ", " ")
    return f"| `{name}` | {reads} | {fields} | {weights(encoder)} | {licence(encoder)} |\n"


def weights(encoder: Any) -> str:
    """Where the public weights are; a dash where there are none."""
    origin = getattr(encoder, "origin", None)
    if origin is None:
        return "–"
    if origin.repo:
        return f"`{origin.repo}`"
    return origin.url


def licence(encoder: Any) -> str:
    """In short: terms of use go below the tables."""
    return encoder.licence.partition(":")[0]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
