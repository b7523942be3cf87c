"""make bench-online: the image teacher from the cache, or computed at every training step.

Stage one is the command that builds the teacher's column, with the start of Python, the
calibration of the codec and the hashing of the weights. The steps are those of the recipe's
variant `repa`, whose whole batches come from the cache; "online" reads the images alone, and the
teacher makes the tokens in the step, with the preprocessing and the precision of stage one. Both
ways run in turn with stage one, and a round is some steps of each. One epoch is one pass over the
images, of which every one has one view: a column of mirrored images would cost twice as much.
Totals are what a round's seconds per step make of so many epochs. Rerun the command to go on where
it stopped; rounds that are there are kept.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))
import judged
import report
import torch

from reed import pipelines
from reed.cache.files import write_atomic
from reed.encoders import ENCODERS
from reed.precision import computing
from reed.train import recipe
from reed.train.feed import Fed, Feed
from reed.train.loop import Trainer, accelerator_for

TARGET, ENCODER = "lite0", "timm:tf_efficientnet_lite0"
EPOCHS = (1, 5, 20)
STEPS = {"cpu": 8, "gpu": 100}  # of a round, each way
CLOCKS = ("clock", "CPU")
Seconds = dict[str, float]  # clock -> seconds
Round = dict[str, Seconds]  # "stage one", "cached", "online" -> seconds; of the latter two per step


class Timer:
    """Seconds by the clock and of CPU time, children included, of a `with` block."""

    def __enter__(self) -> Timer:
        self._began, self._spent = perf_counter(), report.cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.clock = perf_counter() - self._began
        self.cpu = report.cpu_seconds() - self._spent

    def seconds(self, share: int = 1) -> Seconds:
        """The seconds of one of so many equal parts."""
        return {"clock": self.clock / share, "CPU": self.cpu / share}


def stage_one(data: str, cache: Path, setting: judged.Setting, workers: list[str]) -> Seconds:
    """Build the teacher's column anew, as a user would, and time the command."""
    # The largest archive, or the smallest: on a CPU the teacher takes long.
    archive = judged.DATA[data].train.replace("-10k", "" if setting.whole else "-1k")
    if not Path(archive).is_file():
        raise click.ClickException(f"there is no {archive}: make data-{data}")
    words = ["build", data, "--cache", str(cache), "--data", archive, *workers]
    words += ["--encoder", f"{TARGET}={ENCODER}"]
    for name, value in setting.build.items():
        words += ["--set", f"{name}={value}"]
    shutil.rmtree(cache / TARGET, ignore_errors=True)
    with Timer() as timer:
        code = subprocess.run([sys.executable, "-m", "reed.cli.cache", *words], check=False)
    if code.returncode:  # it has said why
        sys.exit(code.returncode)
    return timer.seconds()


