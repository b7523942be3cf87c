"""make bench-gpu: on a GPU, training steps, and photographs to shards.

Training: SiT-XL/2 and SiT-B/2 on latents of 256 pixels with int8 tokens of DINOv2-B and a vector
of 3,584, the ways of bench-train; "of the matmul rate" is what net and heads compute in our whole
step against square bfloat16 products of 8,192. Memory of training is the most that torch holds
with the weights of the other ways, which lie beside.

Stage one: DINOv2-B at 224 pixels and the autoencoder of Stable Diffusion at 256, with random
weights. The whole stage and the bare passes are those of bench-stage1 and are run in turn; a row's
precision is that of both. Starting the reading processes counts, so larger data sets are a little
faster. Memory is the most that torch holds while one batch is encoded, with the weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))
import report
import stage1
import train

from reed.build import shared
from reed.build.shard import Timing
from reed.encoders.image import diffusers_model, vae
from reed.encoders.image.batches import images

START_WITHIN = 330  # seconds; later rows are left out, so that all ends in eight minutes
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
        parts=parts,
    )
    for size, taps, steps, parts in (("SiT-XL/2", (8, 16), 8, 2), ("SiT-B/2", (4, 8), 30, 1))
)
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


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("runs/bench/gpu-data"))
@click.option("--workers", default=shared.most_workers(), show_default=True)
@click.option("--runs", default=5, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Runs of the training rows.")
def main(folder: Path, workers: int, runs: int, rounds: int) -> None:
    """Measure every row for which there are libraries and time, and publish the figures."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("bench-gpu needs an NVIDIA GPU that torch can use; there is none here")
    began, figures = perf_counter(), []
    said = [__doc__ or "", f"{torch.cuda.get_device_name()}, torch {torch.__version__}"]
    for setting in TRAINED:
        if perf_counter() - began > START_WITHIN:
            said.append(f"left out: {setting.name} (no time for it)")
        else:
            figures += train.measure(setting, folder, rounds)
            torch.cuda.empty_cache()
    for row in ROWS:
        if find_spec(row.library) is None:
            said.append(f"left out: {row} ({row.library} is not installed)")
        elif perf_counter() - began > START_WITHIN:
            said.append(f"left out: {row} (no time for it)")
        else:
            encoder = encoder_of(row, folder)
            figures += measure(
                str(row), encoder, folder, row.images, device="cuda", workers=workers, runs=runs
            )
    report.publish("gpu", "\n".join(said), figures)


if __name__ == "__main__":
    main()
