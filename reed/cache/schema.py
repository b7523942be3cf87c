"""The JSON records of a cache: manifest, columns, fields and markers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reed import config
from reed.bytes import check_enterable, is_closed
from reed.cache.sealed import dump as dump
from reed.cache.sealed import read
from reed.errors import ReedError, suggest
from reed.store import mirror

FORMAT = 1
MAX_FAILED = 0.01  # share of the samples of a column that may fail, unless the plan says otherwise
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
    """One array or text per sample in a column.

    Attributes:
        name: Name of the field; also part of the names of its members in a shard.
        kind: A key of ``KINDS``.
        shape: Shape of one sample; a leading None where the length varies.
        codec: How the values are stored, see `reed.cache.codecs.codecs`.
        scale, shift: A net sees (stored - shift) * scale; one number, or one per channel.
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
        """Return the shape of a field whose length does not vary."""
        assert None not in self.shape, f"{self.name} has the shape {self.shape}"
        return tuple(n for n in self.shape if n is not None)

    @property
    def is_target(self) -> bool:
        """Whether hidden states can be aligned with the field."""
        return self.kind in ("token", "sample", "pair")

    @property
    def channel_axis(self) -> int:
        """Return the axis that statistics keep: the first of an image, else the last."""
        is_image = self.kind in ("data", "moments") and None not in self.shape
        return 0 if is_image else -1


@dataclass(frozen=True)
class Column:
    """One encoder's output for a whole data set: the content of column.json.

    Attributes:
        name: Name of the column and of its folder.
        encoder: Registry name of the encoder.
        revision: All that the bytes depend on besides the inputs.
        reads: Source entries ("pixels") and fields of other columns ("describe/caption").
        fields: The fields of a record, in the order in which they are stored.
        licence: Licence of the encoder's weights, or of the data that it copies.
        container: Container of the shards, one of ``CONTAINERS``.
        inputs: The identity of every column that the encoder read, by name.
        calibration: The sha256 of calibration.npz; empty without one.
        options: The settings that the encoder was given, to build it in the same way again.
        made_from: "column/field" -> codec, of a column that was transcoded; empty for others.
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
    made_from: dict[str, str] = dataclasses.field(default_factory=dict, metadata=config.OMITTED)

    def field(self, name: str) -> Field:
        """Return the field called ``name``; ReedError, with the nearest name, if there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        hint = suggest(name, [field.name for field in self.fields])
        raise ReedError(f"column {self.name!r} has no field {name!r}.{hint}")

    def identity(self) -> str:
        """Return a short hash of all that the values depend on; the container is not part of it."""
        # The fields and the revision already state what the options mean for the values.
        values = replace(self, container="tar", options={})
        text = json.dumps(config.plain(values), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Manifest:
    """The frozen plan of a cache: the content of manifest.json.

    Attributes:
        format: Version of the on-disk format.
        pipeline: Name of the pipeline.
        domain: Name of the domain.
        source: Name of the source.
        shard_size: Samples of a full shard.
        order_seed: Seed of the cache order.
        segments: Number of samples of the first build and of each extension, in order. Shards
            never cross a segment.
        keys_sha256: The sha256 of the lists of keys, so that neither file changes alone.
        views: Records per sample; 2 where the mirrored sample is stored beside it.
        options: Settings of the source, with the names of the classes as ``classes`` where the
            data names them.
        max_failed: Share of the samples of a column that may fail; in the file only if it is not
            the usual one.
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
    max_failed: float = MAX_FAILED

    @property
    def samples(self) -> int:
        """Return the number of samples in all segments."""
        return sum(self.segments)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names by number; never reordered, longer after an extension."""
        return tuple(self.options.get("classes", ()))


@dataclass(frozen=True)
class Marker:
    """The record that completes a shard: it is written after the shard file is in place.

    Attributes:
        column: Name of the column.
        shard: Number of the shard.
        keys: Keys of the samples in the shard, in order.
        failed: Key -> reason, of the samples that were left out.
        bytes: Size of the shard file.
        sha256: Hash of the shard file.
        parts: Where the payloads of each part are: the container's index.
        stats: Number of values per channel, their sum and their sum of squares, before the codec,
            by field.
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
    """Return the manifest of a cache.

    Raises:
        ReedError: There is no manifest, or it is damaged or of another format.
    """
    path = cache / "manifest.json"
    if not path.is_file():
        at = mirror.shown(cache)
        raise ReedError(f"no cache at {at} (no manifest.json); build one with: reed-cache build")
    data = read(path)
    if data.get("format") != FORMAT:
        raise ReedError(f"{path} has format {data.get('format')!r}, this version reads {FORMAT}")

    manifest = config.build(Manifest, data, str(path))
    least = min(manifest.shard_size, *manifest.segments, len(manifest.segments))
    if least < 1 or manifest.views not in (1, 2):
        problem = f"has a shard_size or segment of {least}, or {manifest.views} views"
        raise ReedError(f"{path} {problem}; restore it")
    return manifest


def load_column(cache: Path, name: str) -> Column:
    """Return the description of one column.

    Raises:
        ReedError: There is no such column (the message names those that exist), or column.json is
            damaged.
    """
    path = cache / name / "column.json"
    check_enterable(path.parent)
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
    """Return the path of a shard of a column."""
    return cache / column.name / f"{shard:06d}.{column.container}"


def marker_path(cache: Path, column: Column, shard: int) -> Path:
    """Return the path of the marker of a shard."""
    return cache / column.name / f"{shard:06d}.json"


def load_marker(cache: Path, column: Column, shard: int, *, stats: bool = True) -> Marker:
    """Return the marker of one shard.

    Args:
        cache: Folder of the cache.
        column: The column.
        shard: Number of the shard.
        stats: Whether to parse the statistics, too, which are most of the file.

    Raises:
        ReedError: The marker is missing, damaged or that of another shard.
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
    """Return the columns of a cache, complete or not, and folders that may not be entered."""
    closed = {p.name for p in cache.glob("*/") if is_column_name(p.name) and is_closed(p)}
    return sorted(closed | {path.parent.name for path in cache.glob("*/column.json")})


def has_shards(cache: Path, name: str) -> bool:
    """Whether a column has a finished shard; without one, it binds no later build."""
    folder = cache / name
    check_enterable(folder)
    return (folder / "column.json").is_file() and any(folder.glob("[0-9]*.json"))


def is_column_name(name: str) -> bool:
    """Whether ``name`` is a valid column name: letters, digits, ".", "_", "-", no leading dot."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) is not None


def with_codec(column: Column, codecs: dict[str, str]) -> Column:
    """Return the column with other codecs, by the names of their fields."""
    for name in codecs:
        column.field(name)
    changed = tuple(replace(f, codec=codecs.get(f.name, f.codec)) for f in column.fields)
    return replace(column, fields=changed)
