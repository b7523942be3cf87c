"""Guidance on a representation, beside the guidance on labels, and how both are combined."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from reed.config import option
from reed.errors import ReedError
from reed.flows.samplers import check_interval, check_scale

SHORT = 40  # characters of keys in a file's name


@dataclass(frozen=True)
class Steer:
    """Guidance on the representations of guides, and where these come from.

    Attributes:
        scale: Scale of the guidance, at least 1; 1 turns it off.
        low: First time of the interval in which it acts.
        high: Last time of the interval.
        mixture: Whether to use the paper's geometric mixture, (1 - A) v(x) + A v(x, z), with z
            drawn at the start. It is biased: it does not sample the joint distribution.
        replace: Whether a row of a bank may be used for several samples.
        prompt: Keys of cached samples whose representations the samples get in turn, in place of
            drawn ones; empty to draw them.
    """

    scale: float = option(
        1.0,
        "Scale of guidance on the representations of guides; 1 is off.",
        flag="guide-scale",
        metavar="SCALE",
    )
    low: float = option(0.0, "Times at which it acts.", flag="guide-interval", metavar="LOW HIGH")
    high: float = option(1.0, "The last of these times.", flag="guide-interval")
    mixture: bool = option(
        False,
        "Draw z at the start and mix the velocities with and without it by A(t); biased.",
        flag="guide-mixture",
    )
    replace: bool = option(
        False, "A row of a bank may be used for several samples.", flag="guide-replace"
    )
    prompt: tuple[str, ...] = option(
        (),
        "Key of a sample in the cache whose representation is used in place of a drawn one; may be "
        "repeated, then samples get them in turn.",
        flag="prompt-from",
        metavar="KEY",
    )

    def __post_init__(self) -> None:
        check_scale("guide-scale", self.scale)
        check_interval("guide-interval", self.low, self.high)
        if self.mixture and self.scale > 1:
            raise ReedError(
                f"guide-scale is {self.scale} and guide-mixture is on, which sets the scale to "
                "A(t); leave one of them out"
            )
        if self.replace and self.prompt:
            raise ReedError(
                f"guide-replace is on and prompt-from is {self.prompt[0]!r}, with which no row is "
                "drawn; leave one of them out"
            )

    def check_used(self, reads: Collection[str]) -> None:
        """Check that a net has what the options speak of; they would be ignored otherwise.

        Args:
            reads: How the guides of the net are read; empty for a net without guides.
        """
        interval = f"[{self.low:g}, {self.high:g}]"
        given = [f"guide-scale is {self.scale:g}"] if self.scale > 1 else []
        given += [f"guide-interval is {interval}"] if (self.low, self.high) != (0, 1) else []
        given += ["guide-mixture is on"] if self.mixture else []
        given += ["guide-replace is on"] if self.replace else []
        given += [f"prompt-from is {self.prompt[0]!r}"] if self.prompt else []
        if given and not reads:
            raise ReedError(f"{given[0]}, and this net has no guides; leave it out")
        if self.replace and "bank" not in reads:
            raise ReedError(
                f"guide-replace is on, and no guide of this net has read = 'bank', but "
                f"{', '.join(sorted(set(reads)))}; leave it out"
            )

    @property
    def name(self) -> str:
        """Short form without defaults, for file names."""
        parts = []
        if self.scale > 1:
            parts.append(f"z{self.scale:g}")
            if (self.low, self.high) != (0, 1):
                parts.append(f"t{self.low:g}-{self.high:g}")
        parts += ["mixture"] if self.mixture else []
        parts += ["replace"] if self.replace else []
        return "-".join(parts + ([f"from-{_short(self.prompt)}"] if self.prompt else []))


def _short(keys: Sequence[str]) -> str:
    """Return keys as a part of a file's name; a hash tells apart those that cannot stand there."""
    text = "+".join(keys)
    safe = re.sub(r"[^\w.+-]+", "_", text)[:SHORT]
    return text if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Variant:
    """One evaluation of the net: with or without labels, with or without representations.

    Attributes:
        label: Whether the net sees the labels.
        z: Whether the net sees the representations.
        factor: Factor of its prediction in the sum.
    """

    label: bool
    z: bool
    factor: float


def variants(label_scale: float, z_scale: float) -> list[Variant]:
    """Return the evaluations whose weighted sum is the guided prediction.

    The prediction is v(y, z) + (w_y - 1) (v(y, z) - v(z)) + (w_z - 1) (v(y, z) - v(y)). With one
    scale at 1 this is ordinary classifier-free guidance on the other condition.
    """
    parts = [Variant(True, True, label_scale + z_scale - 1)]
    if label_scale != 1:
        parts.append(Variant(False, True, 1 - label_scale))
    if z_scale != 1:
        parts.append(Variant(True, False, 1 - z_scale))
    return parts


def summed(prediction: Any, parts: Sequence[Variant]) -> Any:
    """Return the weighted sum of stacked predictions, a tensor [n B, ...] or a table of them."""
    if isinstance(prediction, Mapping):
        return {name: summed(value, parts) for name, value in prediction.items()}
    assert isinstance(prediction, Tensor)
    if len(parts) == 1:
        return prediction
    chunks = prediction.chunk(len(parts))
    return sum(part.factor * chunk for part, chunk in zip(parts, chunks, strict=True))
