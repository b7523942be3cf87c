"""Samples of a domain that has no files of its own: the arrays that were drawn, and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reed.cache import files
from reed.picture import save_png
from reed.sample import Sampler
from reed.sample_set import OUTPUTS, SampleSet

SHOWN = 100  # samples in the picture


@OUTPUTS.register("arrays")
@dataclass
class ArrayOutput:
    """OUT.npz with every array that the domain drew, by its name, and OUT.png."""

    recipe: dict[str, Any] = field(default_factory=dict, init=False)
    said: list[str] = field(default_factory=list, init=False)
    _sampler: Any = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        """Nothing: there are no settings."""
        return ""

    def open(self, sampler: Sampler, device: str) -> None:
        """Remember whose samples these are: its domain draws the picture."""
        self._sampler = sampler

    def convert(self, drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The same."""
        return drawn

    def files(self, out: Path) -> Mapping[Path, Callable[[Path, SampleSet], None]]:
        """The arrays first: they are all that was drawn."""
        return {
            out.with_name(f"{out.name}.npz"): write_npz,
            out.with_name(f"{out.name}.png"): self._write_picture,
        }

    def _write_picture(self, path: Path, samples: SampleSet) -> None:
        first = {name: values[:SHOWN] for name, values in joined(samples).items()}
        picture = self._sampler.domain.picture(first, self._sampler.fields)
        with files.new_file(path) as temp:
            save_png(picture, temp, max(1, 400 // picture.shape[1]))


def write_npz(path: Path, samples: SampleSet) -> None:
    """Name -> array [num, ...]; all of it is in memory for a moment."""
    with files.open_new(path) as file:
        np.savez(file, **joined(samples))


def joined(samples: SampleSet) -> dict[str, np.ndarray]:
    """The parts of a set in one piece."""
    parts = list(samples.parts())
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
