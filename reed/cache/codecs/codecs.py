"""Codecs: how the values of a field are stored.

A codec splits an array into named parts (such as an int8 payload and its scales), each of one dtype
and shape, as containers take them. A whole batch is encoded at once, where it is; decoding uses
torch on the parts' device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from reed.cache.codecs import batch, fidelity, pca
from reed.cache.codecs.base import Codec as Codec
from reed.cache.codecs.base import Encoded as Encoded
from reed.cache.codecs.base import Part as Part
from reed.cache.codecs.base import Single
from reed.cache.codecs.base import State as State
from reed.cache.codecs.components import WHITENED, components
from reed.cache.codecs.finite import extremes
from reed.cache.schema import Field
from reed.errors import ReedError, suggest

if TYPE_CHECKING:
    import torch


class _Plain(Single):
    """The common part of most codecs: no calibration, and the shape does not change."""

    needs_calibration = False
    fewest = 0
    by_row = True

    def calibrate(self, arrays: Sequence[np.ndarray]) -> State:
        return {}

    def decoded_shape(self, field: Field) -> tuple[int | None, ...]:
        return field.shape

    def restore(self, values: np.ndarray, state: State) -> np.ndarray:
        return values


class Raw(_Plain):
    """An array stored in one dtype.

    uint8 is decoded as uint8, other integers as int64, floats as float32.

    Args:
        dtype: The stored dtype.
        holds_nan: Whether NaN is allowed; it stands for a missing value.
    """

    def __init__(self, dtype: str, holds_nan: bool = False) -> None:
        self._dtype, self._holds_nan = np.dtype(dtype), holds_nan

    def parts(self, field: Field) -> tuple[Part, ...]:
        return (Part(field.name, self._dtype.str, field.shape),)

    def encode_all(self, values: Any, state: State) -> Encoded:
        if self._dtype.kind == "f":
            values = batch.on_host(values) if self._holds_nan else values
            stored = batch.cast(values, self._dtype.str)
            known = (
                np.nan_to_num(stored, posinf=np.inf, neginf=-np.inf) if self._holds_nan else stored
            )
            # NaN was replaced, but is still among the values.
            return (stored,), batch.finite(known, None if self._holds_nan else values)
        values = np.asarray(batch.on_host(values))
        with np.errstate(invalid="ignore"):  # refused below
            stored = np.asarray(values, dtype=self._dtype, order="C")
        same = True if stored is values else stored == values
        fits = np.broadcast_to(same, stored.shape).reshape(len(stored), -1)
        return (stored,), np.asarray(fits.all(axis=1))

    def refusal(self, value: Any, state: State) -> str:
        return f"does not fit {self._dtype}: {extremes(np.asarray(value))}"

    def decode(self, parts: Sequence[torch.Tensor], state: dict[str, torch.Tensor]) -> torch.Tensor:
        if self._dtype == np.uint8:  # pixels: an eighth of int64
            return parts[0]
        return parts[0].float() if self._dtype.kind == "f" else parts[0].long()


class BFloat16(_Plain):
    """float32 rounded to its upper 16 bits, stored as uint16 because numpy has no bfloat16."""

    def parts(self, field: Field) -> tuple[Part, ...]:
        return (Part(field.name, "<u2", field.shape),)

    def encode_all(self, values: Any, state: State) -> Encoded:
        stored = batch.cast(batch.on_host(values), "float32")
        bits = stored.view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        is_finite = np.isfinite(stored) & ((rounded & 0x7F80) != 0x7F80)
        return (rounded,), is_finite.reshape(len(stored), -1).all(1)

    def refusal(self, value: Any, state: State) -> str:
        return f"does not fit bfloat16: {extremes(batch.cast(value, 'float32'))}"

    def decode(self, parts: Sequence[torch.Tensor], state: dict[str, torch.Tensor]) -> torch.Tensor:
        import torch

        return parts[0].view(torch.bfloat16).float()


class Int8(_Plain):
    """int8, scaled by a per-channel RMS of the column and a per-token absolute maximum.

    Dividing by the channel's rms first keeps outlier channels from using up the eight bits of all
    other channels. Storage is one byte per channel and four per token.
    """

    needs_calibration = True
    fewest = 1

    def parts(self, field: Field) -> tuple[Part, ...]:
        scales = Part(f"{field.name}-scale", "<f4", field.shape[:-1])
        return (Part(field.name, "|i1", field.shape), scales)

    def calibrate(self, arrays: Sequence[np.ndarray]) -> State:
        flat = np.concatenate([np.reshape(a, (-1, np.shape(a)[-1])) for a in arrays])
        rms = np.sqrt(np.mean(np.square(flat.astype(np.float64)), axis=0))
        if not np.isfinite(rms).all():
            raise ReedError(f"cannot calibrate int8: {extremes(flat)}")

        # A channel that is near zero only in these records would use up the bits of all others.
        least = 0.1 * rms.mean() or 1.0
        state = {"rms": np.maximum(rms, least).astype(np.float32)}
        return state | {"cosine": _cosine(self, arrays, state)}

    def encode_all(self, values: Any, state: State) -> Encoded:
        steps, scale = batch.int8(values, state["rms"])
        return (steps, scale), batch.finite(scale)

    def refusal(self, value: Any, state: State) -> str:
        return f"does not fit int8: {extremes(batch.cast(value, 'float32'))}"

    def decode(self, parts: Sequence[torch.Tensor], state: dict[str, torch.Tensor]) -> torch.Tensor:
        steps, scale = parts
        return steps.float().mul_(scale.unsqueeze(-1)).mul_(state["rms"])


class Pca(Single):
    """The leading whitened principal components of the channels, stored by another codec.

    The decoded values are the components, [..., kept]; as a target they have that many channels. A
    cosine of whitened vectors weighs all directions alike. See `reed.cache.codecs.pca`.

    Args:
        kept: Number of components; 0 keeps the channels themselves, each minus its mean and divided
            by its standard deviation ("standard").
        inner: Codec that stores the components.
    """

    needs_calibration = True
    by_row = False  # the sums of a matrix product may be taken in another order

    def __init__(self, kept: int, inner: Codec) -> None:
        self.kept, self._inner = kept, inner
        self.fewest = kept + 1  # the components of K vectors leave nothing to measure

    def parts(self, field: Field) -> tuple[Part, ...]:
        return self._inner.parts(replace(field, shape=self.decoded_shape(field)))

    def decoded_shape(self, field: Field) -> tuple[int | None, ...]:
        return (*field.shape[:-1], self.kept or field.shape[-1])

    def calibrate(self, arrays: Sequence[np.ndarray]) -> State:
        state = pca.fit(arrays, self.kept) if self.kept else pca.standard(arrays)
        state |= self._inner.calibrate([pca.whiten(array, state) for array in arrays])
        return state | {"cosine": _cosine(self, arrays, state)}

    def encode_all(self, values: Any, state: State) -> Encoded:
        parts, fits = self._inner.encode_all(pca.whiten_all(values, state), state)
        return parts, fits & batch.finite(values)

    def refusal(self, value: Any, state: State) -> str:
        array = np.asarray(value)
        if not np.isfinite(array).all():
            name = f"pca:{self.kept}" if self.kept else "standard"
            return f"does not fit {name}: {extremes(array)}"
        reason = self._inner.refusal(pca.whiten(array, state), state)
        return f"its whitened components: {reason}"

    def decode(self, parts: Sequence[torch.Tensor], state: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._inner.decode(parts, state)

    def restore(self, values: np.ndarray, state: State) -> np.ndarray:
        return pca.unwhiten(values, state)


class Utf8(_Plain):
    """UTF-8 text; training never decodes it."""

    def parts(self, field: Field) -> tuple[Part, ...]:
        return (Part(field.name, "utf8", ()),)

    def encode_all(self, values: Any, state: State) -> Encoded:
        fits = np.array([not self.refusal(value, state) for value in values], bool)
        texts = zip(values, fits, strict=True)
        return ([text.encode() if fit else b"" for text, fit in texts],), fits

    def refusal(self, value: Any, state: State) -> str:
        if not isinstance(value, str):
            return f"is not text: {value!r}"
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"is not valid text: {error}"
        return ""

    def decode(self, parts: Sequence[torch.Tensor], state: dict[str, torch.Tensor]) -> torch.Tensor:
        raise ReedError("a text field cannot be streamed to a net; align to its encoding instead")


_RAW = ("float32", "float16", "int64", "int32", "uint8")
NAN = "float32+nan"  # NaN stands for a missing value
CODECS: dict[str, Codec] = {
    **{name: Raw(f"<{np.dtype(name).str[1:]}") for name in _RAW},
    NAN: Raw("<f4", holds_nan=True),
    "bfloat16": BFloat16(),
    "int8": Int8(),
    "utf8": Utf8(),
}

NAMES = (*sorted(CODECS), "pca:K", "pca:K+int8", "standard", "standard+int8")


@lru_cache
def _pca(kept: int, inner: str) -> Pca:
    return Pca(kept, CODECS[inner])


def codec_of(field: Field) -> Codec:
    """Return the codec of a field.

    Raises:
        ReedError: There is no such codec (the message suggests the nearest), or it does not suit
            the field.
    """
    match = WHITENED.fullmatch(field.codec)
    if not match and field.codec not in CODECS:
        hint = suggest(field.codec, NAMES)
        raise ReedError(f"field {field.name!r} has the unknown codec {field.codec!r}.{hint}")
    kept = components(field.codec)
    if problem := _misfit(field, kept, is_whitened=bool(match)):
        raise ReedError(f"{field.kind} field {field.name!r} cannot be {field.codec}: {problem}")
    return _pca(kept, "int8" if match[2] else "float16") if match else CODECS[field.codec]


def _misfit(field: Field, kept: int, is_whitened: bool) -> str:
    """Return why a field cannot have its codec, else an empty string.

    Args:
        field: The field.
        kept: The K of pca:K, else 0.
        is_whitened: Whether the codec whitens the channels.
    """
    if (field.kind == "text") != (field.codec == "utf8"):
        return "text, and nothing else, is stored as utf8"
    if field.kind == "label" and field.codec not in ("int64", "int32", "uint8"):
        return "a label is stored as an integer"
    if field.codec == NAN and field.kind != "data":
        return "only data may lack values"
    if is_whitened and not field.is_target:
        return "only what is aligned to may lose channels, and that is a token, sample or pair"
    if (is_whitened or field.codec == "int8") and not (field.shape and field.shape[-1]):
        return f"{field.codec} needs an axis of channels, whose length does not vary"
    if kept and kept > (field.shape[-1] or 0):
        return f"it has {field.shape[-1]} channels; keep at most as many"
    return ""


def decode_one(codec: Codec, parts: Sequence[np.ndarray], state: State) -> np.ndarray:
    """Return one decoded sample from its parts, as numpy arrays on the CPU."""
    import torch

    tensors = [torch.from_numpy(np.asarray(part))[None] for part in parts]
    return codec.decode(tensors, {n: torch.from_numpy(a) for n, a in state.items()})[0].numpy()


def _cosine(codec: Codec, arrays: Sequence[np.ndarray], state: State) -> np.ndarray:
    """Return the mean and the smallest cosine of tokens to their stored versions, [2] float32."""
    cosines = []
    for array in arrays:
        decoded = decode_one(codec, codec.encode(array, state), state)
        cosines.append(fidelity.cosines(array, codec.restore(decoded, state)).ravel())
    flat = np.concatenate(cosines)
    return np.array([flat.mean(), flat.min()], np.float32)
