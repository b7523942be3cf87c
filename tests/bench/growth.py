"""make bench-growth: time per sample and memory as the number of samples grows.

Generated records (16 bytes of int8 tokens and a label), shards of 1,024. Every part runs in a fresh
process per size:

- build: plan, encode (an encoder that costs nothing), write;
- loader: one epoch in batches of 256, opening the cache included;
- evaluation: open an .npy of 8 x 8 images, pass it through the feature space random-conv (64
  features), and the distance to a reference of 1,000;
- listing: find as many image files in a folder tree of 1,000 per folder;
- plan: compare a listing that is there with the plan of a cache, as a build that resumes does;
- info: what `reed-cache info` prints of the built cache.

Times are CPU seconds. Memory is the peak of the process less what it had before the part, with
all imports done; the keys of a plan and features are kept, records and images should not be. The
last row of a part is the time per sample at the largest size over that at the one before. With
--figure, the curves are drawn to docs/images.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import report

SIZES = (1_000, 10_000, 100_000)
LARGE = 1_300_000  # of all parts but evaluation: as many as ImageNet has
SHARD, BATCH, TOKENS = 1024, 256, (2, 8)
IMAGE = Path(__file__).parents[2] / "docs" / "images" / "growth.png"
WARM = 600  # samples of a run that is not measured
FREED = 100_000  # samples up to which images are measured


class Records:
    """A source and an encoder of small generated records that cost nothing."""

    entries, views, licence, batch_size, reads = ("number",), 1, "", BATCH, ("number",)

    def __init__(self, count: int) -> None:
        from reed.cache.schema import Field

        self.count = count
        self.fields = (
            Field("tokens", "token", TOKENS, "int8"),
            Field("label", "label", (), "int32"),
        )
        values = np.random.default_rng(0).standard_normal((BATCH, *TOKENS), np.float32)
        self._values, self._labels = values, np.arange(BATCH) % 10

    def revision(self) -> str:
        """One name for all of them."""
        return "1"

    def listing(self) -> dict[str, str]:
        """Keys as those of ImageNet's files."""
        return {
            f"n{i // 1000:08d}/n{i // 1000:08d}_{i % 1000}.JPEG": "1" for i in range(self.count)
        }

    def read(self, key: str, view: int = 0) -> dict[str, Any]:
        """Nothing but a number."""
        return {"number": 0}

    def encode(self, samples: Sequence[Any]) -> dict[str, Any]:
        """The same arrays for every batch."""
        return {"tokens": self._values[: len(samples)], "label": self._labels[: len(samples)]}


@cache
def listed(count: int) -> dict[str, str]:
    """The listing of one size, drawn up once."""
    return Records(count).listing()


def _planned(folder: Path, count: int) -> Any:
    from reed.cache import plan

    settings = {"pipeline": "bench", "domain": "image", "source": "bench", "shard_size": SHARD}
    return plan.freeze(folder / f"cache-{count}", listed(count), **settings)


def build(folder: Path, count: int) -> None:
    """Build the cache of one size."""
    from reed.build import column, engines

    records = Records(count)
    job = column.open_job(
        folder / f"cache-{count}",
        _planned(folder, count),
        "both",
        records,
        records,
        container=(folder / "container").read_text(),
    )
    engines.run(job, engines.Share(), progress=False)


