"""bench-moses: its settings fit the recipe, and it goes all the way with a random ChemNet."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

BENCH = Path(__file__).with_name("bench")
REAL = ("CCO", "CCN", "CC=O", "c1ccccc1", "CC#N", "OCCO", "CCOC", "CNC", "CCCO", "C1CC1", "CCF")


@pytest.fixture
def moses(monkeypatch, tmp_path):
    """The benchmark's module; it writes into a folder of the test."""
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("moses")


def test_every_variant_fits_its_recipe(moses, tmp_path):
    for name in moses.SETTINGS:
        for variant in moses.VARIANTS:
            settings = moses.settings_of(name, variant, tmp_path, tmp_path / "run", 3)
            assert settings.seed == 3 and settings.every.save == settings.steps
            weight = settings.curriculum["molecule"]
            assert (weight == 0) == (variant == "plain")


def test_molecules_in_one_piece_are_judged(moses, monkeypatch):
    """The features are the counts of C and O; the distance of a list to itself is 0."""

    class Net:
        smiles = "molecule/smiles"

        def __init__(self, **_: object) -> None: ...

        def load(self, device: str) -> None: ...

        def encode(self, samples: list[dict]) -> dict:
            return {"sample": [[s[self.smiles].count(c) for c in "CO"] for s in samples]}

    monkeypatch.setattr(moses.ENCODERS, "get", lambda _: Net)
    for place in (moses.HELD_OUT, moses.LIST):
        place.parent.mkdir(parents=True)
        place.write_text("smiles\n" + "".join(f"{text}\n" for text in REAL * 2))
    setting = moses.Setting(real=len(REAL), drawn=len(REAL))
    judge = moses.Judge(setting)
    assert judge.floor == pytest.approx(0, abs=1e-6)
    assert judge.fcd([text + "C" for text in REAL]) == pytest.approx(1, abs=1e-6)
    assert judge.fcd(REAL[:3]) is None
    assert moses.smiles(moses.LIST, 2) == ["CCO", "CCN"]


def test_the_table_is_made_from_the_records(moses):
    root = Path("runs/bench/moses-cpu")
    for variant, value in {"plain": 4.0, "aligned": 3.0}.items():
        for seed in range(2):
            record = {each.name: value for each in moses.MEASURES}
            path = root / f"{variant}-{seed}" / "measured-200.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(record))
    (root / "floor.json").write_text('{"fcd": 1.25}')
    words = ["--table", "--seeds", "2"]
    said = CliRunner().invoke(moses.main, words, catch_exceptions=False).output
    assert said.startswith("moses, cpu: 2 seeds, 200 molecules") and "SMILES 1.25" in said
    line = next(line for line in said.splitlines() if line.startswith("| aligned"))
    assert "-1.0000 (-1.0000 to -1.0000) | better in 2 of 2, p = 0.500" in line
    assert line.count("better in 0 of 2") == 6  # of the measures that should be high


def test_what_is_missing_is_said(moses):
    done = CliRunner().invoke(moses.main, [])
    assert done.exit_code == 1
    assert "there is no data/moses/train/000.csv: make data-moses" in done.output
