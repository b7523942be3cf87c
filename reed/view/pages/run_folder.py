"""The content of a run folder: settings, log, pictures, and facts that follow from them."""

from __future__ import annotations

import math
import re
import statistics
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from reed import config
from reed.cache import schema
from reed.errors import ReedError
from reed.train import log
from reed.train.run_data import RunData
from reed.wording import classes_of

NEEDED = {  # settings of every run, and their types
    "shards": str,
    "steps": int,
    "data": dict,
    "align": dict,
    "curriculum": dict,
    "optim": dict,
}
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A PNG of a run.

    Attributes:
        step: Step at which it was drawn; None if it is not known.
        path: Its file.
        small: Whether it is so small that it should be enlarged without smoothing.
    """

    step: int | None
    path: Path
    small: bool


@dataclass(frozen=True)
class Run:
    """A run folder that was read.

    Attributes:
        place: The folder.
        name: Name of the run on the page.
        settings: Its configuration.
        lines: Lines of its log.
        data: What the run keeps of its cache; for an older run the manifest of the cache, or None
            if the cache is gone.
        checkpoints: Steps of its checkpoints.
        previews: Its previews.
        warnings: Problems to show on the page.
    """

    place: Path
    name: str
    settings: dict[str, Any]
    lines: list[dict[str, Any]]
    data: RunData | schema.Manifest | None
    checkpoints: list[int]
    previews: list[Picture]
    warnings: list[str] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        """Names of the logged quantities, in order of their first appearance."""
        return list(dict.fromkeys(key for line in self.lines for key in line))

    def logged(self, key: str) -> tuple[list[int], list[float | None]]:
        """Return the steps at which a quantity is logged, and its values."""
        pairs = [(line["step"], line[key]) for line in self.lines if key in line]
        return [step for step, _ in pairs], [value for _, value in pairs]


def expanded(places: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return runs in place of the folders of sweeps, and notes on runs that are left out.

    Args:
        places: Folders of runs, and folders in which runs are.

    Raises:
        ReedError: No run in a folder of runs has logged anything.
    """
    runs, notes = [], []
    for place in places:
        inside = sorted((path.parent for path in place.glob("*/config.json")), key=_natural)
        if (place / "config.json").is_file() or not inside:
            runs.append(place)
            continue
        logged = [path for path in inside if log.read(path)]
        if not logged:
            raise ReedError(f"none of the {len(inside)} runs in {place} has logged anything yet")
        runs += logged
        notes += [f"{p} has logged nothing yet and is left out" for p in inside if p not in logged]
    return runs, notes


def _natural(path: Path) -> list[Any]:
    """Return a key by which seed=9 comes before seed=10."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if part.isdecimal() else part for part in parts]


def read(place: Path, name: str) -> Run:
    """Read a run folder.

    Args:
        place: The folder.
        name: Name of the run on the page.

    Raises:
        ReedError: The folder is not a run, its log is empty, or files are damaged.
    """
    settings = _settings(place)
    lines = log.read(place)
    if not lines:
        often = settings.get("every", {}).get("log", "every.log")
        raise ReedError(f"{place} has logged nothing yet; the first line comes at step {often}")
    data, problems = _data(place, Path(settings["shards"]))
    previews, unread = pictures(sorted((place / "previews").glob("step-*.png")))
    checkpoints = sorted(int(p.parent.name[5:]) for p in place.glob("step-*/state.json"))
    problems += unread + _cut(place) + _not_finite(lines) + _unfinished(settings, lines, place)
    return Run(place, name, settings, lines, data, checkpoints, previews, problems)


def pictures(paths: Sequence[Path]) -> tuple[list[Picture], list[str]]:
    """Return the pictures in PNG files by step, and a warning for each file that is not a PNG."""
    result, problems = [], []
    for path in paths:
        with open(path, "rb") as file:
            head = file.read(24)
        if len(head) < 24 or not head.startswith(PNG):
            problems.append(f"{path} is no PNG and is left out")
            continue
        width = max(struct.unpack(">II", head[16:24]))
        number = path.stem.removeprefix("step-").partition("-")[0]
        result.append(Picture(int(number) if number.isdecimal() else None, path, width < 512))
    return sorted(result, key=lambda picture: (picture.step or 0, picture.path)), problems


def facts(run: Run) -> dict[str, Any]:
    """Return the facts at the top of the page by name; None for what is not known."""
    last, settings = run.lines[-1], run.settings
    samples, data = last.get("samples"), run.data
    # With one_per, an epoch is shorter than the data set, so epochs cannot be counted here.
    no_epochs = settings.get("one_per") or data is None
    cache_exists = (Path(settings["shards"]) / "manifest.json").is_file()
    rates = [rate for rate in run.logged("samples_per_s")[1] if rate]
    net, heads = parameters(run)

    return {
        "folder": str(run.place),
        "cache": settings["shards"] + ("" if cache_exists else " (not there)"),
        "samples left out": data.said if isinstance(data, RunData) else None,
        "classes": data and classes_of(data.classes),
        "pipeline": data and f"{data.pipeline}, domain {data.domain}",
        "aligned to": ", ".join(target["target"] for target in _aligned(settings)) or "nothing",
        "parameters of the net": net,
        "parameters of the alignment heads": heads,
        "steps": f"{last['step']:,} of {settings['steps']:,}",
        "samples seen": samples,
        "epochs": samples / data.samples if samples and not no_epochs else None,
        "training time": _duration(run.lines),
        "samples per second, median": statistics.median(rates) if rates else None,
        "precision": settings.get("precision"),
        "last started or resumed": _when(run.place / "config.json"),
        "last logged": _when(run.place / "metrics.jsonl"),
        "checkpoints": len(run.checkpoints),
        "latest checkpoint": run.checkpoints[-1] if run.checkpoints else "none",
    }


def parameters(run: Run) -> tuple[int | None, int | None]:
    """Return the trained parameters of the net and of the alignment heads.

    They are counted in the optimizer state of the latest checkpoint; None without a checkpoint.
    """
    if not run.checkpoints:
        return None, None
    path = run.place / f"step-{run.checkpoints[-1]:07d}" / "optim.safetensors"
    try:
        with safe_open(path, framework="numpy") as file:
            sizes = {
                name.partition("/")[2]: math.prod(file.get_slice(name).get_shape())
                for name in file.keys()  # noqa: SIM118
                if name.startswith(("exp_avg/", "momentum_buffer/"))  # of AdamW, of Muon
            }
    except (OSError, SafetensorError):
        return None, None
    net = sum(size for name, size in sizes.items() if name.startswith("net."))
    return net, sum(sizes.values()) - net


def per_step(run: Run) -> float | None:
    """Return samples per batch: the recipe's, or the mean so far if samples differ in length."""
    last = run.lines[-1]
    return run.settings.get("batch") or (last.get("samples") or 0) / last["step"] or None