class Ways:
    """Training steps with the teacher's tokens from the cache, and with the teacher in the step."""

    def __init__(self, run: judged.Run, setting: judged.Setting, steps: int) -> None:
        settings = judged.settings_of(run, setting)
        self._accelerator, self._steps = accelerator_for(settings), steps
        self._device = self._accelerator.device
        setup = recipe.check(settings, pin=self._device.type == "cuda")
        self._trainer = Trainer(setup, self._accelerator)
        self._feed = Feed(setup.stream, self._device)
        self._channels = setup.targets[TARGET].channels
        images = recipe.check(judged.settings_of(replace(run, variant="sit"), setting))
        self._images = Feed(images.stream, self._device)

        # The teacher has the settings with which stage one built the column.
        own = {k: v for k, v in setting.build.items() if k.startswith(f"{TARGET}.")}
        options: dict[str, Any] = {**pipelines.load(run.data).settings[TARGET]}
        options |= {key.partition(".")[2]: value for key, value in own.items()}
        self.teacher = ENCODERS.get(ENCODER)(**options)
        self.teacher.load(str(self._device))
        self.batch, self.samples = setup.config.batch, setup.stream.samples

    def round(self) -> Round:
        """Seconds per step of each way, one way after the other."""
        with closing(self._feed.batches(0)) as stored, closing(self._images.batches(0)) as images:
            ways = {"cached": stored, "online": self._taught(images)}
            for batches in ways.values():  # the first batch waits for the readers
                self._trainer.train_step(next(batches))
            found = {}
            for name, batches in ways.items():
                self._wait()
                with Timer() as timer:
                    for _ in range(self._steps):
                        self._trainer.train_step(next(batches))
                    self._wait()
                found[name] = timer.seconds(self._steps)
        return found

    def _taught(self, batches: Iterator[Fed]) -> Iterator[Fed]:
        """The batches, with the tokens of their images."""
        for fed in batches:
            fed.values[TARGET] = self.tokens(fed.values["x"])
            yield fed

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the teacher says of images, [B, T, D], as much of it as the cache has.

        pixels: of the cache, uint8 [B, 3, H, W]. Whitening would be one more small product; cutting
        gives the right shape.
        """
        teacher, device = self.teacher, str(self._device)
        with computing(device, "fp32"):
            x = teacher.card.preprocess(pixels, teacher.size)
        with computing(device, teacher.precision):
            found, _ = teacher._features(x)
        return found[..., : self._channels].float().clone()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def totals(found: Round, steps: int, epochs: int) -> dict[str, Seconds]:
    """Seconds of both ways to the end of so many epochs of `steps` steps, stage one included."""
    return {
        "online": {c: epochs * steps * found["online"][c] for c in CLOCKS},
        "cached": {c: found["stage one"][c] + epochs * steps * found["cached"][c] for c in CLOCKS},
    }


def break_even(found: Round, steps: int, clock: str) -> float:
    """Epochs after which both ways have taken as long; infinite if that never comes."""
    saved = steps * (found["online"][clock] - found["cached"][clock])
    return found["stage one"][clock] / saved if saved > 0 else float("inf")


def figures_of(rounds: list[Round], steps: int) -> list[report.Figure]:
    """Stage one, a step of each way, totals, their ratios and the break-even, by both clocks."""
    figures = []
    for clock in CLOCKS:
        for name in ("stage one", "cached", "online"):
            what = name if name == "stage one" else f"a step, {name}"
            seconds = [each[name][clock] for each in rounds]
            figures.append(report.figure(f"{what}, {clock}", seconds, "s"))
        for epochs in EPOCHS:
            whole = [totals(each, steps, epochs) for each in rounds]
            values = {way: [each[way][clock] for each in whole] for way in ("online", "cached")}
            place = f"{epochs} epochs, {clock}"
            figures += [
                report.figure(f"{way} to {place}", each, "s") for way, each in values.items()
            ]
            ratio = report.ratios(values, "cached", "online")
            figures.append(replace(ratio, name=f"{ratio.name}, {place}"))
        even = [break_even(each, steps, clock) for each in rounds]
        figures.append(report.figure(f"break-even, {clock}", even, "epochs"))
    return figures


def measure(
    place: Path, data: str, name: str, cache: Path, rounds: int
) -> tuple[list[Round], dict[str, int]]:
    """Do the rounds that are missing; return all of them, and the sizes of batch and data."""
    known = json.loads(place.read_text()) if place.is_file() else {"rounds": [], "sizes": {}}
    if len(known["rounds"]) >= rounds:
        return known["rounds"][:rounds], known["sizes"]
    setting = judged.setting_of(data, name)
    if name == "gpu":  # the teacher of public trainers runs in half precision
        setting = replace(setting, build=setting.build | {f"{TARGET}.precision": "bf16"})
    else:
        torch.set_num_threads(1)
    workers = ["--workers", "0"] if name == "cpu" else []

    # The first build and the first steps read files and weights for the first time.
    stage_one(data, cache, setting, workers)
    ways = Ways(judged.Run(data, place.parent, cache, "repa", 0), setting, STEPS[name])
    ways.round()
    while len(known["rounds"]) < rounds:
        known["rounds"].append({"stage one": stage_one(data, cache, setting, workers)})
        known["rounds"][-1] |= ways.round()
        known["sizes"] = {"batch": ways.batch, "images": ways.samples}
        known["sizes"]["bytes"] = sum(f.stat().st_size for f in (cache / TARGET).iterdir())
        write_atomic(place, json.dumps(known, indent=1).encode())
    return known["rounds"], known["sizes"]


@click.command()
@click.option("--data", type=click.Choice(["fashion", "emoji", "openclipart"]), default="fashion")
@click.option("--setting", "name", type=click.Choice([*STEPS]), default="cpu", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bench"))
def main(data: str, name: str, rounds: int, out: Path) -> None:
    """Time stage one and the steps of both ways in turn, and publish what they add up to."""
    if name == "gpu" and not torch.cuda.is_available():
        raise click.ClickException("--setting gpu needs an NVIDIA GPU that torch can use")
    place = out / f"online-{data}-{name}" / "rounds.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    cache = Path("cache") / f"online-{data}-{name}"
    found, sizes = measure(place, data, name, cache, rounds)
    steps = int(sizes["images"] // sizes["batch"])
    device = torch.cuda.get_device_name() if name == "gpu" else "CPU, one thread"
    what = f"{__doc__}\n{data}, {name}: {device}, torch {torch.__version__}; {steps} steps of"
    what += f" {sizes['batch']:.0f} are an epoch; the column has {sizes['bytes'] / 1e6:.1f} MB"
    report.publish(f"online-{data}-{name}", what, figures_of(found, steps), out)


if __name__ == "__main__":
    main()
