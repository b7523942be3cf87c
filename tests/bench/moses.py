"""make bench-moses: molecules drawn by nets that are aligned to ChemNet, and by plain ones.

The recipe `moses` is trained with alignment and without, from the same seeds on the same batches,
and molecules are drawn from the averaged weights at the end. Measured are validity, validity in
one piece, stability by the strict table, uniqueness, novelty, and the Fréchet ChemNet distance
(FCD) of the molecules in one piece to held-out SMILES. ChemNet is also the teacher: the FCD may
favour the aligned runs for that reason alone, the other measures may not. The line above the table
has the FCD of as many other held-out SMILES. Intervals are those of bench-chains. Rerun the command
to go on where it stopped; --table makes table and figure of what there is.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import dots
import paired
import torch
from tqdm import tqdm

from reed import config, pipelines
from reed.cache.files import write_atomic
from reed.chem import molecule_set, rdkit
from reed.chem.molecule import Molecule
from reed.domains.molecule import MoleculeOptions
from reed.encoders import ENCODERS
from reed.metrics.frechet import Gaussian, frechet_distance
from reed.metrics.molecule import measure
from reed.sample.outputs.molecule import unpadded
from reed.sample.sampler import Sampler
from reed.train.loop import train
from reed.train.recipe import TrainConfig

MEASURES = (
    paired.Measure("fcd", "FCD", lower=True),
    paired.Measure("connected_validity", "valid, in one piece"),
    paired.Measure("validity", "valid"),
    paired.Measure("molecule_stability_strict", "stable molecules"),
    paired.Measure("atom_stability_strict", "stable atoms"),
    paired.Measure("uniqueness", "unique"),
    paired.Measure("novelty", "novel"),
)
VARIANTS = {"plain": "", "aligned": "plain"}  # -> what it is compared with
HELD_OUT = Path("data/moses/test/000.csv")
LIST = Path("data/moses/train/000.csv")
FEWEST = 10  # molecules of which an FCD is taken


@dataclass(frozen=True)
class Setting:
    """How large a measurement is.

    over: settings over the recipe; molecules: of the list to train on; drawn: of each run; real:
    held-out SMILES to compare with; steps: of the sampler; batch: molecules drawn at a time.
    """

    over: dict[str, Any] = field(default_factory=dict)
    molecules: int = 1000
    drawn: int = 200
    real: int = 2000
    steps: int = 50
    batch: int = 20


SETTINGS = {
    "cpu": Setting(),
    "gpu": Setting(
        over={"steps": 30_000, "tokens": 8192, "ema_decay": 0.999, "every": {"log": 100}},
        molecules=10_000,
        drawn=2000,
        real=5000,
        steps=100,
        batch=200,
    ),
}


def settings_of(name: str, variant: str, cache: Path, run: Path, seed: int) -> TrainConfig:
    """The recipe of a run; on a GPU with the net that was published for GEOM-Drugs."""
    table = config.merge(pipelines.recipe("moses"), SETTINGS[name].over)
    if variant == "plain":  # which has the warm-up, too
        table = config.merge(table, {"curriculum": dict.fromkeys(table["align"], 0.0)})
    if name == "gpu":
        published = pipelines.recipe("geom")["domain"]
        table["domain"] = config.merge(table["domain"], published)
    table["preview"] = {"every": 0}
    table["every"] = table["every"] | {"save": table["steps"]}
    return config.build(TrainConfig, table | {"shards": str(cache), "run": str(run), "seed": seed})


class Judge:
    """ChemNet's features of held-out SMILES, and of as many others as a run draws."""

    def __init__(self, setting: Setting) -> None:
        weights = pipelines.load("moses").settings["chemnet"]["weights"]
        self._net = ENCODERS.get("chemnet")(weights=weights)
        self._net.load("cpu")
        texts = smiles(HELD_OUT, setting.real + setting.drawn)
        self._real = Gaussian.of(self.features(texts[: setting.real]))
        self.floor = self.fcd(texts[setting.real :])

    def features(self, texts: Sequence[str]) -> np.ndarray:
        """ChemNet's features of some SMILES, [N, 512]."""
        return np.asarray(self._net.encode([{self._net.smiles: text} for text in texts])["sample"])

    def fcd(self, texts: Sequence[str]) -> float | None:
        """The distance of some SMILES to the held-out ones; None for too few."""
        if len(texts) < FEWEST:
            return None
        return float(frechet_distance(Gaussian.of(self.features(texts)), self._real))


