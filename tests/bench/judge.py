"""What samples are judged by: a net that no run is aligned to, and real images nobody trained on.

Of the samples of a checkpoint: FD and KID to held-out real images, the share whose label a
classifier finds that was fitted to the real training set, and how near the nearest training image
lies, as a multiple of the same distance of held-out real images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import numpy as np

from reed.build.shard import BadSample
from reed.cache.files import write_atomic
from reed.metrics import FEATURES
from reed.metrics.frechet import Gaussian, frechet_distance
from reed.metrics.kid import kid
from reed.metrics.timm_space import TimmSpace
from reed.sources.image.images import Images
from reed.sources.toy.scenes import GROUNDS, scene_at

WEIGHTS = Path("data/weights/efficientnet-lite2.pth")
SIZE = 96  # pixels of the input of the judge: the images have 28 or 32
RIDGE = 1e-2  # of the classifier, per sample, for features of unit variance
BATCH = 100
SAME = 0.01  # of the median distance: what lies nearer to a training image is that image


@dataclass(frozen=True)
class Set:
    """Images, uint8 [N, H, W, 3], and their classes [N]."""

    images: np.ndarray
    labels: np.ndarray


def from_files(data: Path, settings: dict, classes: tuple[str, ...], most: int) -> Set:
    """Images of a data set as a cache has them, of the classes that are known; at most so many.

    They are drawn from all: a listing goes by class folders, so its first ones lack whole classes.
    """
    source = Images(data, **settings, classes=classes)
    keys = np.array(list(source.listing()))
    chosen = np.sort(np.random.default_rng(0).permutation(len(keys))[:most])
    images, labels = [], []
    for key in keys[chosen].tolist():
        sample = source.read(key)
        try:
            image, label = sample["image"], sample["label"]
        except BadSample:  # as in the build, where it is recorded
            continue
        if label < len(classes):
            images.append(image)
            labels.append(label)
    if left := len(chosen) - len(images):
        problem = "cannot be read, or are of a class that is not trained on"
        click.echo(f"{data}: {left} of {len(chosen)} images are left out: they {problem}", err=True)
    return Set(np.stack(images), np.array(labels))


def classes_of(data: Path) -> tuple[str, ...]:
    """The classes of a data set in the order of a cache."""
    return Images(data).listing().classes


def of_scenes(split: str, count: int) -> Set:
    """Generated scenes; "train" are those of the cache."""
    made = [scene_at(split, 0, index) for index in range(count)]
    images = np.stack([image for _, image in made]).transpose(0, 2, 3, 1)
    return Set(images, np.array([[*GROUNDS].index(scene.ground) for scene, _ in made]))


def lite2(device: str) -> Callable[[np.ndarray], np.ndarray]:
    """The features of EfficientNet-Lite2 before its classifier, [N, 1280]."""
    space = TimmSpace("lite2", "tf_efficientnet_lite2", str(WEIGHTS), size=SIZE)
    return features(space, device)


def scenes_judge(device: str) -> Callable[[np.ndarray], np.ndarray]:
    """The features of the net that came with the scenes, [N, 64]."""
    return features(FEATURES.get("scenes-judge")(), device)


def features(space, device: str) -> Callable[[np.ndarray], np.ndarray]:
    """A loaded feature space as a function of any number of images, float32 [N, D]."""
    space.load(device, None)

    def of(images: np.ndarray) -> np.ndarray:
        parts = np.split(images, range(BATCH, len(images), BATCH))
        return np.concatenate([space(part)[space.outputs[0]] for part in parts])

    return of


class Classifier:
    """A linear classifier, fitted to one-hot labels by ridge regression on scaled features."""

    def __init__(self, known: np.ndarray, labels: np.ndarray) -> None:
        known = known.astype(np.float64)
        self._mean, self._scale = known.mean(0), known.std(0) + 1e-6
        x = self._scaled(known)
        y = np.eye(labels.max() + 1)[labels]
        gram = x.T @ x + RIDGE * len(x) * np.eye(x.shape[1])
        self._weights = np.linalg.solve(gram, x.T @ y)

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        scaled = (x - self._mean) / self._scale
        return np.concatenate([scaled, np.ones((len(x), 1))], 1)

    def accuracy(self, x: np.ndarray, labels: np.ndarray) -> float:
        """The share whose largest output is that of the label."""
        return float(((self._scaled(x) @ self._weights).argmax(1) == labels).mean())


def nearest(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The distance of each row to the nearest of the known rows, [N]; 0 for a copy.

    Products of float32 find the row, but not how far it is: they cancel where it is near.
    """
    squares = np.square(known).sum(1)
    parts = []
    for part in np.split(x, range(500, len(x), 500)):
        found = (squares - 2 * part @ known.T).argmin(1)
        parts.append(np.linalg.norm(part.astype(np.float64) - known[found], axis=1))
    return np.concatenate(parts)