def loader(folder: Path, count: int) -> None:
    """Read one epoch."""
    from reed.cache.opened import open_cache
    from reed.cache.stream import ShardStream

    with open_cache(folder / f"cache-{count}") as cache:
        places = {"tokens": "both/tokens", "label": "both/label"}
        stream = ShardStream(cache, places, BATCH, threads=0)
        batches = stream.batches(0)
        for _ in range(-(-count // BATCH)):
            next(batches)
        batches.close()


def evaluation(folder: Path, count: int) -> None:
    """The distance of so many images to a thousand others."""
    from reed.evaluate.reference import Computing, Reference

    reference = Reference(folder / "real.npy", "random-conv", how=Computing(batch=BATCH))
    reference.measure(folder / f"images-{count}.npy")


def listing(folder: Path, count: int) -> None:
    """List a folder tree."""
    from reed.sources.image.images import Images

    found = Images(folder / f"tree-{count}").listing()
    assert len(found) == count


def plan(folder: Path, count: int) -> None:
    """Compare a listing with the plan that is there."""
    assert len(_planned(folder, count).keys) == count


def info(folder: Path, count: int) -> None:
    """The lines of `reed-cache info`."""
    from reed.view import info as view

    assert "complete" in "\n".join(view.lines(folder / f"cache-{count}"))


PARTS: dict[str, Callable[[Path, int], None]] = {
    part.__name__: part for part in (build, loader, evaluation, listing, plan, info)
}


def prepare(folder: Path, count: int) -> None:
    """The folder tree and the images of one size."""
    for number in range(-(-count // 1000)):
        place = folder / f"tree-{count}" / f"n{number:08d}"
        place.mkdir(parents=True)
        for row in range(min(1000, count - 1000 * number)):
            (place / f"n{number:08d}_{row}.JPEG").touch()
    if count <= FREED:
        images = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), np.uint8)
        np.save(folder / f"images-{count}.npy", images)


def _mebibytes(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(name)


def alone(part: str, folder: Path, count: int) -> dict[str, float]:
    """CPU seconds and memory of a part in this process."""
    # A small run first: all imports are done, and buffers of a fixed size are there.
    if part == "build":
        with tempfile.TemporaryDirectory() as temp:
            shutil.copy(folder / "container", temp)
            build(Path(temp), WARM)
    else:
        PARTS[part](folder, WARM)
    listed(count if part == "plan" else 0)
    before, began = _mebibytes("VmRSS"), time.process_time()
    PARTS[part](folder, count)
    return {"seconds": time.process_time() - began, "MiB": _mebibytes("VmHWM") - before}


def fresh(part: str, folder: Path, count: int) -> dict[str, float]:
    """The same in a process of its own."""
    words = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
    done = subprocess.run(
        [*words, "--size", str(count)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def draw(found: dict[str, dict[int, dict[str, float]]], place: Path) -> None:
    """Time per sample, and memory, over the number of samples."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for part, sizes in found.items():
        counts = list(sizes)
        left.plot(counts, [1e6 * sizes[n]["seconds"] / n for n in counts], "o-", label=part)
        right.plot(counts, [max(sizes[n]["MiB"], 0.1) for n in counts], "o-", label=part)
    for axes, name in ((left, "CPU time per sample, µs"), (right, "memory of the part, MiB")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("samples")
        axes.set_ylabel(name)
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(place, dpi=100)


def measure(
    folder: Path, sizes: Sequence[int], large: int, container: str
) -> dict[str, dict[int, dict[str, float]]]:
    """Seconds and memory by part and size."""
    (folder / "container").write_text(container)
    np.save(folder / "real.npy", np.random.default_rng(0).integers(0, 256, (1000, 8, 8, 3), "u1"))
    found: dict[str, dict[int, dict[str, float]]] = {part: {} for part in PARTS}
    prepare(folder, WARM)
    build(folder, WARM)
    for count in [*sizes, *([large] if large else [])]:
        prepare(folder, count)
        for part in PARTS:
            if count > FREED and part == "evaluation":
                continue
            found[part][count] = fresh(part, folder, count)
            print(part, count, found[part][count], flush=True)
    return found


def figures(found: dict[str, dict[int, dict[str, float]]]) -> list[report.Figure]:
    """The figures of the table."""
    made = []
    for part, sizes in found.items():
        for count, values in sizes.items():
            name, seconds = f"{part}, {count:,}", values["seconds"]
            made.append(report.figure(name, [1e6 * seconds / count], "µs per sample"))
            made.append(report.figure(f"{name}: in all", [seconds], "s"))
            made.append(report.figure(f"{name}: memory", [values["MiB"]], "MiB"))
        *_, before, last = list(sizes)
        ratio = (sizes[last]["seconds"] / last) / (sizes[before]["seconds"] / before)
        name = f"{part}, time per sample, {last:,} / {before:,}"
        made.append(report.figure(name, [ratio], "ratio", f"{part}, {before:,}"))
    return made


@click.command()
@click.option("--sizes", default=",".join(map(str, SIZES)), help="Numbers of samples.")
@click.option("--large", default=LARGE, help="Samples of all parts but evaluation; 0 for none.")
@click.option("--figure", is_flag=True, help="Draw docs/images/growth.png.")
@click.option("--container", default="tar", help="A tar needs 5 kB per record, an h5 30 bytes.")
@click.option("--part", default="", hidden=True)
@click.option("--folder", default="", hidden=True)
@click.option("--size", default=0, hidden=True)
def main(
    sizes: str, large: int, figure: bool, container: str, part: str, folder: str, size: int
) -> None:
    """Measure every part at every size, print the table."""
    if part:
        print(json.dumps(alone(part, Path(folder), size)))
        return
    with tempfile.TemporaryDirectory() as temp:
        found = measure(Path(temp), [int(count) for count in sizes.split(",")], large, container)
    if figure:
        draw(found, IMAGE)
    what = f"time and memory as the number of samples grows, shards of container {container}"
    report.publish("growth", what, figures(found))


if __name__ == "__main__":
    main()
