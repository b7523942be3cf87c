"""The metrics of images, their feature spaces, and which of them can be computed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from reed.errors import ReedError, suggest
from reed.evaluate.reference import ADM, Reference
from reed.metrics import FEATURES
from reed.metrics.frechet import Gaussian, frechet_distance
from reed.metrics.image_set import ImageSet
from reed.metrics.inception_score import inception_score
from reed.metrics.kid import kid
from reed.metrics.mmd import cmmd
from reed.metrics.precision_recall import precision_recall

Values = dict[str, dict[str, Any]]  # name -> {"value", and what it depends on}


def _frechet(rows: np.ndarray, reference: Reference, output: str) -> Values:
    value = frechet_distance(Gaussian.of(rows), reference.statistics(output))
    return {"": {"value": value, "reference_images": reference.count(output)}}


def _score(rows: np.ndarray, reference: Reference, output: str) -> Values:
    return {"": {"value": inception_score(rows), "split": 5000}}


def _precision_recall(rows: np.ndarray, reference: Reference, output: str) -> Values:
    real, drawn = (torch.from_numpy(x).to(reference.how.device) for x in (reference.rows(), rows))
    values = asdict(precision_recall(drawn, real, half=True))
    about = {"k": 3, "distances": "fp16", "reference_images": len(real)}
    return {name: {"value": value} | about for name, value in values.items()}


def _kid(rows: np.ndarray, reference: Reference, output: str) -> Values:
    real = reference.rows()
    values = asdict(kid(rows, real))
    return {"": {"value": values.pop("mean")} | values | {"reference_images": len(real)}}


def _cmmd(rows: np.ndarray, reference: Reference, output: str) -> Values:
    real, drawn = (torch.from_numpy(x).to(reference.how.device) for x in (reference.rows(), rows))
    return {"": {"value": cmmd(drawn, real), "reference_images": len(real)}}


@dataclass(frozen=True)
class Metric:
    """A metric and its feature space.

    Attributes:
        measure: Function of features [N, D], the reference, and the name of the output; it returns
            values by name, "" for the name of the metric itself.
        space: Name of the feature space.
        output: Output of the space; empty for its first.
        free: Whether the metric may be taken in another space.
    """

    measure: Callable[[np.ndarray, Reference, str], Values]
    space: str
    output: str = ""
    free: bool = False

    def measured_by(self, real: ImageSet) -> bool:
        """Return whether the metric can do without the images of the reference."""
        return (
            self.measure is _score or self.output in ADM and ADM[self.output][0] in real.statistics
        )


METRICS = {
    "fd": Metric(_frechet, "digits-mlp", free=True),
    "fid": Metric(_frechet, "inception", "pool"),
    "sfid": Metric(_frechet, "inception", "spatial"),
    "is": Metric(_score, "inception", "logits"),
    "pr": Metric(_precision_recall, "inception", free=True),
    "fd-dinov2": Metric(_frechet, "dinov2-l"),
    "kid": Metric(_kid, "inception", free=True),
    "cmmd": Metric(_cmmd, "clip-l-336", free=True),
}


def parse_metrics(text: str) -> list[str]:
    """Return the metrics in a comma-separated list, each once; ReedError if one is unknown."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names or [text]:
        if name not in METRICS:
            raise ReedError(f"unknown metric {name!r}.{suggest(name, METRICS)}")
    return names


def spaces_of(metrics: list[str], features: str) -> dict[str, list[str]]:
    """Group metrics by feature space, so that each image passes through a space once."""
    if features and not any(METRICS[name].free for name in metrics):
        raise ReedError(
            f"--features {features}: of the metrics {', '.join(metrics)} none may be taken in "
            f"another space; {', '.join(n for n, m in METRICS.items() if m.free)} may"
        )
    spaces: dict[str, list[str]] = {}
    for name in metrics:
        metric = METRICS[name]
        spaces.setdefault(features if features and metric.free else metric.space, []).append(name)
    return spaces


def choose(
    real: ImageSet, given: Mapping[str, str], precision: str, say: Callable[[str], None]
) -> list[str]:
    """Return the metrics that the reference and the available weights allow.

    Args:
        real: Images of the reference.
        given: Weights files by feature space.
        precision: Precision of the feature networks.
        say: Function that tells the user which metrics are computed, and why others are not.

    Raises:
        ReedError: No metric is possible, or weights that were given cannot be used.
    """
    allowed, reasons = [], {}
    for space, names in spaces_of(list(METRICS), "").items():
        if why := _lack(space, real, given, precision):
            reasons[", ".join(names)] = f"{space}: {why}"
            continue
        impossible = [n for n in names if not real.num and not METRICS[n].measured_by(real)]
        reasons |= {", ".join(impossible): "the reference holds no images"} if impossible else {}
        allowed += [name for name in names if name not in impossible]
    left_out = "; ".join(f"{names} ({why})" for names, why in reasons.items())
    if not allowed:
        raise ReedError(
            f"no metric can be taken as things are: {left_out}; name one with --metrics"
        )
    say(f"metrics: {', '.join(allowed)}" + (f"; left out: {left_out}" if left_out else ""))
    return allowed


def _lack(space: str, real: ImageSet, given: Mapping[str, str], precision: str) -> str:
    """Return why a space cannot be used, or ""; ReedError if the user named its weights."""
    try:
        return FEATURES.get(space)(given.get(space), precision).lacks(real)
    except ReedError as error:
        if space in given:
            raise
        return str(error)
