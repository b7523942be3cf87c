"""make bench-speedup: steps to equal quality, without alignment, with one teacher, with two.

Every variant of the pipeline `scenes` is trained from the same seeds on the same batches, several
checkpoints of each run are drawn from with averaged weights, and the samples are compared with
scenes that no net has seen, by the Fréchet distance (FD) in two feature spaces that no run is
aligned to. A run's target is the FD that SiT of the same seed has at its end; counted is the step
at which the curve, interpolated over the logarithm of the step, first falls to it, for SiT too.
The time of a step is taken with the image teacher's tokens from the cache and with the teacher in
the step, in turn.
Rerun the command to go on where it stopped. See speedup.md for what was tried before.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import curves
import report
import torch
from tqdm import tqdm

from reed import config, picture, pipelines
from reed.cache.files import write_atomic
from reed.domains.image import SampleOptions
from reed.encoders import ENCODERS
from reed.metrics import FEATURES
from reed.metrics.frechet import Gaussian, frechet_distance
from reed.sample.sampler import Sampler
from reed.sample.weak import guided_by
from reed.sources.toy.scenes import scene_at
from reed.train import recipe
from reed.train.feed import Feed
from reed.train.loop import Trainer, accelerator_for, train
from reed.train.recipe import TrainConfig

VARIANTS = {
    "sit": "no alignment",
    "repa": "image",
    "flat": "image and caption, no curriculum",
    "reed": "image and caption, curriculum",
}
SPACES = ("scenes-judge", "random-conv")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Setting:
    """How large a measurement is.

    images: scenes to train on; over: settings laid over the recipe; points: checkpoints of a run,
    evenly spaced; drawn: samples of each; scenes: real ones to compare with; processes: runs at a
    time, each with one thread where there is no GPU; timed: steps per round of the timing; own:
    variants that the recipe lacks, as tables laid over its variant `laid_over`.
    """

    images: int = 16_000
    over: dict[str, Any] = field(default_factory=dict)
    points: int = 8
    drawn: int = 500
    scenes: int = 4000
    options: SampleOptions = field(default_factory=lambda: SampleOptions("heun", 8))
    processes: int = 2
    timed: int = 20
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    laid_over: str = "sit"


SETTINGS = {
    "cpu": Setting(),
    "gpu": Setting(
        images=100_000,
        over={
            "steps": 20_000,
            "batch": 256,
            "precision": "bf16",
            "ema_decay": 0.999,
            "domain": {"net_settings": {"hidden_size": 384, "depth": 12, "num_heads": 6}},
            "align": {
                "scenes-conv": {"tap": 4, "hidden": 1024},
                "scenes-text": {"tap": 8, "hidden": 1024},
            },
            "optim": {"lr": 5e-4},
            "every": {"log": 100},
        },
        points=20,
        drawn=10_000,
        scenes=10_000,
        options=SampleOptions(sampler="heun", steps=25),
        processes=1,
        timed=100,
    ),
}


@dataclass(frozen=True)
class Run:
    """One variant from one seed. root: the folder of all runs of a setting; data: a pipeline."""

    root: Path
    cache: Path
    variant: str
    seed: int
    data: str = "scenes"

    @property
    def folder(self) -> Path:
        return self.root / f"{self.variant}-{self.seed}"


def settings_of(run: Run, setting: Setting) -> TrainConfig:
    """The recipe of a run, as reed-train would resolve it."""
    own = run.variant in setting.own
    named = {"reed": ""}.get(run.variant, setting.laid_over if own else run.variant)
    table = config.merge(pipelines.recipe(run.data, named), setting.over)
    table = config.merge(table, setting.own.get(run.variant, {}))
    table["every"] = table["every"] | {"save": max(1, table["steps"] // setting.points)}
    place = {"shards": str(run.cache), "run": str(run.folder), "seed": run.seed}
    return config.build(TrainConfig, table | place)


def measured(run: Run, setting: Setting) -> dict[str, curves.Curve]:
    """The run's curve in each space; it is trained and drawn from only where that is missing."""
    if DEVICE == "cpu":
        torch.set_num_threads(1)
    settings = settings_of(run, setting)
    if train(settings, progress=False) < settings.steps:
        raise click.ClickException(f"{run.folder} was stopped; run the command again to go on")
    path = run.folder / f"distances-{setting.drawn}.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    # not all that there are: a run that was stopped and resumed has a checkpoint more
    steps = [*range(settings.every.save, settings.steps, settings.every.save), settings.steps]
    missing = [step for step in steps if str(step) not in known]
    real = gaussians(real_images(0, setting.scenes)) if missing else {}
    for step in missing:
        images = draw(run.folder, step, setting)
        found = gaussians(images)
        known[str(step)] = {name: frechet_distance(found[name], real[name]) for name in SPACES}
        write_atomic(path, json.dumps(known, indent=1).encode())
        if step == settings.steps:
            picture.save_png(picture.grid(images[:16], 16), run.folder / "samples.png")
    return {name: [(step, known[str(step)][name]) for step in steps] for name in SPACES}


