"""The source ``digits``: the 1,797 handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from reed.build.shard import BadSample
from reed.errors import ReedError
from reed.sources import SOURCES


@SOURCES.register("digits")
@dataclass
class Digits:
    """Images and labels of sklearn.datasets.load_digits; the keys number them in its order.

    Its entries:

    - ``pixels``: float32 [1, 8, 8], ink from 0 (paper) to 16, as shipped; the second view has left
      and right swapped.
    - ``label``: int, 0 to 9.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.

    Attributes:
        data: Must be None, because nothing is read from disk.
    """

    data: Path | None = None

    entries = ("pixels", "label")
    views = 2

    def __post_init__(self) -> None:
        if self.data is not None:
            raise ReedError(f"digits ships with scikit-learn and takes no --data, got {self.data}")

    def listing(self) -> dict[str, str]:
        """Return every key with the first 16 hex digits of the sha256 of its image."""
        images, _ = self._arrays
        stamps = (hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in images)
        return {f"digit-{row:04d}": stamp for row, stamp in enumerate(stamps)}

    def read(self, key: str, view: int = 0) -> dict[str, Any]:
        """Return the pixels and the label of one image.

        Raises:
            BadSample: There is no such key.
        """
        images, labels = self._arrays
        row = self._rows.get(key)
        if row is None:
            raise BadSample(f"no digit {key!r}: keys run from digit-0000 to {list(self._rows)[-1]}")
        pixels = images[row, ..., ::-1] if view else images[row]
        return {"pixels": pixels.copy(), "label": int(labels[row])}

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        # "<f4" fixes the byte order, because the stamps are hashes of these bytes.
        return bunch.images.astype("<f4")[:, None], bunch.target

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.listing())}
