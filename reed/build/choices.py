"""The options of a build, as text and parsed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reed import config
from reed.cache import schema
from reed.errors import ReedError


@dataclass(frozen=True)
class Request:
    """The options of one `reed-cache` command.

    Attributes:
        pipeline: Name of the pipeline.
        cache: Folder of the cache.
        encoders: NAME, COLUMN=NAME or COLUMN=package.module:attribute; those of the pipeline if
            empty.
        source: Source that reads the raw data at ``data``; if empty, that of the cache or else of
            the pipeline.
        data: Folder or file of the raw data.
        codecs: COLUMN/FIELD=CODEC.
        options: COLUMN.NAME=VALUE for a setting of a column's encoder, or source.NAME=VALUE.
        container: Container of new columns; empty for the default.
        device: Device of the encoders.
        flip: Whether to store the mirrored samples, too.
        extend: Whether to take new samples in.
        rebuild: Whether to remove the existing cache first.
        latents: Column that replaces the pixels of the pipeline, NAME or COLUMN=NAME; empty for
            none.
        max_failed: Share of the samples of a column that may fail, such as "10%"; that of the cache
            if empty, or 1 %.
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
    max_failed: str = ""
    latents: str = ""


def parse_share(text: str) -> float | None:
    """Return the share that "10%" or "0.1" states; None for an empty text."""
    if not text:
        return None
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ReedError(f"--max-failed is {text!r}; write a share from 0% to 100%, such as 10%")
    return share


def parse_options(choices: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return the settings by column, from COLUMN.NAME=VALUE; a value is TOML or a bare word."""
    settings: dict[str, Any] = {}
    for choice in choices:
        settings = config.merge(settings, config.assignment(choice))
    for name, table in settings.items():
        if not isinstance(table, dict):
            raise ReedError(f"--set {name}=… does not name a column; write COLUMN.{name}=…")
    return settings


def parse_encoder(text: str) -> tuple[str, str]:
    """Return the column and the encoder of NAME, COLUMN=NAME or COLUMN=module:attribute."""
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
    """Return (field, codec) pairs by column, from COLUMN/FIELD=CODEC."""
    chosen: dict[str, tuple[tuple[str, str], ...]] = {}
    for choice in choices:
        address, equals, codec = choice.partition("=")
        column, slash, field = address.partition("/")
        if not (equals and slash):
            raise ReedError(f"--codec {choice!r} is not COLUMN/FIELD=CODEC")
        chosen[column] = (*chosen.get(column, ()), (field, codec))
    return chosen
