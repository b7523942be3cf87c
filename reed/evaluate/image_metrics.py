"""Which metrics of images there are, in which spaces, and which of them can be taken here."""

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

Values = dict[str, dict[str, Any]]  # by the name of the number


def _frechet(rows: np.ndarray, reference: Reference, output: str) -> Values:
    value = frechet_distance(Gaussian.of(rows), reference.statistics(output))
    return {"": {"value": value, "reference_images": reference.count(output)}}


def _score(rows: np.ndarray, reference: Reference, output: str) -> Values:
    return {"": {"value": inception_score(rows), "split": 5000}}


def _precision_recall(rows: np.ndarray, reference: Reference, output: str) -> Values:
    real, drawn = (torch.from_numpy(x).to(reference.how.device) for x in (reference.rows(), rows))
    found = asdict(precision_recall(drawn, real, half=True))
    about = {"k": 3, "distances": "fp16", "reference_images": len(real)}
    return {name: {"value": value} | about for name, value in found.items()}


def _kid(rows: np.ndarray, reference: Reference, output: str) -> Values:
    real = reference.rows()
    found = asdict(kid(rows, real))
    return {"": {"value": found.pop("mean")} | found | {"reference_images": len(real)}}


def _cmmd(rows: np.ndarray, reference: Reference, output: str) -> Values:
    real, drawn = (torch.from_numpy(x).to(reference.how.device) for x in (reference.rows(), rows))
    return {"": {"value": cmmd(drawn, real), "reference_images": len(real)}}


@dataclass(frozen=True)
class Metric:
    """A measure and the space it is taken in.

    space: by name; output: of the space, empty for its first; free: whether another space may
    take its place.
    """

    measure: Callable[[np.ndarray, Reference, str], Values]
    space: str
    output: str = ""
    free: bool = False

    def measured_by(self, real: ImageSet) -> bool:
        """Whether statistics of the reference, or nothing of it, will do in place of images."""
        return (
            self.measure is _score
            or self.output in ADM
            and ADM[self.output][0] in (real.statistics)
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
    """The metrics that a list with commas names, each once; ReedError with the nearest name."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names or [text]:
        if name not in METRICS:
            raise ReedError(f"unknown metric {name!r}.{suggest(name, METRICS)}")
    return names


def spaces_of(metrics: list[str], features: str) -> dict[str, list[str]]:
    """The metrics that are taken in each space, so that each image goes through it once."""
    if features and not any(METRICS[name].free for name in metrics):
        raise ReedError(
            f"--features {features}: of the metrics {', '.join(metrics)} none may be taken in "
            f"another space; {', '.join(n for n, m in METRICS.items() if m.free)} may"
        )
    found: dict[str, list[str]] = {}
    for name in metrics:
        metric = METRICS[name]
        found.setdefault(features if features and metric.free else metric.space, []).append(name)
    return found


def choose(
    real: ImageSet, given: Mapping[str, str], precision: str, say: Callable[[str], None]
) -> list[str]:
    """The metrics that a reference and the weights that are here allow; tells which, and why.

    Raises ReedError when there is none, and for weights that were given and cannot be used.
    """
    allowed, out = [], {}
    for space, names in spaces_of(list(METRICS), "").items():
        if why := _lack(space, real, given, precision):
            out[", ".join(names)] = f"{space}: {why}"
            continue
        bare = [n for n in names if not real.num and not METRICS[n].measured_by(real)]
        out |= {", ".join(bare): "the reference holds no images"} if bare else {}
        allowed += [name for name in names if name not in bare]
    left = "; ".join(f"{names} ({why})" for names, why in out.items())
    if not allowed:
        raise ReedError(f"no metric can be taken as things are: {left}; name one with --metrics")
    say(f"metrics: {', '.join(allowed)}" + (f"; left out: {left}" if left else ""))
    return allowed


def _lack(space: str, real: ImageSet, given: Mapping[str, str], precision: str) -> str:
    """Why a space cannot be used; weights that the user named are used, or refused."""
    try:
        return FEATURES.get(space)(given.get(space), precision).lacks(real)
    except ReedError as error:
        if space in given:
            raise
        return str(error)
