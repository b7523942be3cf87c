"""What is asked of a build: its options, as text and taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reed import config
from reed.cache import schema
from reed.errors import ReedError


@dataclass(frozen=True)
class Request:
    """What a user asks `reed-cache` to build.

    encoders: NAME or COLUMN=NAME or COLUMN=package.module:attribute, those of the pipeline if
    empty; source: what reads the raw data at `data`, the cache's or else the pipeline's if empty;
    codecs: COLUMN/FIELD=CODEC; options: COLUMN.NAME=VALUE, settings of its encoder, or
    source.NAME=VALUE; flip: store the mirrored samples too; extend: take new samples in; rebuild:
    throw away what is there.
    """

    pipeline: str
    cache: Path
    encoders: tuple[str, ...] = ()
    source: str = ""
    data: Path | None = None
    codecs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    container: str = ""
    device: str = "cpu"
    flip: bool = False
    extend: bool = False
    rebuild: bool = False


def parse_options(choices: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """COLUMN.NAME=VALUE by column; the value is TOML, or a bare word."""
    found: dict[str, Any] = {}
    for choice in choices:
        found = config.merge(found, config.assignment(choice))
    for name, table in found.items():
        if not isinstance(table, dict):
            raise ReedError(f"--set {name}=… does not say of what; write COLUMN.{name}=…")
    return found


def parse_encoder(text: str) -> tuple[str, str]:
    """The column and the encoder that NAME, COLUMN=NAME or COLUMN=module:attribute stand for."""
    column, equals, encoder = text.partition("=")
    if not equals and ":" in text:
        raise ReedError(
            f"--encoder {text!r} does not say what its column is called; write NAME={text}"
        )
    if not schema.is_column_name(column):
        rule = "use letters, digits, '.', '_' and '-' only"
        raise ReedError(f"--encoder {text!r}: its column cannot be called {column!r}; {rule}")
    return column, encoder if equals else column


def parse_codecs(choices: tuple[str, ...]) -> dict[str, tuple[tuple[str, str], ...]]:
    """COLUMN/FIELD=CODEC by column, as (field, codec) pairs."""
    chosen: dict[str, tuple[tuple[str, str], ...]] = {}
    for choice in choices:
        place, equals, codec = choice.partition("=")
        column, slash, field = place.partition("/")
        if not (equals and slash):
            raise ReedError(f"--codec {choice!r} is not COLUMN/FIELD=CODEC")
        chosen[column] = (*chosen.get(column, ()), (field, codec))
    return chosen
