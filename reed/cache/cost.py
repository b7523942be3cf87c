"""What building a column took: a line per build command that ended, in COLUMN/cost.jsonl.

Not part of what a column holds: its bytes are the same whoever builds it, its cost is not.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

_NAME = "cost.jsonl"


def record(column: Path, seconds: float, device: str) -> None:
    """Append one process's seconds, in one write, so that lines of several never mix."""
    line = json.dumps({"seconds": round(seconds, 3), "device": device}) + "\n"
    descriptor = os.open(column / _NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def seconds(column: Path) -> float | None:
    """Seconds of all processes whose command ended; None where none is recorded."""
    path = column / _NAME
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").split("\n")
    return sum(json.loads(line)["seconds"] for line in lines[:-1])
