"""make bench-chains: alignment to a pretrained protein model on real chains, over seeds.

The chains are those of `make data-chains`; whole families are held out. The teacher is Frame2seq,
an inverse folding model on other terms than the net (attention over frames and pairs, all letters
masked). Nets start from nothing, and from ProteinMPNN's public weights, each with alignment and
without, from the same seeds on the same batches, and equal in all else. Measured on the held-out
chains, with averaged weights at the end: recovery by the likeliest letters where all are masked,
and perplexity. Both public models were trained on the PDB, so only differences between runs say
something here.
`--data proteins-toy` compares generated proteins instead. Intervals are 95 % bootstrap intervals
over seeds of the mean, and of the mean of the differences between pairs of one seed. Rerun the
command to go on where it stopped; --table makes the table of what there is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))
import dots
import paired
import torch
from tqdm import tqdm

from reed import config, pipelines
from reed.cache.files import write_atomic
from reed.evaluate import protein
from reed.nets.mpnn import MPNN
from reed.sample.sampler import Sampler
from reed.train.loop import train
from reed.train.recipe import TrainConfig
from reed.train.stated import of_init

MPNN_WEIGHTS = Path("data/weights/v_48_020.pt")
LONGEST = 288  # residues of a chain, on a CPU
MEASURES = (
    paired.Measure("one_shot_recovery", "recovery, all masked"),
    paired.Measure("perplexity", "perplexity", lower=True),
)
Table = dict[str, Any]
Record = dict[str, float]


@dataclass(frozen=True)
class Variant:
    """One way of training: settings over the recipe, and what it is compared with.

    like: the variant whose runs are its pairs; empty for one that is compared with nothing.
    """

    over: Table
    like: str = ""


SMALL = {"hidden": 64, "encoder_layers": 2, "decoder_layers": 2, "neighbours": 24}
# Taps that are as deep in the small net: the last layer of the encoder.
SCRATCH = {
    "cpu": {
        "steps": 100,
        "domain": {"net_settings": SMALL},
        "align": {"frame2seq": {"tap": 2}},
        "optim": {"lr": 2e-3},
    },
    "gpu": {"steps": 3000, "tokens": 10_000, "every": {"save": 3000}},
}
TUNED = {  # a warm-up would let the alignment alone move what is good already
    "cpu": {"steps": 20},
    "gpu": {"steps": 1000, "tokens": 10_000, "every": {"save": 1000}},
}
INIT = {
    "init": str(MPNN_WEIGHTS),
    "optim": {"lr": 1e-4},
    "curriculum": {"diffusion": 1.0},
}


def variants_of(data: str, name: str) -> dict[str, Variant]:
    """The variants that are compared on a data set, in a setting."""
    # The pairs differ in alignment alone: both have the warm-up of the recipe.
    none = {"curriculum": dict.fromkeys(pipelines.recipe(data)["align"], 0.0)}
    if data == "proteins-toy":
        over = {"steps": 160 if name == "cpu" else 2000}
        return {"plain": Variant(over | none), "aligned": Variant(over, "plain")}
    scratch, tuned = SCRATCH[name], config.merge(TUNED[name], INIT)
    return {
        "plain": Variant(config.merge(scratch, none)),
        "aligned": Variant(scratch, "plain"),
        "ProteinMPNN, plain": Variant(config.merge(tuned, none)),
        "ProteinMPNN, aligned": Variant(tuned, "ProteinMPNN, plain"),
    }


def settings_of(data: str, variant: Variant, cache: Path, run: Path, seed: int) -> TrainConfig:
    """The recipe of a run, as reed-train would resolve it with --init."""
    table = config.merge(pipelines.recipe(data), variant.over)
    table |= {"shards": str(cache), "run": str(run), "seed": seed}
    table["every"] = {"log": 10, "save": table["steps"]} | variant.over.get("every", {})
    return config.build(TrainConfig, config.merge(table, of_init(table, "protein")))


def measured(settings: TrainConfig, test: Sequence[Any]) -> Record:
    """Train a run and measure its end, as far as that is missing; return what was measured."""
    path = settings.run / "measured.json"
    if path.is_file():
        return json.loads(path.read_text())
    if train(settings, progress=False) < settings.steps:
        raise click.ClickException(f"{settings.run} was stopped; run the command again to go on")
    net = Sampler.of_run(settings.run, settings.steps, str(device())).net
    assert isinstance(net, MPNN)
    found = protein.perplexity(net, test)
    record = {each.name: found[each.name] for each in MEASURES}
    write_atomic(path, json.dumps(record, indent=1).encode())
    return record


def device() -> torch.device:
    """Where nets are measured."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(data: str, name: str) -> tuple[Path, Path]:
    """The caches to train on and to measure on, as reed-cache builds them."""
    caches = (Path("cache") / f"{data}-{name}", Path("cache") / f"{data}-{name}-test")
    for cache, split in zip(caches, ("train", "test"), strict=True):
        words = ["--set", f"source.split={split}"]
        words += ["--set", f"source.samples={512 if split == 'train' else 64}"]
        if data == "chains":
            words = ["--data", f"data/chains/{split}"]
            if not (Path(words[1]).is_dir() and MPNN_WEIGHTS.is_file()):
                problem = f"there is no {words[1]} or {MPNN_WEIGHTS}"
                raise click.ClickException(f"{problem}: make data-chains")
            # The teacher's time grows with the square of the length.
            words += ["--set", f"source.max_length={LONGEST}"] if name == "cpu" else []
        words += ["--encoder", "chain"] if split == "test" else []
        command = [sys.executable, "-m", "reed.cli.cache", "build", data, "--cache", str(cache)]
        if code := subprocess.run([*command, *words], check=False).returncode:  # it has said why
            sys.exit(code)
    return caches


@click.command()
@click.option("--data", type=click.Choice(["chains", "proteins-toy"]), default="chains")
@click.option("--setting", "name", type=click.Choice(["cpu", "gpu"]), default="cpu")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--first", default=0, help="The first seed; recipes are tuned from 1000 on.")
@click.option("--table", is_flag=True, help="Train nothing: print the table of what is there.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bench"))
def main(data: str, name: str, seeds: int, first: int, table: bool, out: Path) -> None:
    """Train every variant from every seed, measure the ends, and print the table."""
    if device().type == "cpu":
        torch.set_num_threads(1)
    root, variants = out / f"chains-{data}-{name}", variants_of(data, name)
    places = [(v, seed) for seed in range(first, first + seeds) for v in variants]
    runs = {each: root / f"{each[0].replace(', ', '-')}-{each[1]}" for each in places}
    if not table:
        cache, other = build(data, name)
        test = protein.structures_of(other, pipelines.recipe(data)["data"])
        for (variant, seed), run in tqdm(runs.items(), unit="run"):
            measured(settings_of(data, variants[variant], cache, run, seed), test)
    found: dict[str, dict[int, Record]] = {variant: {} for variant in variants}
    for (variant, seed), run in runs.items():
        if (path := run / "measured.json").is_file():
            found[variant][seed] = json.loads(path.read_text())
    likes = {variant: each.like for variant, each in variants.items()}
    lines = paired.table(found, likes, MEASURES)
    text = "\n".join([f"{data}, {name}: {lines[0]}", *lines[1:]]) + "\n"
    write_atomic(root / "table.md", text.encode())
    dots.draw_measures(found, MEASURES, root / "seeds.png", text.partition("\n")[0])
    click.echo(f"{text}\n{root / 'table.md'}, {root / 'seeds.png'}")


if __name__ == "__main__":
    main()
