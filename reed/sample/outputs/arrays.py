"""Samples of a domain without files of its own: the drawn arrays, and a picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reed.cache import files
from reed.picture import save_png
from reed.sample.sample_set import OUTPUTS, PLAIN, Output, SampleSet, Writer, beside
from reed.sample.sampler import Sampler

SHOWN = 100  # samples in the picture
Z = "z/"  # begin of the names of representations


@OUTPUTS.register(PLAIN)
@dataclass
class ArrayOutput(Output):
    """Every array that the domain drew as OUT.npz, by name, and a picture as OUT.png."""

    _sampler: Any = field(default=None, init=False, repr=False)

    def open(self, sampler: Sampler, device: str) -> None:
        """Keep the sampler, whose domain draws the picture."""
        self._sampler = sampler

    def files(self, out: Path) -> Mapping[Path, Writer]:
        """Return the writers of the files, the arrays first: they are all that was drawn."""
        return {
            beside(out, ".npz"): write_npz,
            beside(out, ".png"): self._write_picture,
        }

    def _write_picture(self, path: Path, samples: SampleSet) -> None:
        picture = self._drawn(samples, SHOWN)
        with files.new_file(path) as temp:
            save_png(picture, temp, max(1, 400 // picture.shape[1]))

    def _drawn(self, samples: SampleSet, count: int) -> np.ndarray:
        """Return the domain's picture of the first samples, uint8 [H, W, C]."""
        rows = (
            {name: values[row] for name, values in part.items()}
            for part in samples.parts()
            for row in range(len(next(iter(part.values()))))
        )
        first = list(itertools.islice(rows, count))
        stacked = {name: np.stack([row[name] for row in first]) for name in first[0]}
        return self._sampler.domain.picture(stacked, self._sampler.fields)


def write_npz(path: Path, samples: SampleSet, begin: str = "") -> None:
    """Write all arrays [num, ...] whose names begin so; all of them are in memory at once."""
    parts = [
        {name: values for name, values in part.items() if name.startswith(begin)}
        for part in samples.parts()
    ]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    with files.open_new(path) as file:
        np.savez(file, allow_pickle=False, **joined)


def representations(out: Path, sampler: Sampler) -> dict[Path, Writer]:
    """Return the writer of OUT.z.npz, the representations of guides; nothing without guides."""
    is_guided = "guides" in sampler.about
    return {beside(out, ".z.npz"): partial(write_npz, begin=Z)} if is_guided else {}
