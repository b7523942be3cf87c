"""The interface of a codec, and the parts that it splits an array into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from reed.cache.schema import Field
from reed.errors import ReedError

if TYPE_CHECKING:
    import torch

State = dict[str, np.ndarray]  # the calibration of one field
# The parts of a batch, each [records, ...] or a list, and which records fit, [records] bool.
Encoded = tuple[tuple[Any, ...], np.ndarray]


@dataclass(frozen=True)
class Part:
    """One stored array of a field.

    Attributes:
        name: Name of the part; part of its members' names.
        dtype: The numpy dtype; "utf8" for text.
        shape: Shape of one sample; a leading None where the length varies.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def is_ragged(self) -> bool:
        """Whether its size differs from sample to sample."""
        return self.dtype == "utf8" or None in self.shape

    def shape_at(self, length: int) -> tuple[int, ...]:
        """Return the shape of a sample whose length, where it varies, is ``length``."""
        return tuple(length if n is None else n for n in self.shape)


class Codec(Protocol):
    """Encodes samples to parts, and decodes a batch of parts.

    The state is what ``calibrate`` returned. Besides what decoding needs it has ``cosine``: the
    mean and the smallest cosine between a token and its stored version, over the calibration
    records.
    """

    needs_calibration: bool
    by_row: bool  # whether the rows of a sample may be encoded as samples of their own

    @property
    def fewest(self) -> int:
        """Number of vectors that calibration needs at least."""
        ...

    def parts(self, field: Field) -> tuple[Part, ...]:
        """Return the parts that a field is stored as."""
        ...

    def decoded_shape(self, field: Field) -> tuple[int | None, ...]:
        """Return the shape of a decoded sample; ``field.shape`` is that of the encoder's output."""
        ...

    def calibrate(self, arrays: Sequence[np.ndarray]) -> State:
        """Return the state for a column from some records; ReedError if they are not finite."""
        ...

    def encode(self, value: Any, state: State) -> tuple[Any, ...]:
        """Return the parts of one sample; ReedError when the value does not fit."""
        ...

    def encode_all(self, values: Any, state: State) -> Encoded:
        """Return the parts of some samples, and which of them fit.

        Args:
            values: An array [records, ...], or a tensor on an accelerator; a list of texts.
            state: The calibration.
        """
        ...

    def refusal(self, value: Any, state: State) -> str:
        """Return why the value of one sample does not fit."""
        ...

    def decode(self, parts: Sequence[torch.Tensor], state: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return a batch [B, ...] from its parts [B, ...], on their device."""
        ...

    def restore(self, values: np.ndarray, state: State) -> np.ndarray:
        """Return decoded values in the encoder's channels, as exactly as they were stored."""
        ...


class Single:
    """Encoding one sample as a batch of one; a mixin for codecs."""

    if TYPE_CHECKING:  # what the codec has
        encode_all = Codec.encode_all
        refusal = Codec.refusal

    def encode(self, value: Any, state: State) -> tuple[Any, ...]:
        """Return the parts of one sample; ReedError when the value does not fit."""
        is_text = isinstance(value, str)
        parts, fits = self.encode_all([value] if is_text else np.asarray(value)[None], state)
        if not fits[0]:
            raise ReedError(self.refusal(value, state))
        return tuple(part[0] if is_text else np.asarray(part[0]) for part in parts)
