"""make bench-eval: the Fréchet distance of two folders, by reed-eval and by the public programs.

Two folders of PNGs of 256 x 256 pixels, and Inception with random weights in torch-fidelity's file
format. Bare are the passes of our network alone over the same batches, decoded beforehand; bare and
decoding also reads and decodes the files, without anything else. torch-fidelity and
clean-fid (where it is installed; its loading and resizing, with torch-fidelity's network, as its
own weights cannot be had everywhere) do what reed-eval does: from two folders to one number. They
are called in turns, all with the same batch, number of threads and device. Every way is
measured whole, and without what comes after the features: the distance of two Gaussians of width
2048 does not depend on the number of images. Times are of CPU, which other work on the machine
does not lengthen much, and by the clock. reed-eval computes the statistics of the reference in
every round, which it otherwise keeps.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import report
import torch
import torch_fidelity

from reed.evaluate.reference import Computing, Reference
from reed.metrics import FEATURES
from reed.metrics.frechet import Gaussian, frechet_distance
from reed.metrics.image_set import open_images

SIDE = 256
OURS, BARE, DECODED = "reed-eval", "bare passes", "bare passes and decoding"
FIDELITY, CLEAN = "torch-fidelity", "clean-fid"
Way = Callable[[], Any]


class Untrained(torch_fidelity.FeatureExtractorInceptionV3):
    """The network as it is before its weights are loaded."""

    def load_state_dict(self, state: Any) -> None:
        """Keep what there is."""


def random_inception(folder: Path) -> Path:
    """Random weights of Inception in the file format of torch-fidelity's."""
    torch.save({}, folder / "none.pth")
    torch.manual_seed(0)
    state = Untrained("inception-v3-compat", ["2048"], str(folder / "none.pth")).state_dict()
    for name, value in state.items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        if name.endswith("running_var"):
            value.uniform_(0.1, 0.25)  # so that activations neither fade nor grow
    torch.save(state, folder / "inception.pth")
    return folder / "inception.pth"


