"""Metrics of samples against real images, and the file that says how they were taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reed import __version__
from reed.cache import files
from reed.errors import ReedError, suggest
from reed.evaluate.provenance import alignment_of, beside, recipe_of, stage_one_of
from reed.evaluate.reference import Computing, Reference, check
from reed.metrics import FEATURES
from reed.metrics.frechet import Gaussian, frechet_distance
from reed.metrics.image_set import ImageSet, open_images
from reed.metrics.inception_score import inception_score
from reed.metrics.kid import kid
from reed.metrics.mmd import cmmd
from reed.metrics.precision_recall import precision_recall

FEW, MANY = 2048, 50_000  # samples: of Inception's width; of published numbers
FAMILIES = ("dinov2", "dinov3", "siglip", "clip", "mae", "ijepa", "mocov3", "convnext")

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


def evaluate(
    samples: Path,
    reference: Path,
    metrics: list[str],
    features: str | None = None,
    *,
    weights: Mapping[str, str] | None = None,
    num: int | None = None,
    how: Computing | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure samples and write the record: numbers, and everything that they depend on.

    features: the space of the metrics that may be taken in any; weights: files by space; num: how
    many samples there must be; out: NAME.eval.json beside the samples by default. Numbers of the
    same samples that are there stay, those of other samples go. ReedError for what cannot be
    measured, and where there are numbers against another reference.
    """
    how, given = how or Computing(), weights or {}
    out, spaces = out or beside(samples, ".eval.json"), _spaces(metrics, features)
    for name in given:
        if name not in spaces:
            raise ReedError(f"--weights {name}: no metric uses it.{suggest(name, spaces)}")
    for name in spaces:  # weights that are not there are told before the first hour of work
        FEATURES.get(name)(given.get(name), how.precision).revision()
    drawn, real = open_images(samples, "samples"), open_images(reference, "the reference")
    if num is not None and drawn.num != num:
        raise ReedError(f"{samples} holds {drawn.num} samples, --num says {num}")
    check(drawn, real)
    recipe = recipe_of(samples, drawn.num)
    record = {
        "samples": _about(drawn),
        "reference": _about(real),
        "metrics": {},
        "recipe": recipe,
        "stage_one": stage_one_of(recipe),
        "warnings": _warnings(drawn, recipe, spaces),
    }
    _take_over(out, record)
    for space, wanted in spaces.items():
        keep = beside(real.place, "").parent / ".statistics"
        fitted = Reference(real, space, given.get(space), how, keep)
        record["metrics"] |= _measure(drawn, fitted, wanted, how)
        record["warnings"] += fitted.problems
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        files.write_atomic(out, text.encode())
    return record


def _spaces(metrics: list[str], features: str | None) -> dict[str, list[str]]:
    """The metrics that are taken in each space, so that each image goes through it once."""
    if features is not None and not any(METRICS[name].free for name in metrics):
        raise ReedError(
            f"--features {features}: of the metrics {', '.join(metrics)} none may be taken in "
            f"another space; {', '.join(n for n, m in METRICS.items() if m.free)} may"
        )
    found: dict[str, list[str]] = {}
    for name in metrics:
        metric = METRICS[name]
        found.setdefault(features if features and metric.free else metric.space, []).append(name)
    return found


def _measure(drawn: ImageSet, reference: Reference, wanted: list[str], how: Computing) -> Values:
    """The numbers of some metrics in one space."""
    outputs = {name: METRICS[name].output or reference.space.outputs[0] for name in wanted}
    rows = reference.extract(drawn, sorted(set(outputs.values())))
    about = {
        "features": reference.features,
        "revision": reference.space.revision(),
        "device": how.device,
        "evaluator": f"reed-{__version__} torch-{torch.__version__} numpy-{np.__version__}",
    }
    found: Values = {}
    for name, output in outputs.items():
        metric = METRICS[name]
        # in a space that is not its own a number is another one, so it is named by both
        suffix = "" if metric.space == reference.features else f"/{reference.features}"
        values = metric.measure(rows[output], reference, output)
        found |= {(key or name) + suffix: value | about for key, value in values.items()}
    return found


def _about(images: ImageSet) -> dict[str, Any]:
    size = list(images.shape)
    return {
        "place": str(images.place),
        "kind": images.kind,
        "num": images.num,
        "shape": size,
        "sha256": images.sha256,
    }


def _warnings(drawn: ImageSet, recipe: dict[str, Any], spaces: Mapping[str, Any]) -> list[str]:
    found = []
    if drawn.num < FEW:
        found.append(
            f"{drawn.num} samples are fewer than {FEW:,}: Fréchet distances are too high, by more "
            "the fewer there are; compare only equal numbers of samples"
        )
    elif drawn.num < MANY:
        found.append(f"published numbers are of {MANY:,} samples, these are of {drawn.num:,}")
    for target in alignment_of(recipe):
        for space in spaces:
            family = _family(space)
            if family and family == _family(target):
                found.append(
                    f"the run was aligned to {target}, which {space} is close to: in this space "
                    "it is favoured; measure in another one too"
                )
    return found


def _family(name: str) -> str:
    return next((family for family in FAMILIES if family in name.lower()), "")


def _take_over(out: Path, record: dict[str, Any]) -> None:
    """Add the numbers that an earlier record has of the same samples."""
    old = _read(out)
    if not old or old["samples"]["sha256"] != record["samples"]["sha256"]:
        return
    theirs, ours = old["reference"], record["reference"]
    if theirs["sha256"] != ours["sha256"]:
        raise ReedError(
            f"{out} holds numbers against {theirs['place']} ({theirs['sha256'][:12]}), these are "
            f"against {ours['place']} ({ours['sha256'][:12]}); choose another --out"
        )
    record["metrics"] = old["metrics"]
    record["warnings"] = list(dict.fromkeys(old["warnings"] + record["warnings"]))


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        missing = {"samples", "reference", "metrics", "warnings"} - found.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise ReedError(f"cannot read {path}: {error}; move it, or choose another --out") from error
    if missing:
        raise ReedError(f"{path} is no record of an evaluation; choose another --out")
    return found
