"""How long it takes to list images: this checkout against another one, in turns.

    python tests/bench/listing.py OTHER-CHECKOUT [--files 200000] [--rounds 5]

A folder tree of empty files in 100 classes, and a set of WebDataset tars. Each round lists both
with both checkouts, each in a process of its own, and the best rounds are compared.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import reed  # noqa: F401  # first, as in every benchmark: what it starts inherits its bound on spinning

HERE = Path(__file__).resolve().parents[2]
LIST = """
import sys, time
from pathlib import Path
import reed
from reed.sources import SOURCES
Images = SOURCES.get("images")
assert Path(reed.__file__).parent.parent == Path(sys.argv[2]), reed.__file__
began = time.perf_counter()
found = Images(data=Path(sys.argv[1])).listing()
print(time.perf_counter() - began, len(found))
"""


def make_tree(root: Path, files: int, classes: int = 100) -> Path:
    """Empty files named as ImageNet's, the same number in every class."""
    for number in range(classes):
        folder = root / f"n{number:08d}"
        folder.mkdir(parents=True)
        for row in range(files // classes):
            (folder / f"n{number:08d}_{row}.JPEG").touch()
    return root


def make_tars(root: Path, samples: int, tars: int = 8) -> Path:
    """WebDataset tars with an image of a few bytes and a class for each sample."""
    root.mkdir()
    for number in range(tars):
        with tarfile.open(root / f"train-{number:04d}.tar", "w") as file:
            for row in range(samples // tars):
                for ending, content in ((".jpg", bytes(700)), (".cls", b"7")):
                    member = tarfile.TarInfo(f"{number * samples + row:09d}{ending}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
    return root


def seconds(checkout: Path, data: Path, want: int) -> float:
    """One listing by the code of a checkout."""
    code, env = LIST, os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    # an editable install has a finder of its own, which comes before the path
    own = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]"
    code = f"{own}\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code, data, checkout.resolve()],
        capture_output=True,
        text=True,
        check=True,
        env=env,
        cwd=checkout,
    )
    took, count = done.stdout.split()
    assert int(count) == want, (checkout, count, want)
    return float(took)


def main() -> None:
    """Make the data, list it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        samples = asked.files // 2
        data = {
            "tree": (make_tree(Path(temp) / "tree", asked.files), asked.files),
            "tars": (make_tars(Path(temp) / "tars", samples), samples),
        }
        for name, (place, count) in data.items():
            rounds = [
                [seconds(checkout, place, count) for checkout in (asked.other, HERE)]
                for _ in range(asked.rounds)
            ]
            other, ours = map(min, zip(*rounds, strict=True))
            print(
                f"{name}: {count:,} samples, other {other:.2f} s, this {ours:.2f} s, "
                f"ratio {ours / other:.3f} (best of {asked.rounds})"
            )


if __name__ == "__main__":
    main()