def folders(root: Path, count: int) -> tuple[Path, Path]:
    """Two folders of so many PNGs, which differ in brightness."""
    rng, made = np.random.default_rng(0), []
    for name, low in (("drawn", 40), ("real", 0)):
        (root / name).mkdir()
        for i in range(count):
            coarse = Image.fromarray(rng.integers(low, 216, (16, 16, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            noisy = pixels + rng.integers(0, 8, pixels.shape, dtype=np.uint8)
            Image.fromarray(noisy).save(root / name / f"{i:06d}.png")
        made.append(root / name)
    return made[0], made[1]


def ways(root: Path, count: int, batch: int, device: str) -> tuple[dict[str, Way], dict[str, Way]]:
    """The ways to the features of both folders, and those of them that end in a distance."""
    weights, (drawn, real) = random_inception(root), folders(root, count)
    how = Computing(device, batch=batch)
    space: Any = FEATURES.get("inception")(str(weights))
    space.load(device, None)
    ready = [part for place in (drawn, real) for part in open_images(place).read(batch)]

    def bare() -> None:
        for part in ready:
            space(part)

    def decoded() -> None:
        for place in (drawn, real):
            for part in open_images(place).read(batch):
                space(part)

    def features() -> list[np.ndarray]:
        one = Reference(open_images(real), "inception", str(weights), how)
        return [one.extract(open_images(place), ["pool"])["pool"] for place in (drawn, real)]

    def whole() -> float:
        one = Reference(open_images(real), "inception", str(weights), how)
        pool = one.extract(open_images(drawn), ["pool"])["pool"]
        return frechet_distance(Gaussian.of(pool), one.statistics("pool"))

    of_fidelity, fidelity = _of_fidelity(drawn, real, weights, batch, device)
    passes = {BARE: bare, DECODED: decoded, OURS: features, FIDELITY: of_fidelity}
    distances = {OURS: whole, FIDELITY: fidelity}
    if util.find_spec("cleanfid"):
        passes[CLEAN], distances[CLEAN] = _of_clean(drawn, real, weights, batch, device)
    return passes, distances


def _of_fidelity(drawn: Path, real: Path, weights: Path, batch: int, device: str) -> list[Way]:
    """The features and the distance by torch-fidelity."""
    given = {
        "cuda": device != "cpu",
        "batch_size": batch,
        "verbose": False,
        "cache": False,
        "feature_extractor": "inception-v3-compat",
        "feature_extractor_weights_path": str(weights),
        "save_cpu_ram": device == "cpu",
    }

    def distance() -> float:
        found = torch_fidelity.calculate_metrics(
            input1=str(drawn), input2=str(real), fid=True, **given
        )
        return found["frechet_inception_distance"]

    def features() -> None:
        from torch_fidelity import utils

        net = utils.create_feature_extractor("inception-v3-compat", ["2048"], **given)
        for place in (drawn, real):
            utils.extract_featuresdict_from_input_id(
                1, net, input1=str(place), **{k: v for k, v in given.items() if k != "cache"}
            )

    return [features, distance]


def _of_clean(drawn: Path, real: Path, weights: Path, batch: int, device: str) -> list[Way]:
    """The features and the distance by clean-fid, with torch-fidelity's network."""
    fid: Any = import_module("cleanfid.fid")  # it is not installed with reed

    def features() -> list[np.ndarray]:
        net = torch_fidelity.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], str(weights)
        ).to(device)
        options = {"num_workers": 0 if device == "cpu" else 8, "batch_size": batch}
        return [
            fid.get_folder_features(
                str(place),
                model=lambda images: net(images.to(torch.uint8))[0],
                device=torch.device(device),
                verbose=False,
                **options,
            )
            for place in (drawn, real)
        ]

    def distance() -> float:
        means = [(x.mean(0), np.cov(x, rowvar=False)) for x in features()]
        return fid.frechet_distance(*means[0], *means[1])

    return [features, distance]


def timed(way: Way, walls: list[float]) -> Callable[[], float]:
    """The CPU seconds of a call; its seconds by the clock are added to `walls`."""

    def run() -> float:
        began, cpu = time.perf_counter(), report.cpu_seconds()
        way()
        walls.append(time.perf_counter() - began)
        return report.cpu_seconds() - cpu

    return run


def measure(named: dict[str, Way], what: str, runs: int, images: int) -> list[report.Figure]:
    """The figures of some ways, in CPU time and by the clock."""
    walls: dict[str, list[float]] = {name: [] for name in named}
    cpu = report.interleaved({n: timed(way, walls[n]) for n, way in named.items()}, runs)
    found = []
    for unit, values in (("CPU", cpu), ("clock", {n: w[1:] for n, w in walls.items()})):
        for name, seconds in values.items():
            each = [1000 * value / images for value in seconds]
            found.append(report.figure(f"{what}, {name}, {unit}", each, "ms per image"))
        for name in values:
            if name != OURS:
                pairs = list(zip(values[name], values[OURS], strict=True))
                # The bare passes are less than ours, the programs should be more.
                a, b = (OURS, name) if name in (BARE, DECODED) else (name, OURS)
                ratios = [y / x if a == OURS else x / y for x, y in pairs]
                found.append(report.figure(f"{what}, {a} / {b}, {unit}", ratios, "ratio", b))
    return found


@click.command()
@click.option("--images", default=32, help="Images in each of the two folders.")
@click.option("--batch", default=32)
@click.option("--runs", default=3)
@click.option("--device", default="cpu")
@click.option("--threads", default=1, help="Threads of the network on a CPU.")
def main(images: int, batch: int, runs: int, device: str, threads: int) -> None:
    """Make the folders and the weights, take the turns, print the table."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temp:
        passes, distances = ways(Path(temp), images, batch, device)
        figures = measure(passes, "features", runs, 2 * images)
        figures += measure(distances, "distance", max(1, runs // 3), 2 * images)
    what = f"FID of 2 x {images} PNGs of {SIDE} pixels, batch {batch}, {device}, {threads} threads"
    report.publish("evaluate", what, figures)


if __name__ == "__main__":
    main()
