"""make bench-train: our training step, the bare forward and backward passes, and the public way.

Ours is the whole step: shards of a cache (moments, int8 tokens, a vector, labels) -> decode ->
loss -> backward -> clip -> AdamW -> EMA. Bare are the forward and backward passes of the same net
and heads on one batch that stays. The public way, written here after REPA's trainer, has the same
net and batch, but encodes the images at each step with a frozen ViT, averages in a Python loop
over parameters, compiles nothing and reads its loss after each step; "stored tokens" is that
without the encoder. "three averages" is our step with three averages of the weights, not one.
Weights and data are random. The ways are run in turn, a round is some steps
of each. The encoder has two thirds of the net's parameters, as DINOv2-B has of SiT-B.
"""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import report
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from reed import config
from reed.build import column, engines
from reed.cache import plan
from reed.cache.schema import Field
from reed.domains.base import Batch, Noised
from reed.seeding import Draws
from reed.train import averages, recipe
from reed.train.align import AlignedNet
from reed.train.feed import Fed, Feed
from reed.train.loop import Trainer, accelerator_for, untrained
from reed.train.recipe import Setup, TrainConfig


@dataclass(frozen=True)
class Setting:
    """What is trained on what: a net, the shapes of its targets, and the frozen encoder.

    tokens: [T, D] of the encoder's output; pixels: side of the encoder's input; vit: settings of
    timm's model `encoder` that makes it have T tokens; parts: the public way, which keeps more for
    the backward pass, is given one of so many parts of the batch; others: without them, only our
    step and the bare passes are measured, as a large net fits once beside its activations.
    """

    name: str
    net: dict[str, Any]
    latents: tuple[int, int]  # channels, side
    tokens: tuple[int, int]
    vector: int
    taps: tuple[int, int]
    encoder: str
    pixels: int
    vit: dict[str, Any] = field(default_factory=dict)
    hidden: int = 2048
    batch: int = 32
    samples: int = 512
    precision: str = "fp32"
    steps: int = 1  # of a round
    parts: int = 1
    others: bool = True  # whether three averages and the public way are measured, too


AVERAGES = (0.9999, 0.999, "sigma_rel=0.05")

SMALL = Setting(
    "small",
    {"net_settings": {"patch_size": 2, "hidden_size": 192, "depth": 6, "num_heads": 3}},
    (4, 16),
    (64, 192),
    256,
    (2, 3),
    "vit_tiny_patch16_224",
    128,
    {"depth": 4},
    hidden=256,
)


class Records:
    """Random records of a setting: a source and the encoders of its columns at once."""

    entries, reads, licence, batch_size = ("index",), ("index",), "", 64

    def __init__(self, setting: Setting, *fields: Field) -> None:
        self._samples, self.fields = setting.samples, fields

    def revision(self) -> str:
        return "1"

    def listing(self) -> dict[str, str]:
        return {f"sample-{i:07d}": "" for i in range(self._samples)}

    def read(self, key: str, view: int = 0) -> dict[str, int]:
        return {"index": int(key[7:])}

    def encode(self, samples: list[dict[str, int]]) -> dict[str, list[Any]]:
        return {f.name: [self._value(f, s["index"]) for s in samples] for f in self.fields}

    def _value(self, about: Field, index: int) -> Any:
        if about.kind == "label":
            return index % 10
        rng = np.random.default_rng(index)
        return np.abs(rng.standard_normal(about.shape, dtype=np.float32))


def build(setting: Setting, cache: Path) -> Path:
    """A complete cache of random records; one that is there is replaced."""
    shutil.rmtree(cache, ignore_errors=True)
    channels, side = setting.latents
    columns = {
        "latents": [
            Field("moments", "moments", (2 * channels, side, side), "float16"),
            Field("label", "label", (), "int64"),
        ],
        "image": [Field("tokens", "token", setting.tokens, "int8")],
        "caption": [Field("vector", "sample", (setting.vector,), "float16")],
    }
    records = Records(setting)
    frozen = plan.freeze(
        cache, records.listing(), pipeline="digits", domain="image", source="bench", shard_size=256
    )
    for name, fields in columns.items():
        job = column.open_job(cache, frozen, name, Records(setting, *fields), records)
        engines.run(job, engines.Share(), progress=False)
    return cache


