"""The feature space for 8x8 digits: the hidden layer of a classifier."""

from __future__ import annotations

import numpy as np

from reed import weights as files
from reed.errors import ReedError
from reed.metrics import FEATURES
from reed.metrics.image_set import ImageSet


@FEATURES.register("digits-mlp")
class DigitsMlp:
    """The 64 hidden units of a scikit-learn MLP, trained on the real digits from a fixed seed.

    It shares no weights with digits-vit, so that no model was aligned to it. Training takes
    seconds.
    """

    outputs = ("hidden",)

    def __init__(self, weights: str | None = None, precision: str = "fp32") -> None:
        if weights or precision != "fp32":
            raise ReedError(
                "digits-mlp is fitted to the reference: it has no weights to load and "
                "no precision to choose"
            )

    def revision(self) -> str:
        sklearn = files.library("sklearn", "digits-mlp", "digits")
        return f"MLP 64, fitted to the reference, fp64 scikit-learn-{sklearn.__version__}"

    def lacks(self, real: ImageSet) -> str:
        """Return why the space cannot be used: it needs 8x8 digits with labels."""
        self.revision()
        if real.shape != (8, 8, 1):
            return "only for digits of 8x8 pixels"
        return "" if real.labels() is not None else "the reference has no labels"

    def load(self, device: str, real: ImageSet) -> None:
        labels = real.labels()
        if labels is None:
            problem = f"digits-mlp is fitted to images with labels, {real.place} has no labels"
            raise ReedError(f"{problem}; choose another space: --features inception")
        library = files.library("sklearn.neural_network", "digits-mlp", "digits")
        model = library.MLPClassifier((64,), alpha=1e-2, max_iter=1000, random_state=0)
        model.fit(self._flat(real.all()), labels)
        self._weight, self._bias = model.coefs_[0], model.intercepts_[0]

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"hidden": np.maximum(self._flat(images) @ self._weight + self._bias, 0)}

    @staticmethod
    def _flat(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float64) / 255
