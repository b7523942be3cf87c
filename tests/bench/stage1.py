"""make bench-stage1: photographs to shards, the bare forward passes, and one image at a time.

DINOv2-B with random weights in float32, 224 pixels. The whole stage reads, decodes, crops,
preprocesses and encodes JPEGs of 500 x 375, quantises to int8, writes the shards and syncs them;
bare are the forward passes of the same model on the same batches, preprocessed beforehand; one at
a time is how the public scripts work: open, preprocess, a batch of one, np.save. They are run in
turn in one process, with the same threads. Opening the column (weights, and the calibration on
its first 256 images) is not counted, starting the reading processes is. "Per core" is per CPU
second of the process and of those that read for it, which says more on a machine that has other
work, too.

The rows "writing" are those of `writing.py`: a build with an encoder that costs nothing, per codec,
and the floor, memcpy + sha256 + write of as many bytes. `make bench-stage1 ARGS=DIR` compares
writing with the checkout DIR.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import report
import writing
from start import installed

from reed.build import column, engines, shared
from reed.build.shard import Encoder, Job, Timing
from reed.cache import files, plan, schema
from reed.encoders.image import timm_models, vision
from reed.encoders.image.batches import images
from reed.encoders.image.cards import CARDS
from reed.precision import computing
from reed.sources.image.crop import center_crop
from reed.sources.image.images import Images

# The model libraries are imported where they are used: reading processes import this module too.
if TYPE_CHECKING:
    import torch

DIFFERENT = 64  # photographs; more are copies of these
Forward = Callable[["torch.Tensor"], Any]


def photographs(folder: Path, count: int) -> Path:
    """A folder tree of JPEGs of 500 x 375, about 100 kB each; one that is there is kept."""
    tree = folder / f"photographs-{count}"
    if not (tree / "done").is_file():
        rng, contents = np.random.default_rng(0), []
        for _ in range(min(count, DIFFERENT)):
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
            grain = smooth + rng.normal(0, 12, smooth.shape)
            file = io.BytesIO()
            Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
            contents.append(file.getvalue())
        for i in range(count):
            path = tree / "data" / f"class-{i % 4}" / f"{i:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[i % DIFFERENT])
        (tree / "done").touch()
    return tree / "data"


def random_vision(folder: Path, name: str, **settings: Any) -> vision.Vision:
    """The vision encoder `name` with random weights, which are written to the folder once."""
    import torch
    from safetensors.torch import save_file

    card, path = next(c for c in CARDS if c.name == name), folder / f"{name}.safetensors"
    if not path.is_file():
        torch.manual_seed(0)
        with files.new_file(path) as temp:
            save_file(timm_models.create(card).state_dict(), temp)
    return vision.Vision(card, weights=str(path), **settings)


def open_stage(cache: Path, data: Path, encoder: Encoder, device: str, shard_size: int) -> Job:
    """The job that encodes the photographs, as a build would open it, of a new cache."""
    shutil.rmtree(cache, ignore_errors=True)
    source = Images(data)
    frozen = plan.freeze(
        cache,
        source.listing(),
        pipeline="bench",
        domain="image",
        source="images",
        shard_size=shard_size,
    )
    encoder.load(device)
    return column.open_job(cache, frozen, "encoded", encoder, source)


def whole(job: Job, workers: int, spent: list[Timing]) -> float:
    """Images per second from files to shards; the seconds of each part go to `spent`."""
    for shard in range(job.plan.shards):
        for place in (schema.shard_path, schema.marker_path):
            place(job.cache, job.column, shard).unlink(missing_ok=True)
    began = perf_counter()
    spent.append(engines.run(job, engines.Share(), workers=workers, progress=False))
    return len(job.plan.keys) / (perf_counter() - began)


def first_samples(job: Job, batches: int) -> list[list[dict[str, Any]]]:
    """The samples of the first batches that a job encodes."""
    cuts = [(shard, keys) for shard in range(job.plan.shards) for keys in job.cuts(shard)]
    chunks = (job.reading.chunk(*cut) for cut in cuts[:batches])
    return [[views[0] for views in chunk.samples.values()] for chunk in chunks]


def preprocessed(encoder: vision.Vision, samples: Sequence[Any], device: str) -> torch.Tensor:
    """What the model is given of some samples."""
    with computing(device, "fp32"):
        return encoder.card.preprocess(images(samples, device), encoder.size)


def bare(
    forward: Forward, batches: Sequence[torch.Tensor], count: int, device: str, precision: str
) -> float:
    """Images per second of nothing but forward passes, of `count` batches in a circle."""
    import torch

    began, done = perf_counter(), 0
    with computing(device, precision):
        for i in range(count):
            x = batches[i % len(batches)]
            forward(x)
            done += len(x)
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return done / (perf_counter() - began)


def one_by_one(encoder: vision.Vision, paths: Sequence[Path], out: Path) -> float:
    """Images per second of the public scripts' way: a batch of one and one .npy per image."""
    import torch

    out.mkdir(exist_ok=True)
    began = perf_counter()
    for path in paths:
        with Image.open(path) as image:
            pixels = torch.from_numpy(center_crop(image.convert("RGB"), 256))
        x = encoder.card.preprocess(pixels.permute(2, 0, 1)[None], encoder.size)
        with torch.inference_mode():
            tokens = encoder._model.forward_features(x)[0, 1:]
        np.save(out / f"{path.stem}.npy", tokens.numpy())
    return len(paths) / (perf_counter() - began)


