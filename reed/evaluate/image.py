"""The evaluator of images: metrics of samples against real images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reed import __version__
from reed.config import option
from reed.errors import ReedError, suggest
from reed.evaluate.base import EVALUATORS, Evaluator, Task
from reed.evaluate.folder import open_reference
from reed.evaluate.image_metrics import METRICS, Values, choose, parse_metrics, spaces_of
from reed.evaluate.provenance import alignment_of, beside, recipe_of
from reed.evaluate.ranks import Ranks
from reed.evaluate.record import Record
from reed.evaluate.reference import Computing, Reference, check
from reed.metrics import FEATURES
from reed.metrics.image_set import ImageSet, has_images, open_images
from reed.precision import PRECISIONS

FEW = 2048  # samples: the width of Inception's features
MANY = 50_000  # samples of published numbers
FAMILIES = ("dinov2", "dinov3", "siglip", "clip", "mae", "ijepa", "mocov3", "convnext")


@EVALUATORS.register("image")
@dataclass
class ImageEvaluator(Evaluator):
    """Metrics of the images in an .npz, an .npy, tars, or a folder of image files.

    The reference is a cache with images, a folder, tars, a zip, an .npz or an .npy; it may be an
    .npz of the ADM suite that has statistics.

    Attributes:
        metrics: Names in METRICS, separated by commas; empty for all that the reference and the
            available weights allow.
        features: Feature space for the metrics that may be taken in any space; empty for their
            own spaces.
        weights: Weights of feature spaces, as SPACE=FILE.
        precision: Precision of the feature networks.
        background: Colour behind transparent images of a reference folder.
    """

    noun = "images"
    shared = True

    metrics: str = option(
        "",
        "Metrics, separated by commas: fd, fid, sfid, is, pr, kid, cmmd, fd-dinov2. Default: those "
        "that the reference and the available weights allow.",
        metavar="LIST",
        choices=METRICS,
    )
    features: str = option(
        "",
        "Feature space in which fd, pr, kid and cmmd are computed, in place of their default: "
        "digits-mlp, inception, dinov2-l, clip-l-336 or timm:NAME. Without --metrics, only fd is "
        "computed.",
        metavar="SPACE",
    )
    weights: tuple[str, ...] = option(
        (),
        "File with the weights of a feature space, in place of a download; may be repeated.",
        metavar="SPACE=FILE",
    )
    precision: str = option(
        "fp32",
        "Precision of the feature networks: fp32, tf32 or bf16.",
        metavar="NAME",
        choices=PRECISIONS,
    )

    background: str = option(
        "",
        "Colour behind transparent images of a reference folder, as source.background of a cache. "
        "Default: alpha is dropped.",
        metavar="COLOUR",
    )

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ReedError(f"precision is {self.precision!r}, it must be one of {known}")

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Return whether it is a folder, an .npy, a .tar, or an .npz with arr_0 or statistics."""
        return path.is_dir() or path.suffix in (".npy", ".tar") or has_images(path)

    def measure(self, task: Task) -> Record:
        """Measure images and write the record.

        If the record exists, its numbers are kept if they are of the same samples, and dropped if
        not.

        Raises:
            ReedError: The samples, the reference, a metric or weights cannot be used.
        """
        given = dict(map(_pair, self.weights))
        how = Computing(task.device, self.precision, task.batch, task.progress, Ranks(task.share))
        wanted = parse_metrics(self.metrics) if self.metrics else ["fd"] if self.features else []
        # Wrong weights are reported before images are opened, which may take long.
        if wanted:
            _check_spaces(spaces_of(wanted, self.features), given, self.precision)

        drawn = open_images(task.samples, "samples")
        real = open_reference(task, drawn.shape, self.background)
        task.check_num(drawn.num)
        check(drawn, real)
        if not wanted:
            wanted = choose(real, given, self.precision, task.say)
        spaces = spaces_of(wanted, self.features)
        for name in given:
            if name not in spaces:
                raise ReedError(f"--weights {name}: no metric uses it.{suggest(name, spaces)}")

        recipe = recipe_of(task.samples, drawn.num)
        record = Record.of(task.kind, _about(drawn), _about(real), recipe)
        record.warnings = _warnings(drawn, recipe, spaces)
        _take_over(task.out, record)
        keep = beside(real.place, "").parent / ".statistics"
        for space, names in spaces.items():
            fitted = Reference(real, space, given.get(space), how, keep)
            if not how.ranks.leads:
                fitted.serve([drawn, real])
                continue
            record.metrics |= _measure(drawn, fitted, names, how)
            record.warnings += fitted.problems
            how.ranks.ask({})
            record.write(task.out)  # kept even if the next space fails
        return record


