"""The log of a run: metrics.jsonl with one line per logged step, previews, and trackers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from reed.bytes import check_readable
from reed.cache.files import write_atomic
from reed.errors import ReedError
from reed.picture import save_png

_REFUSED = re.compile(r"[^/\w.\- :]")  # characters that names in MLflow must not have


class RunLog:
    """The open log of a run.

    Args:
        run: Folder of the run.
        step: Step that the run starts or resumes at; later lines of an earlier process are removed.
        trackers: Trackers of Accelerate, which get the same values and pictures.
        unusual: Step, values -> lines to print; it is told the lines of an earlier process, too,
            of which nothing is printed again.
    """

    def __init__(
        self,
        run: Path,
        step: int,
        trackers: Sequence[Any] = (),
        unusual: Callable[[int, Mapping[str, Any]], Sequence[str]] | None = None,
    ) -> None:
        self._run, self._trackers, self._unusual = run, trackers, unusual
        path = run / "metrics.jsonl"
        lines = [line for line in read(run) if line["step"] <= step]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        if unusual is not None:
            for line in lines:
                unusual(line["step"], line)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one line and flush it at once."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for said in self._unusual(step, values) if self._unusual else ():
            tqdm.write(said, file=sys.stderr)
        for tracker in self._trackers:
            if tracker.name == "mlflow":
                values = {name_for_mlflow(name): value for name, value in values.items()}
            tracker.log(values, step=step)

    def picture(self, step: int, picture: np.ndarray) -> None:
        """Write a picture [H, W, C] uint8 as previews/step-0001000.png."""
        path = self._run / "previews" / f"step-{step:07d}.png"
        save_png(picture, path)
        for tracker in self._trackers:
            if tracker.name == "mlflow":  # Accelerate's tracker of MLflow has no log_images
                tracker.log_artifact(str(path), "previews")
                continue
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"preview": picture[None]}, step=step, **layout)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        for tracker in self._trackers:
            tracker.finish()


def read(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl; a last line cut short by a crash is left out.

    Raises:
        ReedError: The file cannot be read, or has a line that RunLog cannot have written.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        check_readable(path)
        raise ReedError(f"cannot read {path}: {error}; restore it") from error
    return [_parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _parsed(text: str, where: str) -> dict[str, Any]:
    """Parse one line and check that it has a step and numbers."""
    try:
        line = json.loads(text)
    except ValueError as error:
        raise ReedError(f"cannot read {where}: {error}; restore it, or remove the line") from error
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        raise ReedError(f"cannot read {where}: it has no step; restore it, or remove the line")
    for name, value in line.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ReedError(f"cannot read {where}: {name} is {value!r}, not a number; restore it")
    return line


def name_for_mlflow(name: str) -> str:
    """Return the name of a parameter or a metric without characters that MLflow refuses."""
    return _REFUSED.sub("_", name)


def check_tracker(name: str) -> None:
    """Fail unless the tracker's package is installed; "none" needs no package."""
    if name != "none" and find_spec(name) is None:
        raise ReedError(
            f"tracker {name!r} needs the package {name}, which is not installed: pip install "
            f"{name}, or set tracker=none"
        )