def smiles(path: Path, count: int) -> list[str]:
    """The first SMILES of a list."""
    with path.open(newline="") as file:
        return [row["smiles"] for row, _ in zip(csv.DictReader(file), range(count), strict=False)]


def whole(molecules: Sequence[Molecule]) -> list[str]:
    """The SMILES of the molecules that RDKit accepts and that are in one piece."""
    accepted = [mol for each in molecules if (mol := rdkit.sanitised(each)) is not None]
    return [text for mol in accepted if "." not in (text := rdkit.flat(mol))]


def measured(settings: TrainConfig, setting: Setting, judge: Judge, known: frozenset[str]) -> None:
    """Train a run, draw from its end and measure that, as far as it is missing."""
    path = settings.run / f"measured-{setting.drawn}.json"
    if path.is_file():
        return
    if train(settings, progress=False) < settings.steps:
        raise click.ClickException(f"{settings.run} was stopped; run the command again to go on")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = MoleculeOptions(steps=setting.steps)
    sampler = Sampler.of_run(settings.run, settings.steps, device)
    drawn = sampler.draw(setting.drawn, options, batch=setting.batch, progress=False)
    molecules = list(unpadded(drawn))
    found = measure(molecules, known) | {"fcd": judge.fcd(whole(molecules))}
    record = {each.name: found[each.name] for each in MEASURES}
    write_atomic(path, json.dumps(record, indent=1).encode())


def build(setting: Setting, cache: Path) -> None:
    """The cache of the first molecules of the list, as reed-cache builds it."""
    weights = Path(pipelines.load("moses").settings["chemnet"]["weights"])
    if missing := [path for path in (LIST, HELD_OUT, weights) if not path.is_file()]:
        raise click.ClickException(f"there is no {missing[0]}: make data-moses")
    listed = cache.with_name(f"{cache.name}.csv")
    if not listed.is_file():
        cache.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{text}\n" for text in smiles(LIST, setting.molecules))
        write_atomic(listed, f"smiles\n{lines}".encode())
    command = [sys.executable, "-m", "reed.cli.cache", "build", "moses", "--cache", str(cache)]
    if code := subprocess.run([*command, "--data", str(listed)], check=False).returncode:
        sys.exit(code)  # it has said why


@click.command()
@click.option("--setting", "name", type=click.Choice([*SETTINGS]), default="cpu")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--first", default=0, help="The first seed; recipes are tuned from 1000 on.")
@click.option("--table", is_flag=True, help="Train nothing: print the table of what is there.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bench"))
def main(name: str, seeds: int, first: int, table: bool, out: Path) -> None:
    """Train both variants from every seed, measure what they draw, and print the table."""
    setting, cache, root = SETTINGS[name], Path("cache") / f"moses-{name}", out / f"moses-{name}"
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    places = [(variant, seed) for seed in range(first, first + seeds) for variant in VARIANTS]
    runs = {place: root / f"{place[0]}-{place[1]}" for place in places}
    floor = root / "floor.json"
    if not table:
        build(setting, cache)
        judge, known = Judge(setting), molecule_set.known(cache)
        root.mkdir(parents=True, exist_ok=True)
        write_atomic(floor, json.dumps({"fcd": judge.floor}).encode())
        for (variant, seed), run in tqdm(runs.items(), unit="run"):
            measured(settings_of(name, variant, cache, run, seed), setting, judge, known)
    found: dict[str, dict[int, dict[str, float | None]]] = {variant: {} for variant in VARIANTS}
    for (variant, seed), run in runs.items():
        if (path := run / f"measured-{setting.drawn}.json").is_file():
            found[variant][seed] = json.loads(path.read_text())
    lines = paired.table(found, VARIANTS, MEASURES)
    lines[0] = f"moses, {name}: {lines[0]}, {setting.drawn} molecules of each run; FCD of as many "
    lines[0] += f"other real SMILES {json.loads(floor.read_text())['fcd']:.2f}"
    write_atomic(root / "table.md", ("\n".join(lines) + "\n").encode())
    dots.draw_measures(found, MEASURES, root / "seeds.png", lines[0].partition(";")[0])
    click.echo("\n".join(lines) + f"\n\n{root / 'table.md'}, {root / 'seeds.png'}")


if __name__ == "__main__":
    main()
