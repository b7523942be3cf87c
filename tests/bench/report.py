"""What every benchmark shares: interleaved runs, a table, and runs/bench/NAME.json."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import reed  # a benchmark imports this module before torch: see there


@dataclass(frozen=True)
class Figure:
    """One measured number over several runs; value is the median."""

    name: str
    value: float
    unit: str
    minimum: float
    median: float
    maximum: float
    runs: int
    compared_with: str


def figure(name: str, values: list[float], unit: str, compared_with: str = "") -> Figure:
    """The figure of some runs of one thing."""
    middle = statistics.median(values)
    return Figure(name, middle, unit, min(values), middle, max(values), len(values), compared_with)


def interleaved(ways: Mapping[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """Call each way in turn, `runs` times over after one round that is not counted."""
    values: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(runs + 1):
        for name, way in ways.items():
            value = way()
            if turn:
                values[name].append(value)
    return values


def ratios(values: Mapping[str, list[float]], name: str, other: str) -> Figure:
    """values[name] / values[other], round by round."""
    pairs = zip(values[name], values[other], strict=True)
    return figure(f"{name} / {other}", [a / b for a, b in pairs], "ratio", other)


def check_room(folder: Path, needed: float) -> None:
    """Exit with one line if the disk of a folder has less than so many bytes free."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(
            f"{folder} has {free / 1e9:.1f} GB free, and this needs {needed / 1e9:.1f}; "
            "name another --folder, or ask for less"
        )


def cpu_seconds() -> float:
    """CPU time of this process and of its finished children."""
    times = os.times()  # coarser than process_time
    return time.process_time() + times.children_user + times.children_system


def publish(name: str, what: str, figures: list[Figure], out: Path = Path("runs/bench")) -> None:
    """Print the table and write runs/bench/NAME.json."""
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, reed {reed.__version__}"
    head = ("figure", "median", "minimum", "maximum", "runs", "unit", "compared with")
    rows = [
        (
            f.name,
            f"{f.median:.4g}",
            f"{f.minimum:.4g}",
            f"{f.maximum:.4g}",
            str(f.runs),
            f.unit,
            f.compared_with,
        )
        for f in figures
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    print(f"\n{what}\n{machine}\n")
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "bench": name,
        "what": what,
        "machine": machine,
        "when": time.strftime("%Y-%m-%d"),
        "figures": [asdict(f) for f in figures],
    }
    (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten: {out / f'{name}.json'}")
