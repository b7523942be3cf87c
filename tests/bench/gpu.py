"""make bench-gpu: on a GPU, training steps, drawing, and photographs to shards.

    python tests/bench/gpu.py [--only train] [--only variants] [--only drawing] [--only stage1]

Each group ends within eight minutes. What is measured is kept in --folder: a rerun goes on with the
rows that are missing, for the same card and the same torch. A row that does not fit the card is
left out and named.

train: SiT-XL/2 and SiT-B/2 on latents of 256 pixels with int8 tokens of DINOv2-B and a vector of
3,584, the ways of bench-train; "of the matmul rate" is what net and heads compute in our whole step
against square bfloat16 products of 8,192. "share of a step spent waiting" is the loader's.

variants: the whole step with checkpointed blocks, two and three averages, the convolution head and
guides (see variants.py), with memory. drawing: images of SiT-XL/2, compiled or not (drawing.py).

stage1: DINOv2-B at 224 pixels and the autoencoder of Stable Diffusion at 256, with random weights.
The whole stage and the bare passes are those of bench-stage1 and are run in turn; a row's precision
is that of both. Starting the reading processes counts, so larger data sets are a little faster.
Memory is the most that torch holds while one batch is encoded, with the weights.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))
import drawing
import report
import stage1
import train
import variants

from reed.build import shared
from reed.build.shard import Timing
from reed.encoders.image import diffusers_model, vae
from reed.encoders.image.batches import images

GROUPS = ("train", "variants", "drawing", "stage1")
START_WITHIN = 330  # seconds; later rows wait for a rerun, so that a command ends in eight minutes
SD_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 256,
}


@dataclass(frozen=True)
class Row:
    """One encoder at one precision; library: what it cannot do without."""

    library: str
    name: str
    precision: str
    images: int
    batch: int

    def __str__(self) -> str:
        return f"{self.name}, {self.precision}"


TRAINED = tuple(
    train.Setting(
        size,
        {"size": size},
        (4, 32),
        (256, 768),
        3584,
        taps,
        "vit_base_patch14_dinov2",
        224,
        batch=256,
        samples=1024,
        precision="bf16",
        steps=steps,
        others=others,
    )
    for size, taps, steps, others in (
        ("SiT-XL/2", (8, 16), 8, False),  # the public way does not fit beside ours
        ("SiT-B/2", (4, 8), 30, True),
    )
)
VARIED = ((TRAINED[0], variants.MEMORY), (TRAINED[1], tuple(variants.VARIANTS)))
DRAWN = (drawing.Drawing("SiT-XL/2, batch 64, 10 steps", {"size": "SiT-XL/2"}),)
ROWS = (
    Row("timm", "dinov2-b", "bf16", 4096, 128),
    Row("timm", "dinov2-b", "tf32", 4096, 128),
    Row("timm", "dinov2-b", "fp32", 2048, 128),
    Row("diffusers", "sd-vae", "fp32", 512, 32),
    Row("diffusers", "sd-vae", "bf16", 1024, 32),
)


def random_vae(folder: Path, settings: dict[str, Any], **options: Any) -> vae.Vae:
    """An autoencoder with random weights, which are written to the folder once."""
    if not (folder / diffusers_model.WEIGHTS).is_file():
        import torch
        from diffusers import AutoencoderKL

        torch.manual_seed(0)
        AutoencoderKL(**settings).save_pretrained(folder)
    return vae.Vae("sd-vae", hub="", weights=str(folder), **options)


def encoder_of(row: Row, folder: Path) -> Any:
    """The encoder of a row, not loaded."""
    settings = {"precision": row.precision, "batch_size": row.batch}
    if row.name == "sd-vae":
        return random_vae(folder / "sd-vae", SD_VAE, **settings)
    return stage1.random_vision(folder, row.name, **settings)


def model_of(encoder: Any) -> tuple[Callable, Callable]:
    """What a loaded encoder makes of samples and a device, and the forward pass of that."""
    if isinstance(encoder, vae.Vae):
        model = encoder._model
        return lambda samples, device: images(samples, device).float() / 127.5 - 1, model.encode
    return partial(stage1.preprocessed, encoder), encoder._model.forward_features


def measure(
    name: str, encoder: Any, folder: Path, count: int, *, device: str, workers: int, runs: int
) -> list[report.Figure]:
    """The figures of one encoder: images/s whole and bare, their ratio, seconds and memory."""
    data = stage1.photographs(folder, count)
    job = stage1.open_stage(folder / "cache", data, encoder, device, 4 * encoder.batch_size)
    samples = stage1.first_samples(job, 8)
    memory = held(encoder, samples[0], device)
    prepare, forward = model_of(encoder)
    batches = [prepare(each, device) for each in samples]
    passes = -(-count // encoder.batch_size)
    spent: list[Timing] = []
    whole, bare = f"{name}: whole", f"{name}: bare"
    ways = {
        whole: partial(stage1.whole, job, workers, spent),
        bare: partial(stage1.bare, forward, batches, passes, device, encoder.precision),
    }
    values = report.interleaved(ways, runs)
    figures = [report.figure(way, rates, "images/s") for way, rates in values.items()]
    figures += [report.ratios(values, whole, bare), *stage1.seconds(name, spent)]
    return [*figures, report.figure(f"{name}: memory", [memory], "MiB")]


def held(encoder: Any, samples: list[dict[str, Any]], device: str) -> float:
    """The most MiB of the device that encoding a batch holds; 0 on a CPU."""
    import torch

    if torch.device(device).type != "cuda":
        return 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    encoder.encode(samples)
    return torch.cuda.max_memory_allocated() / 2**20


@dataclass(frozen=True)
class Task:
    """Something that is measured at once; library: what it cannot do without."""

    group: str
    name: str
    measure: Callable[[], list[report.Figure]]
    library: str = ""


def tasks(folder: Path, workers: int, runs: int, rounds: int, device: str = "cuda") -> list[Task]:
    """All tasks, the most wanted first."""

    def encoded(row: Row) -> list[report.Figure]:
        encoder = encoder_of(row, folder)
        return measure(
            str(row), encoder, folder, row.images, device=device, workers=workers, runs=runs
        )

    found = [Task("train", s.name, partial(train.measure, s, folder, rounds)) for s in TRAINED]
    for setting, names in VARIED:
        for few in (names[at : at + 4] for at in range(0, len(names), 4)):
            # Each part begins with the plain step, which the others are divided by.
            few = few if few[0] == variants.PLAIN else (variants.PLAIN, *few)
            call = partial(variants.measure, setting, few, folder, rounds)
            found.append(Task("variants", f"{setting.name}, {', '.join(few)}", call))
    found += [Task("drawing", d.name, partial(drawing.measure, d, device, rounds)) for d in DRAWN]
    return found + [Task("stage1", str(row), partial(encoded, row), row.library) for row in ROWS]


def gathered(todo: Iterable[Task], kept: Path, machine: str) -> tuple[list[str], list[Any]]:
    """What is said of the tasks, and the figures: those that are kept, and new ones.

    Args:
        todo: The tasks.
        kept: Folder with a file per task that is done.
        machine: What a figure depends on; those of another machine are measured again.
    """
    began, said, figures = perf_counter(), [], []
    for task in todo:
        file = kept / f"{task.group}-{re.sub(r'[^A-Za-z0-9]+', '-', task.name)}.json"
        done = json.loads(file.read_text()) if file.is_file() else {}
        if done.get("machine") == machine:
            figures += [report.Figure(**each) for each in done["figures"]]
        elif task.library and find_spec(task.library) is None:
            said.append(f"left out: {task.name} ({task.library} is not installed)")
        elif perf_counter() - began > START_WITHIN:
            said.append(f"left out: {task.name} (no time for it; run the command again)")
        else:
            try:
                found = variants.within_memory(task.measure)
            except MemoryError as error:
                said.append(f"left out: {task.name} ({error})")
                continue
            finally:
                variants.drop()
            figures += found
            kept.mkdir(parents=True, exist_ok=True)
            content = {"machine": machine, "figures": [asdict(each) for each in found]}
            file.write_text(json.dumps(content, indent=1) + "\n")
    return said, figures


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("runs/bench/gpu-data"))
@click.option("--only", type=click.Choice(GROUPS), multiple=True, help="Groups; default: all.")
@click.option("--workers", default=shared.most_workers(), show_default=True)
@click.option("--runs", default=5, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Runs of all but stage one.")
def main(folder: Path, only: tuple[str, ...], workers: int, runs: int, rounds: int) -> None:
    """Measure every row for which there are libraries, memory and time, and publish the figures."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("bench-gpu needs an NVIDIA GPU that torch can use; there is none here")
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    todo = [t for t in tasks(folder, workers, runs, rounds) if t.group in (only or GROUPS)]
    said, figures = gathered(todo, folder / "kept", f"{machine}, {runs} and {rounds} runs")
    report.publish("gpu", "\n".join([__doc__ or "", machine, *said]), figures)


if __name__ == "__main__":
    main()