def settings_of(setting: Setting, cache: Path, run: Path) -> TrainConfig:
    """REED's recipe at the size of the setting."""
    table = {
        "shards": str(cache),
        "run": str(run),
        "steps": 10**6,
        "batch": setting.batch,
        "precision": setting.precision,
        "data": {"x": "latents/moments", "label": "latents/label"},
        "domain": {"classes": 1000} | setting.net,
        "align": {
            "image": {"target": "image/tokens", "tap": setting.taps[0], "hidden": setting.hidden},
            "caption": {
                "target": "caption/vector",
                "tap": setting.taps[1],
                "hidden": setting.hidden,
            },
        },
        "curriculum": {"image": 0.5, "caption": 0.25},
    }
    return config.build(TrainConfig, table)


def rate(way: Callable[[], None], rows: int, steps: int, device: torch.device) -> float:
    """Samples per second of some calls of `way`, of `rows` samples each."""
    wait(device)
    began = perf_counter()
    for _ in range(steps):
        way()
    wait(device)
    return rows * steps / (perf_counter() - began)


def wait(device: torch.device) -> None:
    """Until the device has done what is queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bare(trainer: Trainer, fed: Fed) -> Callable[[], None]:
    """Forward and backward passes of the trainer's own net and heads on one batch."""
    setup = trainer.setup
    draws = Draws(0, 0, fed.rows, slice(0, fed.rows), trainer.accelerator.device)
    targets = {name: fed.values[name] for name in setup.targets}
    batch = setup.domain.collate(fed.values, setup.fields, targets)
    noised = setup.domain.corrupt(batch, draws)

    def passes() -> None:
        with trainer.accelerator.autocast():
            prediction, aligned = trainer.model(noised, batch)
        losses = setup.domain.loss(prediction, noised, batch) | aligned.losses
        trainer.accelerator.backward(sum(value.mean() for value in losses.values()))
        trainer.optimizer.zero_grad()

    return passes


def three_averages(trainer: Trainer, batches: Iterator[Fed]) -> Callable[[], None]:
    """The trainer's own step, with three averages in place of its one."""
    ema = averages.of_net(trainer.bare.net, replace(trainer.setup.config, ema=AVERAGES))

    def step() -> None:
        own, trainer._ema = trainer._ema, ema
        trainer.train_step(next(batches))
        trainer._ema = own

    return step


class PublicWay:
    """REPA's loop as its public trainer has it, but for reading files: that is left out.

    encoder: of timm, run at every step; None: the tokens are those of the batch.
    """

    def __init__(self, trainer: Trainer, setting: Setting, fed: Fed, encoder: Any) -> None:
        self._setup, self._accelerator, self._fed = trainer.setup, trainer.accelerator, fed
        self._encoder, self._device = encoder, trainer.accelerator.device
        self._model = untrained(trainer.setup)[0].to(self._device)
        self._average = copy.deepcopy(self._model.net).requires_grad_(False)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-4, weight_decay=0.0)
        shape = (fed.rows, 3, setting.pixels, setting.pixels)
        self._images = torch.randint(0, 256, shape, dtype=torch.uint8, device=self._device)
        self._step = 0

    def __call__(self) -> None:
        fed, setup = self._fed, self._setup
        targets = {name: fed.values[name] for name in setup.targets}
        with torch.no_grad(), self._accelerator.autocast():
            if self._encoder is not None:
                pixels = (self._images.float() / 255 - 0.45) / 0.225
                found = self._encoder.forward_features(pixels)
                targets["image"] = found[:, self._encoder.num_prefix_tokens :].float()
            batch = setup.domain.collate(fed.values, setup.fields, targets)
        draws = Draws(0, self._step, fed.rows, slice(0, fed.rows), self._device)
        noised = setup.domain.corrupt(batch, draws)
        with self._accelerator.autocast():
            prediction, aligned = self._model(noised, batch)
        losses = setup.domain.loss(prediction, noised, batch) | aligned.losses
        loss = sum(value.mean() for value in losses.values())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0, foreach=False)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            pairs = zip(self._average.parameters(), self._model.net.parameters(), strict=True)
            for averaged, own in pairs:
                averaged.mul_(0.9999).add_(own, alpha=1 - 0.9999)
        loss.item()
        self._step += 1


