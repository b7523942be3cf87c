"""The reference: real images in a feature space, whose statistics are computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from reed.cache import files
from reed.errors import ReedError
from reed.evaluate.ranks import Ranks, Rows
from reed.metrics import FEATURES
from reed.metrics.ahead import read_ahead
from reed.metrics.frechet import Gaussian, Moments, frechet_distance
from reed.metrics.image_set import ImageSet, open_images
from reed.seeding import seed_for
from reed.wording import counted

ROWS = 10_000  # real images whose features are kept: as many as the ADM suite uses for precision
# output of Inception -> arrays in the reference files of the ADM suite
ADM = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclass(frozen=True)
class Computing:
    """How features are computed.

    Attributes:
        device: Device of the feature network.
        precision: fp32, tf32 or bf16.
        batch: Images per batch.
        progress: Whether to show progress bars.
        ranks: The processes that divide the batches.
    """

    device: str = "cpu"
    precision: str = "fp32"
    batch: int = 64
    progress: bool = False
    ranks: Ranks = field(default_factory=Ranks)


def check(drawn: ImageSet, real: ImageSet) -> None:
    """Raise ReedError for fewer than two samples, or if their shape is not the real images'."""
    if drawn.num < 2:
        raise ReedError(
            f"{drawn.place} holds {counted(drawn.num, 'sample')}; at least 2 are needed"
        )
    if real.num and drawn.shape != real.shape:
        shapes = f"{drawn.shape}, the images of {real.place} {real.shape}"
        raise ReedError(f"samples in {drawn.place} have shape {shapes}")


