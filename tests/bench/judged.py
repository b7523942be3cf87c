"""make bench-speedup DATA=NAME: alignment with pretrained teachers on real data, over seeds.

Every variant of a pipeline's recipe is trained from the same seeds on the same batches. Several
checkpoints of each run are drawn from with averaged weights, for the classes of held-out images,
and the samples are measured by a net that no run is aligned to (see judge.py). Counted are the
steps until the FD that SiT of the same seed has at its end, interpolated over log step and log FD.
Rerun the command to go on where it stopped; --table makes the table of what there is.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import judge
import judged_table
import torch
from tqdm import tqdm

from reed import config, picture, pipelines
from reed.cache.files import write_atomic
from reed.domains.image import SampleOptions
from reed.sample.sampler import Sampler
from reed.train.loop import train
from reed.train.recipe import TrainConfig

VARIANTS = ("sit", "repa", "flat", "reed")  # the recipe's own variant is called reed
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Data:
    """A data set: its training and held-out images, and the net that judges."""

    train: str = ""
    held_out: str = ""
    judge: Callable[[str], Callable[[np.ndarray], np.ndarray]] = judge.lite2


DATA = {
    "fashion": Data("data/fashion/train-10k.zip", "data/fashion/test.zip"),
    "emoji": Data("data/emoji/train.zip", "data/emoji/test.zip"),
    "openclipart": Data("data/openclipart/train.zip", "data/openclipart/test.zip"),
    "scenes": Data(judge=judge.scenes_judge),
}


@dataclass(frozen=True)
class Setting:
    """How large a measurement is.

    over: settings laid over the recipe; build: those of the cache; whole: whether to train on
    train.zip in place of the smaller archive; images: most to train on, for scenes exactly;
    points: checkpoints of a run; drawn: samples of each; real: most held-out images; processes:
    runs at a time, each with one thread where there is no GPU.
    """

    over: dict[str, Any] = field(default_factory=dict)
    build: dict[str, Any] = field(default_factory=dict)
    whole: bool = False
    images: int = 16_000
    points: int = 6
    drawn: int = 1000
    real: int = 5000
    options: SampleOptions = field(default_factory=lambda: SampleOptions("heun", 8))
    processes: int = 2


LARGE = {"hidden_size": 384, "depth": 12, "num_heads": 6}
GPU = Setting(
    over={
        "steps": 20_000,
        "batch": 256,
        "ema_decay": 0.999,
        "domain": {"net_settings": LARGE},
        "optim": {"lr": 5e-4},
        "every": {"log": 100},
    },
    whole=True,
    images=100_000,
    points=20,
    drawn=5000,
    real=10_000,
    options=SampleOptions(sampler="heun", steps=25),
    processes=1,
)


def setting_of(data: str, name: str) -> Setting:
    """The setting of a data set: on a GPU of a larger grid, and of 64 pixels where there are."""
    if name == "cpu":
        return Setting()
    taps = dict(zip(pipelines.recipe(data)["align"], (4, 8), strict=True))
    align = {target: {"tap": tap, "hidden": 1024} for target, tap in taps.items()}
    over, build = config.merge(GPU.over, {"align": align}), {}
    if data == "fashion":  # photographs of 28 pixels
        over = config.merge(over, {"domain": {"net_settings": {"patch_size": 2}}})
        build = {"lite0.grid": 14}
    elif data != "scenes":
        build = {"lite0.grid": 16, "source.resolution": 64}
    return Setting(**{**vars(GPU), "over": over, "build": build})


@dataclass(frozen=True)
class Run:
    """One variant from one seed. root: the folder of all runs of a setting."""

    data: str
    root: Path
    cache: Path
    variant: str
    seed: int

    @property
    def folder(self) -> Path:
        return self.root / f"{self.variant}-{self.seed}"

    @property
    def judge(self) -> Path:
        """The features of the real images, which all runs of a cache share.

        Files without "all" in their name are older, and hold the first class folders alone.
        """
        return self.root.parent / f"judge-all-{self.cache.name}.npz"

    def record(self, setting: Setting) -> Path:
        """The file of what was measured: step -> measure -> value."""
        return self.folder / f"judged-{setting.drawn}.json"


def settings_of(run: Run, setting: Setting) -> TrainConfig:
    """The recipe of a run, as reed-train would resolve it."""
    table = pipelines.recipe(run.data, "" if run.variant == "reed" else run.variant)
    table = config.merge(table, setting.over)
    table["every"] = table["every"] | {"save": max(1, table["steps"] // setting.points)}
    place = {"shards": str(run.cache), "run": str(run.folder), "seed": run.seed}
    return config.build(TrainConfig, table | place)


def measured(run: Run, setting: Setting) -> Path:
    """Train a run and measure its checkpoints, as far as that is missing; return its record."""
    if DEVICE == "cpu":
        torch.set_num_threads(1)
    settings = settings_of(run, setting)
    if train(settings, progress=False) < settings.steps:
        raise click.ClickException(f"{run.folder} was stopped; run the command again to go on")
    path = run.record(setting)
    known = json.loads(path.read_text()) if path.is_file() else {}
    # not all that there are: a run that was stopped and resumed has a checkpoint more
    steps = [*range(settings.every.save, settings.steps, settings.every.save), settings.steps]
    missing = [step for step in steps if str(step) not in known]
    if not missing:
        return path
    real, features = judge.Judge.load(run.judge), DATA[run.data].judge(DEVICE)
    for step in missing:
        images, labels = draw(run.folder, step, setting, real.other_labels)
        known[str(step)] = real.measure(features(images), labels)
        write_atomic(path, json.dumps(known, indent=1).encode())
        if step == settings.steps:
            picture.save_png(picture.grid(images[:64], 16), run.folder / "samples.png")
    return path


def draw(
    run: Path, step: int, setting: Setting, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a checkpoint's averaged net for some classes, uint8 [N, H, W, 3], and these."""
    sampler = Sampler.of_run(run, step, DEVICE, precision="bf16")
    options = SampleOptions(
        setting.options.sampler, setting.options.steps, label=tuple(map(str, labels))
    )
    drawn = sampler.draw(len(labels), options, progress=False)
    return picture.to_uint8(drawn["x"], sampler.fields["x"]), labels


