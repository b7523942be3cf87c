"""Training proteins from public weights, and without a target: what the run takes and records."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from reed.cli.cache import main as cli_cache
from reed.cli.train import main as cli_train
from reed.nets.mpnn import MPNN, MPNNConfig
from reed.train import checkpoint, public

FILES = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_weights.py"))))
SMALL = ("tokens=400", 'one_per=""', "domain.net_settings.hidden=16", "steps=1", "precision=fp32")


def call(command, *words):
    found = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.stderr
    return found


@pytest.fixture(scope="module")
def chains(tmp_path_factory) -> Path:
    """A cache of the pipeline pdb that holds chains alone: no column to align with."""
    cache = tmp_path_factory.mktemp("chains") / "pdb"
    settings = ("--source", "proteins-toy", "--set", "source.samples=8", "--encoder", "chain")
    call(cli_cache, "build", "pdb", *settings, "--cache", cache)
    return cache


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A v_48_030.pt of 16 channels."""
    state = MPNN(MPNNConfig(hidden=16)).state_dict()
    names = {name: state[name] for name in FILES.mpnn_names()}
    cut = {k: v[:21] if k.startswith(("W_s", "W_out")) else v for k, v in names.items()}
    path = tmp_path_factory.mktemp("weights") / "v_48_030.pt"
    torch.save({"num_edges": 48, "noise_level": 0.3, "model_state_dict": cut}, path)
    return path


def train(chains, run, *words):
    settings = [word for setting in SMALL for word in ("--set", setting)]
    return call(
        cli_train, "--shards", chains, "--variant", "plain", "--run", run, *settings, *words
    )


def domain_of(run: Path) -> dict:
    return json.loads((run / "config.json").read_text())["domain"]


def test_the_unaligned_baseline_needs_no_column_of_targets(chains, tmp_path):
    train(chains, tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run", groups=("model",)).model
    assert saved and not any(name.startswith("heads.") for name in saved)
    domain = domain_of(tmp_path / "run")
    assert domain["net_settings"]["neighbours"] == 30 and domain["backbone_noise"] == 0.1


def test_neighbours_and_noise_are_those_of_the_file(chains, weights, tmp_path):
    run, file = tmp_path / "run", tmp_path / "w.pt"
    file.write_bytes(weights.read_bytes())
    said = train(chains, run, "--init", file).stderr
    assert f"{file}: starting from its weights" in said and "trained with" not in said
    domain = domain_of(run)
    assert domain["net_settings"]["neighbours"] == 48 and domain["backbone_noise"] == 0.3
    assert domain["net_settings"]["masked_neighbours"] == "encoder"

    # The run goes on without the file, whose settings it keeps.
    file.unlink()
    train(chains, run, "--init", file, "--set", "steps=2")
    assert checkpoint.steps(run)[-1] == 2 and domain_of(run) == domain


def test_a_setting_of_the_user_stands_and_the_difference_is_told(chains, weights, tmp_path):
    words = ("--set", "domain.net_settings.neighbours=30", "--set", "domain.backbone_noise=0.0")
    words += ("--set", "domain.net_settings.masked_neighbours=decoder")
    found = train(chains, tmp_path / "run", "--init", weights, *words, "--dry-run")
    domain = json.loads(found.stdout)["domain"]
    assert domain["net_settings"]["neighbours"] == 30 and domain["backbone_noise"] == 0.0
    assert domain["net_settings"]["masked_neighbours"] == "decoder"
    (line,) = [line for line in found.stderr.splitlines() if "48 neighbours" in line]
    assert "domain.net_settings.neighbours is 30" in line


def test_an_exported_run_states_them_too(chains, tmp_path):
    words = [
        "--set",
        "domain.net_settings.masked_neighbours=encoder",
        "--set",
        "domain.net_settings.neighbours=24",
    ]
    train(chains, tmp_path / "one", *words)
    file = tmp_path / "one.pt"
    call(cli_train, "export", tmp_path / "one", "--out", file)
    assert public.read(file).args["masked_neighbours"] == "encoder"
    train(chains, tmp_path / "two", "--init", file)
    domain = domain_of(tmp_path / "two")
    assert domain["net_settings"]["masked_neighbours"] == "encoder"
    assert domain["net_settings"]["neighbours"] == 24