def flops(setup: Setup) -> int:
    """Floating-point operations of a step of net and heads, per sample: three forward passes.

    That is the usual count: what attention computes a second time does not enter. Attention is
    counted as the two matrix products that it stands for, since torch's counter knows the fused
    kernels of some releases and devices only, and takes the others for nothing.
    """
    model = AlignedNet(setup.domain.net(setup.fields), setup.targets)
    side = model.net.config.input_size
    t, x = torch.zeros(1), torch.zeros(1, model.net.config.in_channels, side, side)
    noised = Noised({"x": x, "t": t, "y": torch.zeros(1, dtype=torch.int64)}, t, x)
    targets = {n: torch.zeros(1, *target.field.shape) for n, target in setup.targets.items()}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(noised, Batch({}, targets))
    return 3 * counter.get_total_flops()


def public(
    trainer: Trainer, setting: Setting, fed: Fed
) -> dict[str, tuple[Callable[[], None], int]]:
    """The public way on a part of a batch, with its encoder and without it, and their samples."""
    import timm

    encoder = (
        timm.create_model(setting.encoder, pretrained=False, img_size=setting.pixels, **setting.vit)
        .to(trainer.accelerator.device)
        .eval()
    )
    part = fed.part(0, setting.parts)
    part = replace(part, total=part.rows)
    return {
        "public way": (PublicWay(trainer, setting, part, encoder), part.rows),
        "public way, stored tokens": (PublicWay(trainer, setting, part, None), part.rows),
    }


def measure(setting: Setting, folder: Path, runs: int) -> list[report.Figure]:
    """The figures of one setting: steps of every way in turn, and their ratios."""
    settings = settings_of(setting, build(setting, folder / setting.name), folder / "run")
    accelerator = accelerator_for(settings)
    device = accelerator.device
    trainer = Trainer(recipe.check(settings, pin=device.type == "cuda"), accelerator)
    feed, said = Feed(trainer.setup.stream, device), setting.name
    with closing(feed.batches(0)) as batches:
        fixed = next(batches)
        ways = {
            "ours": (lambda: trainer.train_step(next(batches)), setting.batch),
            "bare": (bare(trainer, fixed), setting.batch),
        }
        if setting.others:
            ways |= {"three averages": (three_averages(trainer, batches), setting.batch)}
            ways |= public(trainer, setting, fixed)
        timed = {
            f"{said}: {name}": partial(rate, way, rows, setting.steps, device)
            for name, (way, rows) in ways.items()
        }
        found = report.interleaved(timed, runs)
        memory, waited = alone(timed[f"{said}: ours"], feed, device)
    figures = [report.figure(name, values, "images/s") for name, values in found.items()]
    ours, more = f"{said}: ours", f"{said}: three averages"
    for other in [name for name in found if name != ours]:
        # More averages are compared with ours, and ours with all others.
        pair = (other, ours) if other == more else (ours, other)
        figures.append(report.ratios(found, *pair))
    figures.append(report.figure(f"{said}: share of a step spent waiting", [waited], "share"))
    if device.type == "cuda":
        peak = matmul_rate(device)
        done = flops(trainer.setup) * np.array(found[ours])
        figures += [
            report.figure(f"{said}: of the matmul rate", (done / peak).tolist(), "share"),
            report.figure("bfloat16 matmul", [peak / 1e12], "TFLOP/s"),
            report.figure(f"{said}: memory", [memory], "GiB"),
        ]
    return figures


def alone(ours: Callable[[], float], feed: Feed, device: torch.device) -> tuple[float, float]:
    """The most GiB that our steps hold (with what the other ways keep), and their share of waiting.

    0 GiB on a CPU.
    """
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    waited, began = feed.waited, perf_counter()
    ours()
    share = (feed.waited - waited) / (perf_counter() - began)
    return torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0, share


def matmul_rate(device: torch.device, size: int = 8192) -> float:
    """Floating-point operations per second of square bfloat16 matrix products, the median."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    rates = [rate(lambda: a @ b, 2 * size**3, 20, device) for _ in range(6)]
    return float(np.median(rates[1:]))


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("runs/bench/train-data"))
@click.option("--runs", default=15, show_default=True)
@click.option("--batch", default=SMALL.batch, show_default=True)
@click.option("--steps", default=SMALL.steps, show_default=True, help="Of a round.")
def main(folder: Path, runs: int, batch: int, steps: int) -> None:
    """Measure the small setting and publish the figures."""
    import parts

    setting = replace(SMALL, batch=batch, steps=steps)
    threads = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    what = f"{__doc__}\n{parts.__doc__}\n{parts.GOAL}\n{threads}\n{setting}"
    figures = measure(setting, folder, runs)
    figures += parts.measure(setting, folder / setting.name, folder, runs, steps)
    report.publish("train", what, figures)


if __name__ == "__main__":
    main()
