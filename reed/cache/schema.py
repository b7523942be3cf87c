"""What a cache says about itself: manifest, columns, fields, markers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reed import config
from reed.cache.sealed import dump as dump
from reed.cache.sealed import read
from reed.errors import ReedError, suggest

FORMAT = 1
CONTAINERS = ("tar", "h5", "zarr")  # how shards are stored, and the suffix of their files

KINDS = {
    "data": "what the model generates or is given, as stored",
    "moments": "mean and standard deviation of what the model generates, on the channel axis",
    "label": "one integer class per sample",
    "text": "a UTF-8 string, the input of another encoder",
    "token": "a representation per token, [tokens, channels]",
    "sample": "one representation per sample, [channels]",
    "pair": "a representation per pair of tokens, [tokens, neighbours, channels]",
}


@dataclass(frozen=True)
class Field:
    """One array per sample in a column.

    kind: a key of KINDS; shape: of one sample, a leading None where the length varies;
    codec: how it is stored (reed.cache.codecs.codecs); scale, shift: what a net sees is
    (stored - shift) * scale, one number or one per channel.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...]
    codec: str = "float32"
    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,23}", self.name) is None:
            rule = "use at most 24 letters, digits, '_' and '-'"  # it is part of a member's name
            raise ReedError(f"field name {self.name!r}: {rule}")
        if self.kind not in KINDS:
            problem = f"field {self.name!r} has the unknown kind {self.kind!r}."
            raise ReedError(problem + suggest(self.kind, KINDS))
        if None in self.shape[1:] or any(n is not None and n < 0 for n in self.shape):
            rule = "lengths of 0 or more, of which the first may be null"
            raise ReedError(f"field {self.name!r} has the shape {self.shape}; use {rule}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape, of a field whose length does not vary."""
        assert None not in self.shape, f"{self.name} has the shape {self.shape}"
        return tuple(n for n in self.shape if n is not None)

    @property
    def is_target(self) -> bool:
        """Whether a hidden state can be aligned to it."""
        return self.kind in ("token", "sample", "pair")

    @property
    def channel_axis(self) -> int:
        """The axis of one sample's array that statistics keep: an image's first, else the last."""
        image = self.kind in ("data", "moments") and None not in self.shape
        return 0 if image else -1


@dataclass(frozen=True)
class Column:
    """One encoder's output over one data set: the content of column.json.

    encoder: its registry name; revision: everything the bytes depend on besides the inputs;
    reads: source entries ("pixels") and other columns ("describe/caption"); inputs: the identity
    of every column it read; calibration: the sha256 of calibration.npz, empty without one;
    options: the encoder's settings that were given, to build it in the same way again.
    """

    name: str
    encoder: str
    revision: str
    reads: tuple[str, ...]
    fields: tuple[Field, ...]
    licence: str = ""
    container: str = "tar"
    inputs: dict[str, str] = dataclasses.field(default_factory=dict)
    calibration: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def field(self, name: str) -> Field:
        """The field called `name`; ReedError with the nearest one."""
        for field in self.fields:
            if field.name == name:
                return field
        names = [field.name for field in self.fields]
        raise ReedError(f"column {self.name!r} has no field {name!r}.{suggest(name, names)}")

    def identity(self) -> str:
        """A short hash of everything that its values depend on, so not of the container."""
        # what options mean for the values is in the fields and the revision
        values = replace(self, container="tar", options={})
        text = json.dumps(config.plain(values), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Manifest:
    """The frozen plan of a cache: the content of manifest.json.

    segments: the number of samples of the first build and of each extension, in order; shards
    never cross a segment. keys_sha256: of keys.txt, so that neither changes alone. views: records
    per sample, 2 where the mirrored sample is stored beside it; options: the source's settings,
    with the names of the classes as `classes`, where the data names some.
    """

    format: int
    pipeline: str
    domain: str
    source: str
    shard_size: int
    order_seed: int
    segments: tuple[int, ...]
    keys_sha256: str
    views: int = 1
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def samples(self) -> int:
        """The number of samples over all segments."""
        return sum(self.segments)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by number: never reordered, longer after an extension."""
        return tuple(self.options.get("classes", ()))


@dataclass(frozen=True)
class Marker:
    """What is written after a shard of a column is in place, and makes it count.

    keys: of the records, in order; failed: key -> reason of the samples left out;
    parts: where each part's payloads lie (the container's index); stats: per field the number
    of values per channel, their sum and their sum of squares, before the codec.
    """

    column: str
    shard: int
    keys: tuple[str, ...]
    failed: dict[str, str]
    bytes: int
    sha256: str
    parts: dict[str, Any]
    stats: dict[str, Any]


def load_manifest(cache: Path) -> Manifest:
    """The manifest of the cache folder; ReedError when there is none or of another format."""
    path = cache / "manifest.json"
    if not path.is_file():
        raise ReedError(f"no cache at {cache} (no manifest.json); build one with: reed-cache build")
    data = read(path)
    if data.get("format") != FORMAT:
        raise ReedError(f"{path} has format {data.get('format')!r}, this version reads {FORMAT}")
    manifest = config.build(Manifest, data, str(path))
    least = min(manifest.shard_size, *manifest.segments, len(manifest.segments))
    if least < 1 or manifest.views not in (1, 2):
        what = f"a shard_size or segment of {least}, or {manifest.views} views"
        raise ReedError(f"{path} has {what}; restore it")
    return manifest


def load_column(cache: Path, name: str) -> Column:
    """The description of one column; ReedError naming the columns there are."""
    path = cache / name / "column.json"
    if not is_column_name(name) or not path.is_file():
        raise ReedError(f"cache {cache} has no column {name!r}.{suggest(name, columns(cache))}")
    column = config.build(Column, read(path), str(path))
    if column.container not in CONTAINERS:
        hint = suggest(column.container, CONTAINERS)
        raise ReedError(f"{path} names the unknown container {column.container!r}.{hint}")
    if column.name != name:
        raise ReedError(f"{path} describes column {column.name!r}, its folder is {name!r}")
    return column


def shard_path(cache: Path, column: Column, shard: int) -> Path:
    """Where a shard of a column is."""
    return cache / column.name / f"{shard:06d}.{column.container}"


def marker_path(cache: Path, column: Column, shard: int) -> Path:
    """Where the marker of a shard is."""
    return cache / column.name / f"{shard:06d}.json"


def load_marker(cache: Path, column: Column, shard: int, *, stats: bool = True) -> Marker:
    """The marker of one shard; ReedError when it is absent, does not parse or is another's.

    stats: whether to read these, too; they are most of the file, and reading records needs none.
    """
    path = marker_path(cache, column, shard)
    if not path.is_file():
        raise ReedError(f"column {column.name!r} of {cache} has no shard {shard}; rerun the build")
    table = read(path) if stats else read(path, until="stats") | {"stats": {}}
    marker = config.build(Marker, table, str(path))
    if (marker.column, marker.shard) != (column.name, shard):
        raise ReedError(f"{path} is the marker of {marker.column!r} shard {marker.shard}")
    return marker


def columns(cache: Path) -> list[str]:
    """The names of the columns that the cache has, complete or not."""
    return sorted(path.parent.name for path in cache.glob("*/column.json"))


def is_column_name(name: str) -> bool:
    """Whether `name` is fit to be a folder: letters, digits, '.', '_', '-', no leading dot."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) is not None


def with_codec(column: Column, codecs: dict[str, str]) -> Column:
    """The column with other codecs for some of its fields."""
    for name in codecs:
        column.field(name)
    changed = tuple(replace(f, codec=codecs.get(f.name, f.codec)) for f in column.fields)
    return replace(column, fields=changed)