def seconds(name: str, spent: Sequence[Timing]) -> list[report.Figure]:
    """What each part of the whole stage took of the caller's time, without the first round."""
    parts = {"read": "waiting for images", "encode": "encoding", "write": "waiting for the writer"}
    return [
        report.figure(f"{name}: {said}", [getattr(each, part) for each in spent[1:]], "s")
        for part, said in parts.items()
    ]


def metered(way: Callable[[], float], images: int, rates: list[float]) -> float:
    """What `way` returns; its images per CPU second go to `rates`."""
    before = report.cpu_seconds()
    found = way()
    rates.append(images / (report.cpu_seconds() - before))
    return found


@click.command()
@click.argument("before", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--folder", type=click.Path(path_type=Path), default=Path("runs/bench/stage1-data"))
@click.option("--encoder", "name", default="dinov2-b", show_default=True)
@click.option("--grid", default=16, show_default=True)
@click.option("--images", "count", default=24, show_default=True)
@click.option("--batch", default=8, show_default=True)
@click.option("--workers", default=shared.most_workers(), show_default=True)
@click.option("--runs", default=5, show_default=True)
def main(
    before: Path | None,
    folder: Path,
    name: str,
    grid: int,
    count: int,
    batch: int,
    workers: int,
    runs: int,
) -> None:
    """Measure every way in turn and publish the figures."""
    report.check_room(folder, 1e9 + 2e6 * count)  # weights of DINOv2-B, photographs, shards
    data = photographs(folder, count)
    encoder = random_vision(folder, name, grid=grid, batch_size=batch)
    job = open_stage(folder / "cache", data, encoder, "cpu", 2 * batch)
    batches = [preprocessed(encoder, samples, "cpu") for samples in first_samples(job, count)]
    few = sorted(data.rglob("*.jpg"))[: max(1, count // 3)]
    stages = {f"whole, {n} reading processes": n for n in (0, workers)}
    spent: dict[str, list[Timing]] = {way: [] for way in stages}
    ways = {way: partial(whole, job, n, spent[way]) for way, n in stages.items()}
    ways["bare"] = partial(
        bare, encoder._model.forward_features, batches, len(batches), "cpu", "fp32"
    )
    ways["one at a time"] = partial(one_by_one, encoder, few, folder / "files")
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    counts = {way: count for way in ways} | {"one at a time": len(few)}
    wall = report.interleaved(
        {way: partial(metered, run, counts[way], cpu[way]) for way, run in ways.items()}, runs
    )
    cpu = {way: rates[1:] for way, rates in cpu.items()}
    figures = [report.figure(way, rates, "images/s") for way, rates in wall.items()]
    for way in stages:
        for other in ("bare", "one at a time"):
            per_core = report.ratios(cpu, way, other)
            figures.append(report.ratios(wall, way, other))
            figures.append(replace(per_core, name=f"per core: {per_core.name}"))
        figures += seconds(way, spent[way])
    with tempfile.TemporaryDirectory() as temp:
        figures += writing.figures(before and installed(before, Path(temp)), runs)
    report.publish("stage1", __doc__ or "", figures)


if __name__ == "__main__":
    main()