def _settings(place: Path) -> dict[str, Any]:
    path = place / "config.json"
    if not path.is_file():
        raise ReedError(f"{place} is no run (no config.json); name a folder of reed-train --run")
    settings = config.read(path)
    wrong = [name for name, kind in NEEDED.items() if not isinstance(settings.get(name), kind)]
    if wrong:
        problem = f"{', '.join(wrong)} missing or of another type"
        raise ReedError(f"{path} is no configuration of a run: {problem}")
    return settings


def _data(place: Path, cache: Path) -> tuple[RunData | schema.Manifest | None, list[str]]:
    if kept := RunData.read(place):
        return kept, []
    try:
        return schema.load_manifest(cache), []
    except ReedError as error:
        return None, [f"the cache cannot be looked at: {error}"]


def _cut(place: Path) -> list[str]:
    path = place / "metrics.jsonl"
    with open(path, "rb") as file:
        file.seek(-1, 2)
        is_complete = file.read() == b"\n"
    return [] if is_complete else [f"the last line of {path} is cut short and is left out"]


def _not_finite(lines: list[dict[str, Any]]) -> list[str]:
    bad = {
        line["step"]: [k for k, v in line.items() if v is not None and not math.isfinite(v)]
        for line in lines
    }
    bad = {step: names for step, names in bad.items() if names}
    if not bad:
        return []
    names = ", ".join(dict.fromkeys(name for keys in bad.values() for name in keys))
    return [
        f"{len(bad):,} of {len(lines):,} lines of the log have numbers that are not finite "
        f"({names}), the first at step {min(bad):,}: steps with such gradients are skipped"
    ]


def _unfinished(settings: dict[str, Any], lines: list[dict[str, Any]], place: Path) -> list[str]:
    step, steps = lines[-1]["step"], settings["steps"]
    if step >= steps:
        return []
    return [
        f"the log ends at step {step:,} of {steps:,}: {place} is still in training, or it was "
        "stopped; the same command resumes it"
    ]


def _aligned(settings: dict[str, Any]) -> list[dict[str, Any]]:
    weights = settings["curriculum"]
    return [target for name, target in settings["align"].items() if weights.get(name) != 0]


def _duration(lines: list[dict[str, Any]]) -> str | None:
    """Return the time spent training, without pauses between a stop and a resume."""
    seconds, before = 0.0, 0
    for line in lines:
        samples, rate = line.get("samples"), line.get("samples_per_s")
        if not samples or not rate:
            return None
        seconds, before = seconds + (samples - before) / rate, samples
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _when(path: Path) -> str:
    """Return when a file was modified, to the minute, in the time zone of this machine."""
    return datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