def prepare(run: Run, setting: Setting) -> None:
    """Build the cache, and the judge from the real images, where they are missing."""
    data, cache, place = run.data, run.cache, run.judge
    about, options = DATA[data], dict(pipelines.load(data).settings.get("source", {}))
    options |= {k.partition(".")[2]: v for k, v in setting.build.items() if "source." in k}
    words = [] if about.train else ["--set", f"source.samples={setting.images}"]
    archive = Path(about.train.replace("-10k", "") if setting.whole else about.train)
    if about.train and not (archive.is_file() and judge.WEIGHTS.is_file()):
        raise click.ClickException(f"there is no {archive} or {judge.WEIGHTS}: make data-{data}")
    words += ["--data", str(archive)] if about.train else []
    for name, value in setting.build.items():
        words += ["--set", f"{name}={value}"]
    command = [sys.executable, "-m", "reed.cli.cache", "build", data, "--cache", str(cache), *words]
    if code := subprocess.run(command, check=False).returncode:  # it has said why
        sys.exit(code)

    # Every run is compared with the same features, which take minutes.
    run.root.mkdir(parents=True, exist_ok=True)
    if place.is_file():
        write_floor(run.root, judge.Judge.load(place).floor())
        return
    if about.train:
        classes = judge.classes_of(archive)
        known = judge.from_files(archive, options, classes, setting.images)
        held = judge.from_files(Path(about.held_out), options, classes, setting.real)
    else:
        known, held = (
            judge.of_scenes(*each) for each in (("train", setting.images), ("real", setting.real))
        )
    (reference, other), features = judge.split(held, setting.drawn), about.judge(DEVICE)
    sets = (known.images, reference.images, other.images)
    arrays = [features(images) for images in tqdm(sets, desc="judge", unit="set")]
    found = judge.Judge(*arrays, known.labels, other.labels)
    found.save(place)
    write_floor(run.root, found.floor())


def write_floor(root: Path, floor: dict[str, Any]) -> None:
    """Write what real images reach; refuse if the records beside it have other real images."""
    path, records = root / "floor.json", [*root.glob("*/judged-*.json")]
    if path.is_file() and records:
        before = json.loads(path.read_text())["fd"]
        if not math.isclose(before, floor["fd"], rel_tol=1e-3):
            problem = f"{root}: real images had an FD of {before:.1f}, now it is {floor['fd']:.1f}"
            problem += f", so the {len(records)} records there are of another judge"
            raise click.ClickException(f"{problem}; remove {root}/*/judged-*.json and rerun this")
    write_atomic(path, json.dumps(floor).encode())


def measure_all(runs: list[Run], setting: Setting) -> None:
    """Train and measure all runs, some at a time, under a bar."""
    with ProcessPoolExecutor(
        setting.processes, get_context("spawn"), max_tasks_per_child=1
    ) as all_:
        jobs = [all_.submit(measured, run, setting) for run in runs]
        for job in tqdm(as_completed(jobs), total=len(jobs), unit="run"):
            job.result()  # the first failure ends it


@click.command()
@click.option("--data", type=click.Choice([*DATA]), required=True)
@click.option("--setting", "name", type=click.Choice(["cpu", "gpu"]), default="cpu")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--first", default=0, help="The first seed; recipes are tuned from 1000 on.")
@click.option("--variant", "variants", multiple=True, help="Variant of the recipe; repeatable.")
@click.option("--set", "assignments", multiple=True, help="Setting of the recipe; repeatable.")
@click.option("--table", is_flag=True, help="Train nothing: print the table of what is there.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bench"))
def main(
    data: str,
    name: str,
    seeds: int,
    first: int,
    variants: tuple[str, ...],
    assignments: tuple[str, ...],
    table: bool,
    out: Path,
) -> None:
    """Train every variant from every seed, judge the checkpoints, print and draw what was found."""
    setting, cache = setting_of(data, name), Path("cache") / f"{data}-{name}"
    # Runs with other settings get a folder of their own.
    root, variants = out / "-".join((f"judged-{data}-{name}", *assignments)), variants or VARIANTS
    for text in assignments:
        setting = replace(setting, over=config.merge(setting.over, config.assignment(text)))
    runs = [Run(data, root, cache, v, s) for s in range(first, first + seeds) for v in variants]
    if not table:
        prepare(runs[0], setting)
        measure_all(runs, setting)
    records = {(run.variant, run.seed): run.record(setting) for run in runs}
    judged_table.publish(root, records, f"{data}, {name}")


if __name__ == "__main__":
    main()
