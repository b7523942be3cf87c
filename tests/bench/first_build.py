"""How long the first command takes: this checkout against another one, in turns.

    python tests/bench/first_build.py OTHER-CHECKOUT [--pipeline proteins-toy] [--rounds 3]

`reed-cache build PIPELINE` makes a new cache, all columns, by the code of each checkout in turn, in
a process of its own. The medians of the seconds are compared, by the clock and of CPU time, that of
reading processes included: on a busy machine the clock says little. The bytes of the caches must
be equal.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import reed  # noqa: F401  # first, as in every benchmark: what it starts inherits its bound on spinning

HERE = Path(__file__).resolve().parents[2]
# An editable install has a finder of its own, which comes before the path; in every process.
OWN = "import sys\nsys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
BUILD = """
import sys
from pathlib import Path
import reed
from reed.cli.cache import main
assert Path(reed.__file__).parent.parent == Path(sys.argv.pop(1)), reed.__file__
main()
"""


def laid_out(checkout: Path, place: Path) -> Path:
    """A copy of the package of a checkout in which reed.cli and reed.pipelines lie in place."""
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(checkout / "reed", place / "reed", ignore=unwanted)
    for name in ("cli", "pipelines"):
        shutil.copytree(checkout / name, place / "reed" / name, ignore=unwanted)
    (place / "sitecustomize.py").write_text(OWN)
    return place


def build(tree: Path, cache: Path, words: list[str]) -> tuple[float, float]:
    """Build a new cache by the code of a tree; return the seconds by the clock and of CPU time."""
    shutil.rmtree(cache, ignore_errors=True)
    env = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BUILD, str(tree), "build", *words, "--cache", str(cache)]
    began = time.perf_counter()
    with open(cache.with_suffix(".log"), "w") as log:
        child = subprocess.Popen(command, env=env, cwd=cache.parent, stdout=log, stderr=log)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, cache.with_suffix(".log").read_text()
    return time.perf_counter() - began, used.ru_utime + used.ru_stime


def content(cache: Path) -> dict[str, bytes]:
    """The files of a cache, without the record of what building cost."""
    paths = (p for p in cache.rglob("*") if p.is_file() and p.name != "cost.jsonl")
    return {str(path.relative_to(cache)): path.read_bytes() for path in paths}


def main() -> None:
    """Build in turns, compare the bytes, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--pipeline", default="proteins-toy")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="COLUMN.NAME=VALUE")
    asked = parser.parse_args()
    words = [asked.pipeline, "--device", "cpu", *(w for each in asked.set for w in ("--set", each))]

    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp).resolve()
        ways = {"other": asked.other.resolve(), "this": HERE}
        trees = {name: laid_out(place, folder / name) for name, place in ways.items()}
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(asked.rounds):
            for name, tree in trees.items():
                spent[name].append(build(tree, folder / f"cache-{name}", words))
                said = "{:.1f} s, {:.1f} CPU s".format(*spent[name][-1])
                print(f"round {number + 1}, {name}: {said}", flush=True)
            assert content(folder / "cache-this") == content(folder / "cache-other")

    for index, what in enumerate(("seconds", "CPU seconds")):
        middle = {name: statistics.median(s[index] for s in spent[name]) for name in ways}
        ratios = [b[index] / a[index] for a, b in zip(spent["other"], spent["this"], strict=True)]
        print(
            f"{what}: other {middle['other']:.1f}, this {middle['this']:.1f}, ratio "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
