"""PoseBusters' checks beside our measures, and what is said where it is not installed."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed.chem import molecule_set, rdkit
from reed.cli.evaluate import main
from reed.extras import pip_install
from reed.metrics.posebusters import busted

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny_molecules.py")))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TINY.build(tmp_path_factory.mktemp("posebusters") / "cache")


@pytest.fixture(scope="module")
def molecules():
    """Benzene; the same with two ring atoms almost in one place; with bonds that are none."""
    benzene = rdkit.to_arrays(TINY.mol("c1ccccc1"))
    coords = benzene.coords.copy()
    coords[3] = coords[0] + 0.1
    wrong = 2 * (1 - np.eye(len(benzene), dtype=np.uint8))
    return [benzene, replace(benzene, coords=coords), replace(benzene, bonds=wrong)]


def evaluate(path, cache, *words):
    return CliRunner().invoke(main, [str(path), "--reference", str(cache), *words])


def test_each_check_is_a_share_of_all_molecules(molecules):
    pytest.importorskip("posebusters")
    found = busted(molecules)
    assert found["posebusters"] == pytest.approx(1 / 3)  # benzene
    assert found["posebusters_sanitization"] == pytest.approx(2 / 3)
    for name in ("bond_lengths", "internal_steric_clash", "aromatic_ring_flatness"):
        assert found[f"posebusters_{name}"] <= 2 / 3
    assert found["posebusters_bond_lengths"] == pytest.approx(1 / 3)
    nowhere = replace(molecules[0], coords=molecules[0].coords * np.nan)
    assert busted([molecules[2], nowhere]) == {"posebusters": 0.0}


def test_reed_eval_measures_by_posebusters(tmp_path, cache, molecules):
    pytest.importorskip("posebusters")
    path = tmp_path / "x.npz"
    molecule_set.write(path, molecules)
    done = evaluate(path, cache, "--posebusters")
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "x.eval.json").read_text())["metrics"]
    assert metrics["posebusters"]["value"] == pytest.approx(1 / 3)
    assert " posebusters-" in metrics["validity"]["evaluator"]
    assert evaluate(path, cache).exit_code == 0  # without
    assert "posebusters" not in json.loads((tmp_path / "x.eval.json").read_text())["metrics"]


def test_each_check_stands_beside_that_of_the_reference(tmp_path, monkeypatch):
    """Benzoquinone is flat in nature, and fails the check that rings like it are not."""
    pytest.importorskip("posebusters")
    quinone = [rdkit.to_arrays(TINY.mol(text)) for text in ("O=C1C=CC(=O)C=C1", "c1ccccc1")]
    check = "posebusters_non-aromatic_ring_non-flatness"
    assert busted(quinone)[check] == 0.5

    monkeypatch.setitem(TINY.build.__globals__, "SMILES", ("O=C1C=CC(=O)C=C1", *TINY.SMILES[1:]))
    cache, path = TINY.build(tmp_path / "cache"), tmp_path / "x.npz"
    molecule_set.write(path, quinone)
    done = evaluate(path, cache, "--posebusters")
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "x.eval.json").read_text())["metrics"]
    share = 1 - 1 / len(TINY.SMILES)
    assert metrics[check]["reference"] == pytest.approx(share)
    assert metrics[check]["reference_num"] == len(TINY.SMILES)
    assert "reference" not in metrics["validity"]
    row = next(line for line in done.stdout.splitlines() if line.startswith(check))
    assert row.split() == [check, "0.5000", "reference", f"{share:.4f}", "(20)"]


def test_a_package_that_is_missing_is_named_at_once(tmp_path, cache, molecules, monkeypatch):
    path = tmp_path / "x.npz"
    molecule_set.write(path, molecules)
    monkeypatch.setitem(sys.modules, "posebusters", None)
    done = evaluate(path, cache, "--posebusters")
    assert done.exit_code == 2 and done.output.count("\n") == 1
    assert pip_install("posebusters") in done.output
    assert not (tmp_path / "x.eval.json").exists()


def test_only_molecules_have_these_checks(tmp_path, cache):
    np.save(tmp_path / "x.npy", np.zeros((2, 8, 8, 1), np.uint8))
    done = evaluate(tmp_path / "x.npy", cache, "--posebusters")
    assert done.exit_code == 2 and "--posebusters is for molecules" in done.output
