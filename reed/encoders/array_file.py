"""Representations that were computed elsewhere, for any kind of data, joined by sample key."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.bytes import file_sha256
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.keyed import open_arrays
from reed.errors import ReedError, at_least, suggest

KINDS = ("sample", "token")


@ENCODERS.register("array-file")
@dataclass
class ArrayFile:
    """One array per sample, from a file or a folder that holds an array per key.

    That is the entry KEY of an .npz, .safetensors or .h5 file, the file KEY.npy in a folder, or the
    row of parquet files whose column ``key`` is KEY.

    The field ``array`` is float32 and stored as float16 unless another codec is chosen. A sample
    that has no array, or an array of another shape, fails.

    Attributes:
        file: The file, or the folder of .npy or .parquet files.
        kind: ``sample`` for arrays of shape [channels], ``token`` for [N, channels].
        channels: Length of the last axis of every array.
        rows: For the kind ``token``, a field of the same sample that has as many rows, such as
            ``molecule/atoms`` or ``chain/residue``; an array of another length fails. Empty to
            accept any length.
        entry: Of parquet, the column with the arrays; empty for the only one besides ``key``.
        licence: Licence of the arrays.
        batch_size: Samples per call of ``encode``.
    """

    file: Path = Path("arrays.npz")
    kind: str = "sample"
    channels: int = 512
    rows: str = ""
    entry: str = ""
    licence: str = "as stated with the arrays"
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ReedError(f"array-file: unknown kind {self.kind!r}.{suggest(self.kind, KINDS)}")
        at_least(1, "array-file: ", channels=self.channels)
        if self.rows and self.kind != "token":
            problem = f"array-file: rows is {self.rows!r}, kind is {self.kind!r}"
            raise ReedError(f"{problem}; only arrays of the kind 'token' have rows")

    @property
    def reads(self) -> tuple[str, ...]:
        """The key, and the field whose length is compared."""
        return ("key", *([self.rows] if self.rows else []))

    @property
    def fields(self) -> tuple[Field, ...]:
        """The single field ``array``, of the chosen kind."""
        shape = (self.channels,) if self.kind == "sample" else (None, self.channels)
        return (Field("array", self.kind, shape, "float16"),)

    def revision(self) -> str:
        """Return the sha256 of the file, or of the names and sizes of the folder's files."""
        if not self.file.is_dir():
            return file_sha256(self.file)[:16]
        sizes = sorted(
            f"{path.relative_to(self.file).as_posix()} {path.stat().st_size}"
            for path in self.file.rglob("*")
            if path.suffix in (".npy", ".parquet")
        )
        return f"names-sizes-{hashlib.sha256(chr(10).join(sizes).encode()).hexdigest()[:16]}"

    def check_files(self) -> None:
        """Raise ReedError unless the file can be opened."""
        self.load("cpu")

    def load(self, device: str) -> None:
        """Open the file or the folder.

        Raises:
            ReedError: It cannot be opened; see `reed.encoders.keyed.open_arrays`.
        """
        self._arrays = open_arrays(self.file, self.entry)

    def close(self) -> None:
        """Close what `load` has opened; nothing can be encoded afterwards."""
        self._arrays.close()

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return the ``array`` of each sample.

        Raises:
            BadSample: An array is missing, does not hold plain numbers or has another shape, or not
                the rows of the field ``rows``.
        """
        arrays = [self._array(sample["key"]) for sample in samples]
        for sample, array in zip(samples, arrays, strict=True):
            if self.rows and len(array) != (count := len(sample[self.rows])):
                raise BadSample(f"has {len(array)} rows, {self.rows} has {count}")
        return {"array": arrays}

    def _array(self, key: str) -> np.ndarray:
        try:
            array = self._arrays[key]
        except (LookupError, *_broken()) as error:
            raise BadSample(f"no sound array in {self.file}: {error}") from error
        (field,) = self.fields
        fits = array.dtype.kind in "fiu" and array.ndim == len(field.shape)
        if not fits or array.shape[-1] != self.channels:
            shape = [self.channels] if self.kind == "sample" else ["N", self.channels]
            raise BadSample(f"is {array.dtype} {list(array.shape)}, not numbers {shape}")
        return array.astype(np.float32)


def _broken() -> tuple[type[Exception], ...]:
    """Return the errors of a file that cannot be read."""
    from safetensors import SafetensorError

    return OSError, ValueError, EOFError, zipfile.BadZipFile, SafetensorError
