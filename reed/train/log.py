"""What a run tells: metrics.jsonl, one line per logged step, pictures, and a tracker if named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from reed.cache.files import write_atomic
from reed.errors import ReedError
from reed.picture import save_png


class RunLog:
    """metrics.jsonl of a run folder, cut back to `step` when a run resumes there.

    trackers: of Accelerate, which are told the same.
    """

    def __init__(self, run: Path, step: int, trackers: Sequence[Any] = ()) -> None:
        self._run, self._trackers = run, trackers
        path = run / "metrics.jsonl"
        kept = [line for line in read(run) if line["step"] <= step]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one line and hand it to the system at once."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.log(values, step=step)

    def picture(self, step: int, picture: np.ndarray) -> None:
        """Write previews/step-0001000.png of [H, W, C] uint8."""
        save_png(picture, self._run / "previews" / f"step-{step:07d}.png")
        for tracker in self._trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"preview": picture[None]}, step=step, **layout)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        for tracker in self._trackers:
            tracker.finish()


def read(run: Path) -> list[dict[str, Any]]:
    """Every whole line of a run's metrics.jsonl; a line that a crash cut short is left out.

    Raises ReedError naming the line that is none of RunLog.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise ReedError(f"cannot read {path}: {error}; restore it") from error
    return [_parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise ReedError(f"cannot read {where}: {error}; restore it, or remove the line") from error
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        raise ReedError(f"cannot read {where}: it names no step; restore it, or remove the line")
    for name, value in line.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ReedError(f"cannot read {where}: {name} is {value!r}, no number; restore it")
    return line


def check_tracker(name: str) -> None:
    """ReedError unless the tracker's package is installed; "none" needs none."""
    if name != "none" and find_spec(name) is None:
        raise ReedError(
            f"tracker {name!r} needs the package {name}, which is not installed: pip install "
            f"{name}, or set tracker=none"
        )