def _check_spaces(spaces: Mapping[str, Any], given: Mapping[str, str], precision: str) -> None:
    """Raise ReedError for weights that cannot be used, before the first hour of work."""
    for name in given:
        if name not in spaces:
            raise ReedError(f"--weights {name}: no metric uses it.{suggest(name, spaces)}")
    for name in spaces:
        FEATURES.get(name)(given.get(name), precision).revision()


def _pair(text: str) -> tuple[str, str]:
    space, equals, file = text.rpartition("=")
    if not (space and equals and file):
        raise ReedError(f"--weights {text!r} must be SPACE=FILE")
    return space, file


def _measure(drawn: ImageSet, reference: Reference, wanted: list[str], how: Computing) -> Values:
    """Return the values of metrics in one feature space."""
    outputs = {name: METRICS[name].output or reference.space.outputs[0] for name in wanted}
    rows = reference.extract(drawn, sorted(set(outputs.values())))
    about = {
        "features": reference.features,
        "revision": reference.space.revision(),
        "device": how.device,
        "evaluator": f"reed-{__version__} torch-{torch.__version__} numpy-{np.__version__}",
    }

    results: Values = {}
    for name, output in outputs.items():
        metric = METRICS[name]
        # In another space a metric has other values, so its name includes that space.
        suffix = "" if metric.space == reference.features else f"/{reference.features}"
        values = metric.measure(rows[output], reference, output)
        results |= {(key or name) + suffix: value | about for key, value in values.items()}
    return results


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
    warnings = []
    if drawn.num < FEW:
        warnings.append(
            f"{drawn.num} samples are fewer than {FEW:,}: Fréchet distances are too high, by more "
            "the fewer there are; compare only equal numbers of samples"
        )
    elif drawn.num < MANY:
        warnings.append(f"published numbers are of {MANY:,} samples, these are of {drawn.num:,}")

    # A teacher's own feature space favours runs that were aligned to it.
    for target in alignment_of(recipe):
        for space in spaces:
            family = _family(space)
            if family and family == _family(target):
                warnings.append(
                    f"the run was aligned to {target}, which {space} is close to: in this space "
                    "it is favoured; measure in another one too"
                )
    return warnings


def _family(name: str) -> str:
    return next((family for family in FAMILIES if family in name.lower()), "")


def _take_over(out: Path, record: Record) -> None:
    """Add the values that an earlier record has of the same samples."""
    if not out.is_file():
        return
    try:
        old = Record.read(out)
    except ReedError as error:
        raise ReedError(f"{error}, or choose another --out") from error
    before, now = old.reference, record.reference
    if old.samples.get("sha256") != record.samples["sha256"]:
        return

    # Values against different references must not stand in one record.
    if before.get("sha256") != now["sha256"]:
        raise ReedError(
            f"{out} holds numbers against {before.get('place')} "
            f"({str(before.get('sha256'))[:12]}), these are against {now['place']} "
            f"({now['sha256'][:12]}); choose another --out"
        )
    record.metrics = old.metrics
    record.warnings = list(dict.fromkeys(old.warnings + record.warnings))
