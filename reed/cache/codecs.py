"""How one array is stored: float32 | float16 | bfloat16 | int8 | integers | text.

A codec splits an array into named parts (an int8 payload and its scales, say), each of one dtype
and shape, so that a container only ever sees plain arrays. Encoding is numpy, decoding is torch
on whichever device the parts are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from reed.cache.schema import Field
from reed.errors import ReedError, suggest

if TYPE_CHECKING:
    import torch

State = dict[str, np.ndarray]


@dataclass(frozen=True)
class Part:
    """One stored array of a field: its name, numpy dtype ("utf8" for text) and shape."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def is_ragged(self) -> bool:
        """Whether its size differs from sample to sample."""
        return self.dtype == "utf8" or None in self.shape


class Codec(Protocol):
    """Encode one sample's array to parts, decode a batch of parts."""

    needs_calibration: bool

    def parts(self, field: Field) -> tuple[Part, ...]:
        """The parts that a field is stored as."""
        ...

    def calibrate(self, arrays: Sequence[np.ndarray]) -> State:
        """What the codec keeps of the whole column, from some of it; ReedError if not finite."""
        ...

    def encode(self, value: Any, state: State) -> tuple[Any, ...]:
        """The parts of one sample; ReedError when the value does not fit."""
        ...

    def decode(self, parts: Sequence[torch.Tensor], state: dict[str, torch.Tensor]) -> torch.Tensor:
        """A batch [B, ...] from its parts [B, ...], on their device."""
        ...


class Raw:
    """The array as it is, in one numpy dtype; floats decode to float32, integers to int64."""

    needs_calibration = False

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)

    def parts(self, field: Field) -> tuple[Part, ...]:
        return (Part(field.name, self._dtype.str, field.shape),)

    def calibrate(self, arrays: Sequence[np.ndarray]) -> State:
        return {}

    def encode(self, value: Any, state: State) -> tuple[Any, ...]:
        array = np.asarray(value)
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            stored = np.asarray(array, dtype=self._dtype, order="C")
        if self._dtype.kind in "iu":
            fits = np.array_equal(stored, array)
        else:
            fits = np.isfinite(stored).all()
        if not fits:
            raise ReedError(f"does not fit {self._dtype}: {_extremes(array)}")
        return (stored,)

    def decode(self, parts: Sequence[torch.Tensor], state: dict[str, torch.Tensor]) -> torch.Tensor:
        return parts[0].float() if parts[0].is_floating_point() else parts[0].long()


class BFloat16:
    """float32 rounded to its upper 16 bits, stored as uint16 because numpy has no bfloat16."""

    needs_calibration = False

    def parts(self, field: Field) -> tuple[Part, ...]:
        return (Part(field.name, "<u2", field.shape),)

    def calibrate(self, arrays: Sequence[np.ndarray]) -> State:
        return {}

    def encode(self, value: Any, state: State) -> tuple[Any, ...]:
        with np.errstate(over="ignore"):
            array = np.asarray(value, dtype=np.float32, order="C")
        bits = array.view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        if not np.isfinite(array).all() or ((rounded & 0x7F80) == 0x7F80).any():
            raise ReedError(f"does not fit bfloat16: {_extremes(array)}")
        return (rounded,)

    def decode(self, parts: Sequence[torch.Tensor], state: dict[str, torch.Tensor]) -> torch.Tensor:
        import torch

        return parts[0].view(torch.bfloat16).float()


class Int8:
    """int8 after division by a per-channel rms (of the column) and a per-token absolute maximum.

    Taking the channel's rms out first keeps outlier channels from using up the eight bits of
    all others. Storage is one byte per channel and four per token.
    """

    needs_calibration = True

    def parts(self, field: Field) -> tuple[Part, ...]:
        scales = Part(f"{field.name}-scale", "<f4", field.shape[:-1])
        return (Part(field.name, "|i1", field.shape), scales)

    def calibrate(self, arrays: Sequence[np.ndarray]) -> State:
        flat = np.concatenate([np.reshape(a, (-1, np.shape(a)[-1])) for a in arrays])
        rms = np.sqrt(np.mean(np.square(flat.astype(np.float64)), axis=0))
        if not np.isfinite(rms).all():
            raise ReedError(f"cannot calibrate int8: {_extremes(flat)}")
        # A channel that is silent here and not later would use up the eight bits of all others.
        least = 0.1 * rms.mean() or 1.0
        return {"rms": np.maximum(rms, least).astype(np.float32)}

    def encode(self, value: Any, state: State) -> tuple[Any, ...]:
        with np.errstate(over="ignore"):
            array = np.asarray(value, dtype=np.float32)
            even = array / state["rms"]
        if not np.isfinite(even).all():
            raise ReedError(f"does not fit int8: {_extremes(array)}")
        scale = np.abs(even).max(axis=-1) / np.float32(127)
        steps = even / np.where(scale > 0, scale, np.float32(1))[..., None]
        return (np.rint(steps).astype(np.int8), np.asarray(scale, dtype=np.float32))

    def decode(self, parts: Sequence[torch.Tensor], state: dict[str, torch.Tensor]) -> torch.Tensor:
        steps, scale = parts
        return steps.float().mul_(scale.unsqueeze(-1)).mul_(state["rms"])


class Utf8:
    """A string; stage two never decodes it."""

    needs_calibration = False

    def parts(self, field: Field) -> tuple[Part, ...]:
        return (Part(field.name, "utf8", ()),)

    def calibrate(self, arrays: Sequence[np.ndarray]) -> State:
        return {}

    def encode(self, value: Any, state: State) -> tuple[Any, ...]:
        if not isinstance(value, str):
            raise ReedError(f"is not text: {value!r}")
        try:
            return (value.encode(),)
        except UnicodeEncodeError as error:
            raise ReedError(f"is not valid text: {error}") from error

    def decode(self, parts: Sequence[torch.Tensor], state: dict[str, torch.Tensor]) -> torch.Tensor:
        raise ReedError("a text field cannot be streamed to a net; align to its encoding instead")


_RAW = ("float32", "float16", "int64", "int32", "uint8")
CODECS: dict[str, Codec] = {
    **{name: Raw(f"<{np.dtype(name).str[1:]}") for name in _RAW},
    "bfloat16": BFloat16(),
    "int8": Int8(),
    "utf8": Utf8(),
}


def codec_of(field: Field) -> Codec:
    """The codec that a field names; ReedError when there is none (with the nearest) or no fit."""
    if field.codec not in CODECS:
        hint = suggest(field.codec, CODECS)
        raise ReedError(f"field {field.name!r} has the unknown codec {field.codec!r}.{hint}")
    problem = ""
    if (field.kind == "text") != (field.codec == "utf8"):
        problem = "text, and nothing else, is stored as utf8"
    elif field.kind == "label" and field.codec not in ("int64", "int32", "uint8"):
        problem = "a label is stored as an integer"
    elif field.codec == "int8" and not field.shape:
        problem = "int8 needs an axis of channels"
    if problem:
        raise ReedError(f"{field.kind} field {field.name!r} cannot be {field.codec}: {problem}")
    return CODECS[field.codec]


def _extremes(array: np.ndarray) -> str:
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    bad = array.size - finite.size
    span = f"values from {finite.min():g} to {finite.max():g}" if finite.size else "no finite value"
    return f"{span}, {bad} of {array.size} not finite"