def draw(
    run: Path, step: int, setting: Setting, ema: bool | str = True, weak: int = 0
) -> np.ndarray:
    """Samples of a checkpoint's averaged net, uint8 [N, 32, 32, 3].

    ema: which average, as of Sampler.of_run; weak: step of the run's checkpoint that guides it.
    """
    sampler = Sampler.of_run(run, step, DEVICE, ema=ema, precision="bf16")
    if weak:
        sampler = guided_by(sampler, Sampler.of_run(run, weak, DEVICE, precision="bf16"))
    drawn = sampler.draw(setting.drawn, setting.options, progress=False)
    return picture.to_uint8(drawn["x"], sampler.fields["x"])


def real_images(seed: int, count: int) -> np.ndarray:
    """Scenes of a split that no net has seen, uint8 [N, 32, 32, 3]."""
    images = [scene_at("real", seed, index)[1] for index in range(count)]
    return np.stack(images).transpose(0, 2, 3, 1)


def gaussians(images: np.ndarray) -> dict[str, Gaussian]:
    """What is compared of some images, by feature space."""
    found = {}
    for name in SPACES:
        space = FEATURES.get(name)()
        space.load(DEVICE)
        parts = np.split(images, range(500, len(images), 500))
        found[name] = Gaussian.of(np.concatenate([space(part)[space.outputs[0]] for part in parts]))
    return found


def floors(setting: Setting) -> dict[str, float]:
    """The distance of as many other real scenes as a checkpoint has samples, by feature space."""
    real, other = (
        gaussians(real_images(*place)) for place in ((0, setting.scenes), (1, setting.drawn))
    )
    return {name: frechet_distance(other[name], real[name]) for name in SPACES}


def times(run: Run, setting: Setting, rounds: int = 5) -> dict[str, list[float]]:
    """Seconds per training step with the image teacher from the cache, and computed in the step."""
    if DEVICE == "cpu":
        torch.set_num_threads(1)
    settings = settings_of(run, setting)
    accelerator = accelerator_for(settings)
    trainer = Trainer(recipe.check(settings), accelerator)
    batches = Feed(trainer.setup.stream, accelerator.device).batches(0)
    target = "scenes-conv"
    teacher, channels = ENCODERS.get(target)(), trainer.setup.targets[target].channels
    teacher.load(str(accelerator.device))

    def per_step(online: bool) -> Callable[[], float]:
        def way() -> float:
            began = perf_counter()
            for _ in range(setting.timed):
                fed = next(batches)
                if online:
                    # whitening would be one more small product; cutting gives the right shape
                    fed.values[target] = teacher.tokens(fed.values["x"])[..., :channels]
                trainer.train_step(fed)
            if accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            return (perf_counter() - began) / setting.timed

        return way

    try:
        return report.interleaved({"cached": per_step(False), "online": per_step(True)}, rounds)
    finally:
        batches.close()


