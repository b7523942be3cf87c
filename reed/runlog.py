"""What a run tells: metrics.jsonl, one line per logged step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class RunLog:
    """metrics.jsonl of a run folder, cut back to `step` when a run resumes there."""

    def __init__(self, run: Path, step: int) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self._path = run / "metrics.jsonl"
        kept = [line for line in read(run) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        temp = self._path.with_suffix(".tmp")
        temp.write_text(text, encoding="utf-8")
        temp.replace(self._path)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one line and hand it to the system at once."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read(run: Path) -> list[dict[str, Any]]:
    """Every whole line of a run's metrics.jsonl; a line that a crash cut short is left out."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]
