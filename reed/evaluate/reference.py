"""Real images in a feature space: what samples are compared with, fitted once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from reed.cache import files
from reed.errors import ReedError
from reed.metrics import FEATURES
from reed.metrics.frechet import Gaussian, Moments, frechet_distance
from reed.metrics.image_set import ImageSet, open_images
from reed.seeding import seed_for

ROWS = 10_000  # real images whose features are kept: what the ADM suite takes for precision
ADM = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}  # in its reference files

Rows = dict[str, np.ndarray]


@dataclass(frozen=True)
class Computing:
    """How features are taken: device, precision (fp32, tf32, bf16), images at a time, bars."""

    device: str = "cpu"
    precision: str = "fp32"
    batch: int = 64
    progress: bool = False


def check(drawn: ImageSet, real: ImageSet) -> None:
    """Refuse fewer than two samples, or samples of another size than the real images."""
    if drawn.num < 2:
        raise ReedError(f"{drawn.place} holds {drawn.num} images; at least 2 are needed")
    if real.num and drawn.shape != real.shape:
        shapes = f"{drawn.shape}, the images of {real.place} {real.shape}"
        raise ReedError(f"samples in {drawn.place} have shape {shapes}")


class Reference:
    """Real images in one feature space, for any number of samples.

    place: a cache, a folder or an .npz (reed.metrics.image_set); weights: a file for the space;
    keep: the folder where statistics are kept for the next time, by content hash.
    """

    def __init__(
        self,
        place: Path | ImageSet,
        features: str = "digits-mlp",
        weights: str | None = None,
        how: Computing | None = None,
        keep: Path | None = None,
    ) -> None:
        self.real = place if isinstance(place, ImageSet) else open_images(place)
        self.features, self.how, self._keep = features, how or Computing(), keep
        self.space = FEATURES.get(features)(weights, self.how.precision)
        self.space.load(self.how.device, self.real)
        self._fitted: tuple[dict[str, Gaussian], np.ndarray] | None = None
        self.problems: list[str] = []

    @property
    def images(self) -> np.ndarray:
        """Every real image, uint8 [N, H, W, C]."""
        return self.real.all()

    def gaussian(self, images: np.ndarray) -> Gaussian:
        """Mean and covariance of the features of images [N, H, W, C] uint8."""
        moments = Moments()
        for start in range(0, len(images), self.how.batch):
            batch = self.space(images[start : start + self.how.batch])
            moments.add(batch[self.space.outputs[0]])
        return moments.gaussian()

    def measure(self, samples: Path) -> dict[str, Any]:
        """The Fréchet distance of a file of samples to the real images, and what it was of."""
        drawn = open_images(samples, "samples")
        check(drawn, self.real)
        name = self.space.outputs[0]
        found = Gaussian.of(self.extract(drawn, [name])[name])
        return {
            "frechet_distance": frechet_distance(found, self.statistics(name)),
            "features": self.features,
            "samples": drawn.num,
            "reference_samples": self.count(name),
            "reference": str(self.real.place),
        }

    def extract(self, images: ImageSet, outputs: list[str]) -> Rows:
        """The features [N, D] of images, for some outputs of the space."""
        parts: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
        for _, batch in self._stream(images):
            for name in outputs:
                parts[name].append(batch[name])
        found = {name: np.concatenate(rows) for name, rows in parts.items()}
        for name, rows in found.items():
            if bad := int((~np.isfinite(rows).all(1)).sum()):
                problem = f"{bad} of {len(rows)} feature vectors are not finite"
                raise ReedError(f"{images.place} in {self.features}/{name}: {problem}")
        return found

    def statistics(self, output: str) -> Gaussian:
        """Of the real images; from an ADM file where that has them."""
        names = ADM.get(output, ()) if self.features == "inception" else ()
        given = [self.real.statistics[name] for name in names if name in self.real.statistics]
        if len(given) < 2:
            return self._fit()[0][output]
        mean, covariance = (np.asarray(each, np.float64) for each in given)
        return Gaussian(mean, covariance)

    def count(self, output: str) -> int | None:
        """The number of images that `statistics` are of; None where an ADM file does not say."""
        mu = ADM.get(output, ("",))[0] if self.features == "inception" else ""
        return None if mu in self.real.statistics else self.real.num

    def rows(self) -> np.ndarray:
        """Features [N, D] of the real images, of 10,000 by chance where there are more."""
        return self._fit()[1]

    def _stream(self, images: ImageSet) -> Iterator[tuple[int, Rows]]:
        """The features of each batch and the place of its first image."""
        title, first = f"{images.place.name} in {self.features}", 0
        hidden = not self.how.progress
        with tqdm(
            total=images.num, desc=title, unit="image", disable=hidden, dynamic_ncols=True
        ) as bar:
            for batch in images.read(self.how.batch):
                yield first, self.space(batch)
                first += len(batch)
                bar.update(len(batch))

    def _fit(self) -> tuple[dict[str, Gaussian], np.ndarray]:
        """The Gaussian of every output, and the kept rows of the first."""
        if self._fitted is None:
            self._fitted = self._load() or self._measure_real()
        return self._fitted

    def _measure_real(self) -> tuple[dict[str, Gaussian], np.ndarray]:
        if not self.real.num:
            raise ReedError(
                f"{self.real.place} holds statistics of Inception and no images; this needs images"
            )
        draws = np.random.default_rng(seed_for(0, "reference"))
        chosen = np.sort(draws.permutation(self.real.num)[:ROWS])
        moments = {name: Moments() for name in self.space.outputs}
        kept = []
        for first, batch in self._stream(self.real):
            for name, values in batch.items():
                moments[name].add(values)
            values = batch[self.space.outputs[0]]
            low, high = np.searchsorted(chosen, [first, first + len(values)])
            kept.append(values[chosen[low:high] - first])
        gaussians = {name: each.gaussian() for name, each in moments.items()}
        self._save(gaussians, rows := np.concatenate(kept))
        return gaussians, rows

    @property
    def _file(self) -> Path | None:
        about = f"{self.real.sha256}\n{self.features}\n{self.space.revision()}\n{ROWS}"
        digest = hashlib.sha256(about.encode()).hexdigest()[:16]
        return self._keep / f"{self.real.place.stem}-{digest}.npz" if self._keep else None

    def _load(self) -> tuple[dict[str, Gaussian], np.ndarray] | None:
        """What an earlier evaluation kept; None where there is nothing, or it is damaged."""
        if not self._file or not self._file.is_file():
            return None
        try:
            with np.load(self._file, allow_pickle=False) as arrays:
                gaussians = {
                    name: Gaussian(arrays[f"{name}.mean"], arrays[f"{name}.covariance"])
                    for name in self.space.outputs
                }
                return gaussians, arrays["rows"]
        except Exception:  # zipfile and numpy raise a dozen kinds for what is no .npz
            self.problems.append(f"{self._file} is damaged and was made again")
            return None

    def _save(self, gaussians: dict[str, Gaussian], rows: np.ndarray) -> None:
        if not self._file:
            return
        arrays: dict[str, Any] = {"rows": rows}
        for name, each in gaussians.items():
            arrays |= {f"{name}.mean": each.mean, f"{name}.covariance": each.covariance}
        try:
            with files.open_new(self._file) as file:
                np.savez(file, **arrays)
        except (OSError, ReedError) as error:  # data may lie where nobody may write
            self.problems.append(f"statistics of the reference were not kept: {error}")
