"""Encoders that copy what another trainer has cached: latents of any autoencoder, and tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from reed import weights
from reed.build.shard import BadSample, Values
from reed.bytes import file_sha256
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.errors import ReedError, at_least, suggest

_ENTRIES = {"moments": "moments", "data": "latent"}  # of the source, by the kind of the field


@ENCODERS.register("latents-import")
@dataclass(frozen=True)
class ImportedLatents:
    """Latents that were encoded elsewhere, by any autoencoder.

    The field ``latents`` is [channels, size, size] or, for moments, [2 * channels, size, size],
    float16 unless another codec is chosen. A net sees ``(z - shift) * scale``.

    Attributes:
        kind: ``moments`` for mean and standard deviation, ``data`` for latents that are a draw.
        channels: Channels of a latent.
        size: Height and width of a latent.
        scale: Factor from latents to the input of a net.
        shift: What is subtracted before.
        stats: LightningDiT's latents_stats.pt, mean and std per channel; then ``scale`` is what is
            left to multiply by, and ``shift`` is not used.
        decodes: The encoder that turns samples into images; empty for none.
        licence: Licence of the latents.
        batch_size: Samples per call of ``encode``.
    """

    kind: str = "moments"
    channels: int = 4
    size: int = 32
    scale: float = 0.18215
    shift: float = 0.0
    stats: Path | None = None
    decodes: str = ""
    licence: str = "as stated with the latents"
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.kind not in _ENTRIES:
            problem = f"latents-import: unknown kind {self.kind!r}."
            raise ReedError(problem + suggest(self.kind, _ENTRIES))
        at_least(1, "latents-import: ", channels=self.channels, size=self.size)
        if not (0 < abs(self.scale) < math.inf and abs(self.shift) < math.inf):
            told = f"scale is {self.scale} and shift {self.shift}"
            raise ReedError(f"latents-import: {told}; give finite ones, and a scale that is not 0")

    @property
    def reads(self) -> tuple[str, ...]:
        """The entry with the latents."""
        return (_ENTRIES[self.kind],)

    @property
    def decoder(self) -> str:
        """The encoder that decodes sampled latents into images."""
        return self.decodes

    @property
    def fields(self) -> tuple[Field, ...]:
        """The single field ``latents``."""
        scale, shift = self._affine
        return (Field("latents", self.kind, self._shape, "float16", scale=scale, shift=shift),)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return (self.channels * (1 + (self.kind == "moments")), self.size, self.size)

    @cached_property
    def _affine(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Scale and shift, of each channel where there are statistics."""
        if self.stats is None:
            return (self.scale,), (self.shift,)
        found = weights.read(self.stats, finite=False)  # checked below
        try:
            mean, std = (np.asarray(found[name].float()).reshape(-1) for name in ("mean", "std"))
        except (KeyError, AttributeError) as error:
            raise ReedError(f"{self.stats} has no tensors mean and std ({error})") from error
        if len(mean) != self.channels or len(std) != self.channels:
            problem = f"{self.stats} has {len(mean)} means and {len(std)} deviations"
            raise ReedError(f"{problem}, latents have {self.channels} channels")
        if not np.isfinite([mean, std]).all() or not (std > 0).all():
            told = f"means from {mean.min():g} to {mean.max():g}, deviations from {std.min():g}"
            problem = f"{self.stats} has {told} to {std.max():g}"
            raise ReedError(f"{problem}; finite ones are wanted, and deviations above 0")
        return tuple(float(self.scale / s) for s in std), tuple(map(float, mean))

    def revision(self) -> str:
        """Return the shape and the statistics, because nothing is computed."""
        stats = f"-{file_sha256(self.stats)[:16]}" if self.stats else ""
        return f"imported1-{self.kind}-{self.channels}x{self.size}{stats}"

    def load(self, device: str) -> None:
        """Do nothing, because there are no weights."""

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``latents`` [B, ...].

        Raises:
            BadSample: The latents of a sample have another shape.
        """
        return {"latents": _stacked(samples, self.reads[0], self._shape)}


@ENCODERS.register("tokens-import")
@dataclass(frozen=True)
class ImportedTokens:
    """Features per token that were computed elsewhere.

    The field ``tokens`` is [tokens, channels], float16 unless another codec is chosen.

    Attributes:
        tokens: Number of tokens.
        channels: Channels of a token.
        licence: Licence of the features.
        batch_size: Samples per call of ``encode``.
    """

    tokens: int = 256
    channels: int = 768
    licence: str = "as stated with the features"
    batch_size: int = 256

    reads = ("features",)

    def __post_init__(self) -> None:
        at_least(1, "tokens-import: ", tokens=self.tokens, channels=self.channels)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The single field ``tokens``, of kind token."""
        return (Field("tokens", "token", (self.tokens, self.channels), "float16"),)

    def revision(self) -> str:
        """Return the shape, because nothing is computed."""
        return f"imported1-{self.tokens}x{self.channels}"

    def load(self, device: str) -> None:
        """Do nothing, because there are no weights."""

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``tokens`` [B, tokens, channels].

        Raises:
            BadSample: The features of a sample have another shape.
        """
        return {"tokens": _stacked(samples, "features", (self.tokens, self.channels))}


def _stacked(samples: Sequence[dict[str, Any]], entry: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an entry of all samples; BadSample if one has another shape."""
    for sample in samples:
        if sample[entry].shape != shape:
            problem = f"{entry} has shape {list(sample[entry].shape)}, the column {list(shape)}"
            raise BadSample(f"{problem}; set the column to what the source has")
    return np.stack([sample[entry] for sample in samples])
