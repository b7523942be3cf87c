"""The examples of the documentation, docs/examples: each goes through both stages, from a file."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from reed import pipelines
from reed.cache import schema
from reed.cli import cache as cli_cache
from reed.cli import evaluate as cli_evaluate
from reed.cli import sample as cli_sample
from reed.cli import train as cli_train
from reed.errors import ReedError
from reed.evaluate.base import EVALUATORS
from reed.evaluate.record import Record

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
MODULES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with the files of the examples, as a reader would have it."""
    for path in EXAMPLES.glob("*.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)
    EVALUATORS._items.pop("greys:Greys", None)


def run(command, *words):
    """Run a command that must work."""
    found = CliRunner().invoke(command.main, [str(word) for word in words])
    assert found.exit_code == 0, found.output
    return found.output


def logged(folder):
    """The last line of a run's log."""
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize("name", MODULES)
def test_an_example_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 60


def test_an_encoder_of_your_own(here):
    run(cli_cache, "build", "digits", "--encoder", "digits-vit", "--encoder", "caption-ngrams")
    run(cli_cache, "build", "digits", "--encoder", "patches=patches:Patches")
    assert schema.load_column(Path("cache/digits"), "patches").encoder == "patches:Patches"
    run(
        cli_train,
        "--shards",
        "cache/digits",
        "--config",
        "patches.toml",
        "--run",
        "runs/patches",
        "--set",
        "steps=3",
    )
    assert -1 < logged(here / "runs" / "patches")["cos/patches"] < 1


def test_a_data_set_of_your_own(here):
    run(cli_cache, "build", "tiles:PIPELINE", "--flip")
    manifest = schema.load_manifest(Path("cache/tiles"))
    assert (manifest.source, manifest.samples, manifest.views) == ("tiles:Tiles", 520, 2)
    assert "0 problems" in run(cli_cache, "verify", "cache/tiles", "--deep")
    run(cli_train, "--shards", "cache/tiles", "--set", "steps=3")
    assert logged(here / "runs" / "tiles")["step"] == 3


def test_a_domain_of_your_own(here):
    run(cli_cache, "build", "greys:PIPELINE")
    run(cli_train, "--shards", "cache/greys", "--set", "steps=40")
    assert logged(here / "runs" / "greys")["diffusion"] < np.log(4)  # what knowing nothing gives
    words = ("--run", "runs/greys", "--precision", "fp32", "--batch", "8")
    run(cli_sample, *words, "--num", "20", "--out", "twenty")
    run(cli_sample, *words, "--num", "9", "--out", "nine")
    twenty, nine = (np.load(f"{name}.npz")["x"] for name in ("twenty", "nine"))
    assert twenty.shape == (20, 64) and twenty.min() == 0 and twenty.max() == 3
    assert (twenty[:9] == nine).all()
    assert Path("twenty.png").stat().st_size > 100


def test_a_domain_of_your_own_has_options_and_is_measured(here):
    """There was no option --set, and reed-eval knew three kinds of data."""
    run(cli_cache, "build", "greys:PIPELINE")
    run(cli_train, "--shards", "cache/greys", "--set", "steps=2")
    draw = ("--run", "runs/greys", "--num", "6", "--steps", "4", "--set", "seed=3")
    for name, heat in (("cold", 0.01), ("warm", 1)):
        run(cli_sample, *draw, "--set", f"temperature={heat}", "--out", name)
        told = json.loads(Path(f"{name}.json").read_text())
        assert told["kind"] == "greys:Greys" and told["temperature"] == heat
    assert not (np.load("cold.npz")["x"] == np.load("warm.npz")["x"]).all()
    sys.modules.pop("greys")  # reed-eval finds the module by the kind that cold.json states
    sys.modules.pop("shades")
    EVALUATORS._items.pop("greys:Greys")
    said = run(cli_evaluate, "cold.npz", "--reference", "cache/greys", "--num", 6)
    assert "6 drawings of cold.npz" in said
    record = Record.read(Path("cold.eval.json"))
    shares = [record.metrics[f"share_{letter}"]["value"] for letter in range(4)]
    assert sum(shares) == pytest.approx(1) and record.recipe["temperature"] == 0.01
    run(cli_evaluate, "cold.npz", "--reference", "cache/greys", "--set", "power=2.0")
    assert Record.read(Path("cold.eval.json")).metrics["difference"]["power"] == 2
    for words, part in (
        ((cli_sample.main, *draw, "--set", "stepps=3"), "no option 'stepps'. Did you mean 'steps'"),
        ((cli_sample.main, *draw, "--grid", "log"), "--grid is for molecules; runs/greys is of"),
        ((cli_evaluate.main, "runs/greys", "--reference", "cache/greys"), "reed-sample --run runs"),
    ):
        found = CliRunner().invoke(words[0], words[1:])
        assert found.exit_code == 2 and part in found.stderr, found.output


def test_a_domain_without_an_evaluator_says_what_to_do(here):
    np.savez("x.npz", x=np.zeros((2, 64), int))
    Path("x.json").write_text('{"kind": "tiles:Tiles", "num": 2}')
    found = CliRunner().invoke(cli_evaluate.main, ["x.npz", "--reference", "."])
    assert found.exit_code == 2 and "nothing measures samples of kind 'tiles:Tiles'" in found.stderr


def test_a_domain_that_is_no_dataclass_is_refused(here):
    path = here / "greys.py"
    path.write_text(path.read_text().replace("@dataclass(frozen=True)\nclass Greys", "class Greys"))
    run(cli_cache, "build", "greys:PIPELINE")
    found = CliRunner().invoke(cli_train.main, ["--shards", "cache/greys"])
    assert found.exit_code == 2 and "write @dataclass(frozen=True) before it" in found.stderr


def test_a_recipe_lies_beside_its_pipeline(here):
    assert pipelines.recipe("tiles:PIPELINE")["domain"]["classes"] == 2
    assert pipelines.label("some.package.tiles:PIPELINE") == "tiles"
    assert "tiles" not in sys.modules  # stage two does not run what stage one needs
    (here / "tiles.toml").unlink()
    with pytest.raises(ReedError, match=r"no configuration file at .*tiles\.toml"):
        pipelines.recipe("tiles:PIPELINE")


@pytest.mark.parametrize("name", ["elsewhere:PIPELINE", "else.where:PIPELINE"])
def test_a_pipeline_that_is_not_here_is_refused(here, name):
    with pytest.raises(ReedError, match="cannot load pipeline 'else.*looked for in"):
        pipelines.load(name)
    with pytest.raises(ReedError, match=r"is not in .*: go where else.*\.toml are"):
        pipelines.recipe(name)


def test_what_is_no_pipeline_is_refused(here):
    with pytest.raises(ReedError, match=r"tiles:Tiles is .*, not a reed\.pipelines\.Pipeline"):
        pipelines.load("tiles:Tiles")
