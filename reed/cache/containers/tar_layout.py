"""The bytes of a tar shard around the payloads, laid out once for records of the same sizes."""

from __future__ import annotations

import math
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from reed.cache.codecs.base import Part
from reed.cache.containers.block import Block, arrays_of

BLOCK = 512
NPY_HEADER = 512
_NAME, _CHECKSUM = slice(0, 100), slice(148, 154)  # of a ustar header
_DIGITS = np.arange(15, -1, -3)  # the bits of six octal digits


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return a version 1.0 .npy header of exactly 512 bytes (see numpy.lib.format)."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {tuple(shape)!r}, }}"
    body = text.encode().ljust(NPY_HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def ending(part: Part) -> str:
    """Return what the names of a part's members have after the name of the sample."""
    return f".{part.name}.{'txt' if part.dtype == 'utf8' else 'npy'}"


def tar_header(name: str, size: int) -> bytes:
    """Return a ustar header with constant owner, time and mode."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(format=tarfile.USTAR_FORMAT, encoding="ascii", errors="strict")


@dataclass(frozen=True)
class Layout:
    """Where everything is in a record.

    Attributes:
        parts: The parts of the column.
        lengths: Length of each part: rows, or bytes of text.
        heads: Offset of each part's headers.
        starts: Offset of each part's payload.
        sizes: Bytes of each part's payload.
        template: The record without names, their checksums and payloads.
    """

    parts: tuple[Part, ...]
    lengths: tuple[int, ...]
    heads: tuple[int, ...]
    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    template: bytes

    @property
    def size(self) -> int:
        """The bytes of a record."""
        return len(self.template)


@lru_cache(maxsize=1024)
def layout_of(parts: tuple[Part, ...], lengths: tuple[int, ...]) -> Layout:
    """Return the layout of the records whose parts have these lengths."""
    template, heads, starts, sizes = bytearray(), [], [], []
    for part, length in zip(parts, lengths, strict=True):
        heads.append(len(template))
        size, header = length, b""
        if part.dtype != "utf8":
            shape = part.shape_at(length)
            size, header = (
                np.dtype(part.dtype).itemsize * math.prod(shape),
                npy_header(part.dtype, shape),
            )
        template += tar_header("", len(header) + size) + header
        starts.append(len(template))
        sizes.append(size)
        template += bytes(size + -size % BLOCK)
    return Layout(parts, lengths, tuple(heads), tuple(starts), tuple(sizes), bytes(template))


class Image:
    """The bytes of some records of one layout in memory, to be filled again and again."""

    def __init__(self, layout: Layout, count: int) -> None:
        self.layout = layout
        self._bytes = np.empty((count, layout.size), np.uint8)
        self._bytes[:] = np.frombuffer(layout.template, np.uint8)

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def content(self) -> memoryview:
        """Return the bytes; valid until the next call of ``fill``."""
        return self._bytes.data.cast("B")

    def fill(self, block: Block) -> None:
        """Put records in."""
        layout = self.layout
        for i, (part, values) in enumerate(zip(layout.parts, block.values, strict=True)):
            self._name(block.names, ending(part), layout.heads[i])
            place = self._bytes[:, layout.starts[i] : layout.starts[i] + layout.sizes[i]]
            if part.dtype == "utf8":
                place[:] = np.frombuffer(b"".join(values), np.uint8).reshape(place.shape)
            elif place.size:
                place[:] = arrays_of(part, values).view(np.uint8).reshape(place.shape)

    def _name(self, names: Sequence[str], ending: str, head: int) -> None:
        """Put the names of one part's members into their headers, and the checksums."""
        field = np.array([(name + ending).encode("ascii") for name in names], "S100")
        letters = field.view(np.uint8).reshape(len(names), 100)
        header = self._bytes[:, head : head + BLOCK]
        header[:, _NAME] = letters

        # In a checksum, the eight bytes of the checksum itself count as spaces.
        empty = np.frombuffer(self.layout.template[head : head + BLOCK], np.uint8)
        rest = int(empty.sum(dtype=np.int64)) - int(empty[148:156].sum(dtype=np.int64)) + 8 * 32
        sums = rest + letters.sum(axis=1, dtype=np.int64)
        header[:, _CHECKSUM] = ((sums[:, None] >> _DIGITS) & 7) + ord("0")