@dataclass(frozen=True)
class Judge:
    """The features of the real images, and what is derived from them.

    train: those that runs are trained on; real: held-out ones, the reference; other: as many more
    held-out ones as a checkpoint has samples, which show how good real images are.
    """

    train: np.ndarray
    real: np.ndarray
    other: np.ndarray
    train_labels: np.ndarray
    other_labels: np.ndarray

    @cached_property
    def gaussian(self) -> Gaussian:
        return Gaussian.of(self.real)

    @cached_property
    def classifier(self) -> Classifier:
        return Classifier(self.train, self.train_labels)

    @cached_property
    def distances(self) -> np.ndarray:
        """Of held-out real images to the nearest training image."""
        return nearest(self.other, self.train)

    @cached_property
    def near(self) -> float:
        """The distance below which 1 % of the real images lie that are no copies themselves.

        In some data sets more than 1 % are, up to rounding, and nothing is nearer than they.
        """
        own = self.distances[self.distances > SAME * np.median(self.distances)]
        return float(np.quantile(own, 0.01)) if len(own) else 0.0

    def to_real(self, x: np.ndarray) -> dict[str, float]:
        """FD and KID of some features to the reference."""
        size = min(500, len(x), len(self.real))
        fd = frechet_distance(Gaussian.of(x), self.gaussian)
        return {"fd": fd, "kid": kid(x, self.real, subsets=10, size=size).mean}

    def measure(self, x: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The measures of the features and labels of some samples."""
        distances = nearest(x, self.train)
        return self.to_real(x) | {
            "accuracy": self.classifier.accuracy(x, labels),
            # below 1: samples lie nearer to training images than new real images do
            "nearest": float(np.median(distances) / np.median(self.distances)),
            # about 0.01 for real images; far more is copying
            "copies": float((distances < self.near).mean()),
        }

    def floor(self) -> dict[str, Any]:
        """The same of as many real images, how many, and FD and KID of images to train on.

        largest: the share of their largest class, which an answer that never differs gets right.

        Where held-out images are few and alike, as one emoji in six skin tones, both halves of them
        hold the same ones, and lie closer together than any new images of the training set's kind.
        """
        largest = float(np.bincount(self.other_labels).max() / len(self.other))
        counts = {"samples": len(self.other), "reference": len(self.real), "largest": largest}
        measured = self.measure(self.other, self.other_labels)
        return measured | counts | {"training": self.training()}

    def training(self) -> dict[str, float]:
        """FD and KID of images that are trained on, drawn for the classes of the others.

        Nothing that is learnt from them alone can be expected to come closer.
        """
        draws, rows = np.random.default_rng(0), []
        for label, count in zip(*np.unique(self.other_labels, return_counts=True), strict=True):
            known = np.flatnonzero(self.train_labels == label)
            if len(known):
                rows.append(draws.choice(known, count, replace=len(known) < count))
        return self.to_real(self.train[np.concatenate(rows)])

    def save(self, path: Path) -> None:
        """Write the features, with which every process makes the same judge."""
        content = BytesIO()
        np.savez(content, **{name: getattr(self, name) for name in self.__dataclass_fields__})
        write_atomic(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> Judge:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)


def split(held: Set, drawn: int) -> tuple[Set, Set]:
    """Held-out images as the reference and as `drawn` others, or as halves where there are few."""
    order = np.random.default_rng(0).permutation(len(held.images))
    count = min(drawn, len(order) // 2)
    return tuple(Set(held.images[i], held.labels[i]) for i in (order[count:], order[:count]))