class Reference:
    """Real images in one feature space, to compare any number of sample sets with.

    Args:
        place: Path of a cache, a folder or a file of images (see reed.metrics.image_set), or the
            open images.
        features: Name of the feature space.
        weights: File of weights for the space; None for its default.
        how: How features are computed.
        keep: Folder in which statistics are stored for later, by content hash; None for nowhere.

    Attributes:
        problems: Warnings for the user.
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
        """Return mean and covariance of the features of images, uint8 [N, H, W, C]."""
        moments = Moments()
        for start in range(0, len(images), self.how.batch):
            batch = self.space(images[start : start + self.how.batch])
            moments.add(batch[self.space.outputs[0]])
        return moments.gaussian()

    def measure(self, samples: Path) -> dict[str, Any]:
        """Return the Fréchet distance of samples to the real images, and what it depends on."""
        drawn = open_images(samples, "samples")
        check(drawn, self.real)
        name = self.space.outputs[0]
        gaussian = Gaussian.of(self.extract(drawn, [name])[name])
        return {
            "frechet_distance": frechet_distance(gaussian, self.statistics(name)),
            "features": self.features,
            "samples": drawn.num,
            "reference_samples": self.count(name),
            "reference": str(self.real.place),
        }

    def extract(self, images: ImageSet, outputs: list[str]) -> Rows:
        """Return the features [N, D] of images, by output of the space.

        Raises:
            ReedError: Features are not finite.
        """
        features: Rows = {}
        for first, batch in self._stream(images):
            for name in outputs:
                values = batch[name]
                if not first:  # all features are held once, and not as parts and joined
                    features[name] = np.empty((images.num, *values.shape[1:]), values.dtype)
                features[name][first : first + len(values)] = values
        for name, rows in features.items():
            if bad := int((~np.isfinite(rows).all(1)).sum()):
                problem = f"{bad} of {len(rows)} feature vectors are not finite"
                raise ReedError(f"{images.place} in {self.features}/{name}: {problem}")
        return features

    def statistics(self, output: str) -> Gaussian:
        """Return mean and covariance of the real features, from an ADM file if it has them."""
        names = ADM.get(output, ()) if self.features == "inception" else ()
        given = [self.real.statistics[name] for name in names if name in self.real.statistics]
        if len(given) < 2:
            return self._fit()[0][output]
        mean, covariance = (np.asarray(array, np.float64) for array in given)
        return Gaussian(mean, covariance)

    def count(self, output: str) -> int | None:
        """Return the number of images behind `statistics`; None if they are from an ADM file."""
        mu = ADM.get(output, ("",))[0] if self.features == "inception" else ""
        return None if mu in self.real.statistics else self.real.num

    def rows(self) -> np.ndarray:
        """Return features [N, D] of the real images; of a random 10,000 if there are more."""
        return self._fit()[1]

    def serve(self, sets: Iterable[ImageSet]) -> None:
        """Compute this process's part of the passes that process 0 of the launch makes.

        Raises:
            ReedError: Process 0 passes other images through another space.
        """
        known = {self._about(images)["images"]: images for images in sets}
        while asked := self.how.ranks.asked():
            images = known.get(asked["images"])
            if images is None or asked != self._about(images):
                here = "; ".join(f"{each.place} {each.sha256[:12]}" for each in known.values())
                raise ReedError(
                    f"process {self.how.ranks.share.rank} of this launch reads {here} in "
                    f"{self.features}, process 0 reads {asked['images'][:12]} in "
                    f"{asked['space']}: give all of them the same files and options"
                )
            self.how.ranks.send(self._own(images))

    def _about(self, images: ImageSet) -> dict[str, Any]:
        """Return what the processes of a launch must agree on."""
        space = f"{self.features} {self.space.revision()}"
        return {"images": images.sha256, "space": space, "batch": self.how.batch}

    def _own(self, images: ImageSet) -> Iterator[Rows]:
        """Yield the features of this process's batches; the next ones are read meanwhile."""
        batches = read_ahead(images.read(self.how.batch, self.how.ranks.share))
        with closing(batches):
            for batch in batches:
                yield self.space(batch)

    def _stream(self, images: ImageSet) -> Iterator[tuple[int, Rows]]:
        """Yield the index of the first image of each batch, and the features of the batch."""
        if self.how.ranks.share.world > 1:
            self.how.ranks.ask(self._about(images))
        title, first = f"{images.place.name} in {self.features}", 0
        hidden = not self.how.progress
        with tqdm(
            total=images.num, desc=title, unit=" images", disable=hidden, dynamic_ncols=True
        ) as bar:
            for rows in self.how.ranks.joined(self._own(images), images.num, self.how.batch):
                yield first, rows
                count = len(rows[self.space.outputs[0]])
                first += count
                bar.update(count)

    def _fit(self) -> tuple[dict[str, Gaussian], np.ndarray]:
        """Return the Gaussian of every output, and the kept features of the first output."""
        if self._fitted is None:
            self._fitted = self._load() or self._measure_real()
        return self._fitted

    def _measure_real(self) -> tuple[dict[str, Gaussian], np.ndarray]:
        if not self.real.num:
            raise ReedError(
                f"{self.real.place} holds statistics of Inception and no images; this needs images"
            )

        # The random choice of rows is fixed, so that two evaluations agree.
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

        gaussians = {name: sums.gaussian() for name, sums in moments.items()}
        self._save(gaussians, rows := np.concatenate(kept))
        return gaussians, rows

    @property
    def _file(self) -> Path | None:
        about = f"{self.real.sha256}\n{self.features}\n{self.space.revision()}\n{ROWS}"
        digest = hashlib.sha256(about.encode()).hexdigest()[:16]
        return self._keep / f"{self.real.place.stem}-{digest}.npz" if self._keep else None

    def _load(self) -> tuple[dict[str, Gaussian], np.ndarray] | None:
        """Return what an earlier evaluation kept; None if there is nothing or it is damaged."""
        if not self._file or not self._file.is_file():
            return None
        try:
            with np.load(self._file, allow_pickle=False) as arrays:
                gaussians = {
                    name: Gaussian(arrays[f"{name}.mean"], arrays[f"{name}.covariance"])
                    for name in self.space.outputs
                }
                return gaussians, arrays["rows"]
        except PermissionError:
            self.problems.append(f"no permission to read {self._file}, which was made again")
            return None
        except Exception:  # zipfile and numpy raise many kinds of errors for a damaged file
            self.problems.append(f"{self._file} is damaged and was made again")
            return None

    def _save(self, gaussians: dict[str, Gaussian], rows: np.ndarray) -> None:
        if not self._file:
            return
        arrays: dict[str, Any] = {"rows": rows}
        for name, gaussian in gaussians.items():
            arrays |= {f"{name}.mean": gaussian.mean, f"{name}.covariance": gaussian.covariance}
        try:
            with files.open_new(self._file) as file:
                np.savez(file, **arrays)
        except (OSError, ReedError) as error:  # the folder of the data may be read-only
            self.problems.append(f"statistics of the reference were not kept: {error}")
