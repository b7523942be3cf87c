"""The feature space in which 8x8 digits are compared: a classifier's hidden layer."""

from __future__ import annotations

import numpy as np

from reed.metrics import FEATURES


@FEATURES.register("digits-mlp")
class DigitsMlp:
    """The 64 hidden units of a scikit-learn MLP trained on the real digits from a fixed seed.

    It shares no weight with digits-vit, so no model was aligned to it. Fitting takes seconds.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        from sklearn.neural_network import MLPClassifier

        model = MLPClassifier((64,), alpha=1e-2, max_iter=1000, random_state=0)
        model.fit(self._flat(images), labels)
        self._weight, self._bias = model.coefs_[0], model.intercepts_[0]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features [N, 64] of images [N, 8, 8, 1] uint8."""
        return np.maximum(self._flat(images) @ self._weight + self._bias, 0)

    @staticmethod
    def _flat(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float64) / 255