def build(cache: Path, images: int) -> None:
    """The cache, as `reed-cache build scenes` makes it."""
    command = [sys.executable, "-m", "reed.cli.cache", "build", "scenes", "--cache", str(cache)]
    command += ["--set", f"source.samples={images}"]
    if code := subprocess.run(command, check=False).returncode:  # it has said why
        sys.exit(code)


def figures_of(
    found: dict[str, dict[str, list[curves.Curve]]],
    floor: dict[str, float],
    steps: dict[str, list[float]],
) -> list[report.Figure]:
    """Distances at the end, ratios of steps where they exist, and seconds per step."""
    figures = []
    for space, runs in found.items():
        figures.append(report.figure(f"{space}: FD of as many real scenes", [floor[space]], "FD"))
        for variant, each in runs.items():
            ends = [curve[-1][1] for curve in each]
            figures.append(report.figure(f"{space}: FD at the end, {variant}", ends, "FD"))
        for variant, ratios in curves.speedups(runs, "sit").items():
            reached = [ratio for ratio in ratios if ratio is not None]
            if reached and variant != "sit":
                name = f"{space}: steps of sit / steps of {variant}"
                figures.append(report.figure(name, reached, "ratio", "sit"))
    for way, seconds in steps.items():
        figures.append(report.figure(f"one step, image teacher {way}", seconds, "s"))
    return [*figures, report.ratios(steps, "online", "cached")]


def table(found: dict[str, dict[str, list[curves.Curve]]]) -> str:
    """One line per space and variant."""
    lines = []
    for space, runs in found.items():
        ratios = curves.speedups(runs, "sit")
        lines += ["", f"{space}: median over seeds (least to largest)"]
        for variant, each in runs.items():
            targets = [run[-1][1] for run in runs["sit"]]
            pairs = zip(each, targets, strict=True)
            until = curves.spread([curves.steps_until(run, aim) for run, aim in pairs], 0)
            end = curves.spread([run[-1][1] for run in each], 2)
            ratio = curves.spread(ratios[variant], 2)
            lines.append(
                f"  {variant:5} FD at the end {end:24} steps to sit's {until:28} ratio {ratio}"
            )
    return "\n".join(lines)


@click.command()
@click.option("--setting", type=click.Choice([*SETTINGS]), default="cpu", show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bench"))
def main(setting: str, seeds: int, out: Path) -> None:
    """Train every variant from every seed, measure the curves, print and draw what was found."""
    how = SETTINGS[setting]
    cache = Path("cache") / f"scenes-{how.images}"
    build(cache, how.images)
    root = out / f"speedup-{setting}"
    runs = [Run(root, cache, variant, seed) for seed in range(seeds) for variant in VARIANTS]
    with ProcessPoolExecutor(how.processes, get_context("spawn"), max_tasks_per_child=1) as pool:
        jobs = [pool.submit(measured, run, how) for run in runs]
        for job in tqdm(as_completed(jobs), total=len(jobs), unit="run"):
            job.result()  # the first failure ends it
    found = {
        space: {
            variant: [
                job.result()[space]
                for run, job in zip(runs, jobs, strict=True)
                if run.variant == variant
            ]
            for variant in VARIANTS
        }
        for space in SPACES
    }
    seconds = times(Run(root, cache, "repa", 0), how)
    what = f"{setting}: {seeds} seeds, {settings_of(runs[0], how).steps} steps"
    report.publish("speedup", what, figures_of(found, floors(how), seconds), out)
    write_atomic(root / "curves.json", json.dumps(found, indent=1).encode())
    curves.draw(found, out / "speedup.png", what)
    print(f"{table(found)}\n\npicture: {out / 'speedup.png'}")


if __name__ == "__main__":
    main()
