"""The cost of building a column: COLUMN/cost.jsonl has a line per build command that ended.

The cost is no part of a column's content: its bytes do not depend on who builds it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

_NAME = "cost.jsonl"


def record(column: Path, seconds: float, device: str) -> None:
    """Append the seconds of one process, in one write: lines of several processes never mix."""
    line = json.dumps({"seconds": round(seconds, 3), "device": device}) + "\n"
    descriptor = os.open(column / _NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def seconds(column: Path) -> float | None:
    """Return the seconds of all processes whose command ended; None where none is recorded."""
    path = column / _NAME
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").split("\n")
    return sum(json.loads(line)["seconds"] for line in lines[:-1])
