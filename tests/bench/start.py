"""How long `reed-train` takes to its first step: this checkout against another one, in turns.

    python tests/bench/start.py OTHER-CHECKOUT [--rounds 7]

Each round trains one step on the digits with both checkouts, each in a process of its own, with
compiled bytecode. The medians of wall time and CPU time are compared.
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


def installed(checkout: Path, folder: Path) -> Path:
    """Copy the package of a checkout as it is installed, to a folder for PYTHONPATH."""
    shutil.copytree(checkout / "reed", folder / "reed")
    for name in ("cli", "pipelines"):
        shutil.copytree(checkout / name, folder / "reed" / name)
    return folder


def call(package: Path, place: Path, module: str, *words: str) -> tuple[float, float]:
    """Run a command of a package in a folder; return its wall time and its CPU time."""
    # an editable install has a finder of its own, which may come before the path
    own = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]"
    code = f"{own}; import runpy; runpy.run_module({module!r}, run_name='__main__')"
    env = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)

    began, before = time.perf_counter(), os.times()
    subprocess.run(
        [sys.executable, "-c", code, *words], check=True, capture_output=True, env=env, cwd=place
    )
    wall, after = time.perf_counter() - began, os.times()
    used = after.children_user - before.children_user
    return wall, used + after.children_system - before.children_system


def main() -> None:
    """Build the digits, start runs in turns, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()

    with tempfile.TemporaryDirectory() as temp:
        root = Path(temp)
        checkouts = {"other": asked.other, "this": HERE}
        packages = {name: installed(path, root / name) for name, path in checkouts.items()}
        call(packages["this"], root, "reed.cli.cache", "build", "digits")

        times: dict[str, list[tuple[float, float]]] = {name: [] for name in packages}
        for number in range(asked.rounds + 1):
            for name, package in packages.items():
                words = ("--shards", "cache/digits", "--run", f"runs/{name}-{number}")
                took = call(package, root, "reed.cli.train", *words, "--set", "steps=1")
                # The first round compiles the bytecode.
                if number:
                    times[name].append(took)

    for which, title in enumerate(("wall", "cpu")):
        other, ours = (sorted(took[which] for took in times[name]) for name in ("other", "this"))
        middle = [statistics.median(rows) for rows in (other, ours)]
        print(
            f"{title}: other {middle[0]:.2f} s ({other[0]:.2f} to {other[-1]:.2f}), this "
            f"{middle[1]:.2f} s ({ours[0]:.2f} to {ours[-1]:.2f}), ratio "
            f"{middle[1] / middle[0]:.2f} (medians of {asked.rounds} rounds)"
        )


if __name__ == "__main__":
    main()
