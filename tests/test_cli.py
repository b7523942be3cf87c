"""reed-train and reed-sample: what they print, refuse and write (reed-eval: test_evaluate)."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from reed import config, pipelines
from reed.cli import evaluate as cli_evaluate
from reed.cli import sample as cli_sample
from reed.cli import train as cli_train
from reed.train import checkpoint
from reed.train.recipe import TrainConfig

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TINY.build(tmp_path_factory.mktemp("tiny") / "digits")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A --config file that shrinks the digits recipe to the tiny cache."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.json"
    path.write_text(json.dumps(TINY.TABLE))
    return path


@pytest.fixture(scope="module")
def run(cache, recipe, tmp_path_factory):
    """A run of 3 steps with a checkpoint after each, trained through the command line."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    words = ("--shards", cache, "--run", folder, "--config", recipe)
    found = call(cli_train, *words, "--set", "steps=3", "--set", "every.save=1")
    assert found.exit_code == 0, found.stderr
    return folder


def call(command, *words):
    return CliRunner().invoke(command.main, [str(word) for word in words])


def refused(parts, command, *words):
    """Exit code 2, nothing on stdout, and one line on stderr that has all the parts."""
    found = call(command, *words)
    assert found.exit_code == 2, (found.exit_code, found.output, found.exception)
    assert found.stdout == ""
    *_, line = found.stderr.splitlines()
    assert line.startswith("Error: ") and "Traceback" not in found.stderr
    assert all(part in line for part in parts), line
    return found.stderr


@pytest.fixture
def dry(cache, recipe):
    """The configuration that reed-train --dry-run prints for some more words."""

    def printed(*words):
        found = call(cli_train, "--shards", cache, "--config", recipe, *words, "--dry-run")
        assert found.exit_code == 0, found.stderr
        return json.loads(found.stdout)

    return printed


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--set", "optim.lrr=1"], ["'optim.lrr'", "Did you mean 'lr'?"]),
        (["--set", "curriculum.x=1"], ["curriculum.x", "no loss has this name", "diffusion"]),
        (["--set", "batch"], ["--set 'batch'", "name=value"]),
        (["--set", "=3"], ["--set '=3'", "name=value"]),
        (["--set", "a b=3"], ["--set 'a b=3'", "dotted name"]),
        (["--set", "batch=many"], ["batch", "int", "'many'"]),
        (["--set", "data.y=pixels/label"], ["data.y is unknown"]),
        (["--set", "data.x=pixels/pixel"], ["'pixel'", "Did you mean 'pixels'?"]),
        (["--variant", "rpea"], ["variant 'rpea'", "Did you mean 'repa'?"]),
        (["--config", "nowhere.toml"], ["nowhere.toml"]),
        (["--config", "."], ["cannot read"]),
        (["--set", "shards=3"], ["no cache at 3"]),
    ],
)
def test_what_a_user_may_mistype_is_named(cache, recipe, words, parts):
    stderr = refused(parts, cli_train, "--shards", cache, "--config", recipe, *words)
    assert len(stderr.splitlines()) == 1, stderr


def test_a_cache_that_is_not_there_is_named(tmp_path):
    parts = [str(tmp_path / "nowhere"), "manifest.json", "reed-cache build"]
    refused(parts, cli_train, "--shards", tmp_path / "nowhere")


def test_without_a_cache_the_option_is_named():
    refused(["--shards DIR"], cli_train)


def test_an_incomplete_column_is_named(recipe, tmp_path):
    cache = TINY.build(tmp_path / "cache")
    (cache / "digits-vit" / "000001.json").unlink()
    words = ("--shards", cache, "--run", tmp_path / "run", "--config", recipe)
    finish = f"reed-cache build digits --encoder digits-vit --cache {cache}"
    parts = ["'digits-vit'", "incomplete", "1 of 3 shards", "first: 1", finish]
    refused(parts, cli_train, *words, "--dry-run")
    refused(parts, cli_train, *words)
    assert not (tmp_path / "run").exists()
    found = call(cli_train, *words, "--set", "curriculum.digits-vit=0", "--dry-run")
    assert found.exit_code == 0, found.stderr  # a target that is off needs no column


def test_an_absent_column_is_named(cache, recipe):
    words = ("--shards", cache, "--config", recipe)
    refused(
        ["no column 'dino'", "caption-ngrams, digits-vit, pixels"],
        cli_train,
        *words,
        "--set",
        "align.digits-vit.target=dino/tokens",
    )


def test_a_cache_of_an_unknown_pipeline_is_named(tmp_path, recipe, edit_json):
    cache = TINY.build(tmp_path / "cache")
    edit_json(cache / "manifest.json", pipeline="digts")
    refused(["'digts'", "Did you mean 'digits'?"], cli_train, "--shards", cache)


def test_a_dry_run_prints_what_builds_back_and_writes_nothing(cache, recipe, tmp_path):
    words = ("--shards", cache, "--run", tmp_path / "run", "--config", recipe)
    found = call(cli_train, *words, "--dry-run")
    assert found.exit_code == 0, found.stderr
    assert not (tmp_path / "run").exists()
    (tmp_path / "printed.json").write_text(found.stdout)
    again = call(cli_train, "--config", tmp_path / "printed.json", "--dry-run")
    assert again.stdout == found.stdout
    settings = config.build(TrainConfig, json.loads(found.stdout))
    assert settings == config.build(TrainConfig, json.loads(again.stdout))
    assert (settings.shards, settings.run, settings.batch) == (cache, tmp_path / "run", 16)


def test_later_words_win(dry, tmp_path):
    """Recipe < --config, in order < flags < --set."""
    steps = pipelines.recipe("digits")["steps"]
    plain = dry()
    assert (plain["steps"], plain["optim"]["lr"], plain["run"]) == (steps, 2e-3, "runs/digits")
    over = tmp_path / "over.toml"
    over.write_text("run = 'from-file'\nsteps = 7\n[optim]\nclip = 2.0\nlr = 0.5\n")
    one = dry("--config", over)
    assert (one["steps"], one["run"], one["optim"]["eps"]) == (7, "from-file", 1e-8)
    assert (one["optim"]["clip"], one["optim"]["lr"]) == (2.0, 0.5)
    two = dry("--config", over, "--run", "flag", "--set", "optim.lr=1", "--set", "steps=8")
    assert (two["run"], two["optim"]["lr"], two["optim"]["clip"], two["steps"]) == (
        "flag",
        1.0,
        2.0,
        8,
    )
    three = dry("--run", "flag", "--set", "run=set", "--set", "steps=8", "--set", "steps=9")
    assert (three["run"], three["steps"]) == ("set", 9)


def test_a_variant_is_laid_over_the_recipe(cache):
    def printed(*words):
        tiny = ("--set", "domain.net_settings.patch_size=2", "--set", "domain.classes=4")
        found = call(cli_train, "--shards", cache, *tiny, *words, "--dry-run")
        assert found.exit_code == 0, found.stderr
        return json.loads(found.stdout)

    whole, repa = (pipelines.recipe("digits", name)["curriculum"] for name in ("", "repa"))
    assert printed("--variant", "repa")["curriculum"] == repa
    assert repa["caption-ngrams"] == 0 and repa["digits-vit"] == whole["digits-vit"] > 0
    assert printed("--variant", "sit")["run"] == "runs/digits-sit"
    assert printed()["run"] == "runs/digits"


def test_the_configuration_of_a_run_is_accepted(run):
    found = call(cli_train, "--config", run / "config.json", "--dry-run")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout) == config.read(run / "config.json")


def test_a_run_is_not_mixed_with_another_recipe(run):
    words = ("--config", run / "config.json", "--set", "optim.lr=0.1")
    refused([str(run), "optim.lr = 0.002, now it is 0.1", "another --run"], cli_train, *words)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--step", "7"], ["no checkpoint of step 7", "1, 2, 3"]),
        (["--sampler", "ddim"], ["'ddim'", "heun"]),
        (["--labels", "all"], ["'all'", "balanced"]),
        (["--steps", "0"], ["steps is 0"]),
        (["--num", "0"], ["--num", "0"]),
        (["--batch", "0"], ["--batch", "0"]),
        (["--guidance", "0.5"], ["guidance scale is 0.5"]),
        (["--interval", "0.9", "0.1"], ["[0.9, 0.1]"]),
        (["--device", "quantum"], ["--device quantum"]),
        (["--rounding", "up"], ["rounding is 'up'", "nearest, down"]),
        (["--vae", "x"], ["--vae x", "'pixels', no latents"]),
        (["--heads", "3"], ["--heads belongs to --checkpoint"]),
        (["--scale", "0"], ["--scale belongs to --checkpoint"]),
        (["--array", "3"], ["--array 3 is not K/N"]),
        (["--array", "2/2"], ["--array 2/2 is not K/N"]),
        (["--device", "cuda:99"], ["--device cuda:99"]),
    ],
)
def test_what_cannot_be_sampled_is_refused(run, words, parts):
    refused(parts, cli_sample, "--run", run, *words)


def test_a_run_that_is_not_there_is_named(tmp_path):
    where = tmp_path / "nowhere"
    refused([str(where), "no checkpoint", "reed-train"], cli_sample, "--run", where)


@pytest.mark.parametrize("command", [cli_train, cli_sample, cli_evaluate])
def test_every_option_is_explained(command):
    found = call(command, "--help")
    assert found.exit_code == 0 and "Example" in found.stdout
    unexplained = [
        option.name
        for option in command.main.params
        if isinstance(option, click.Option) and not option.help and option.name != "seed"
    ]
    assert unexplained == []
    assert call(command, "--version").exit_code == 0


HEAVY = "timm transformers diffusers sklearn rdkit esm PIL matplotlib scipy"


def test_training_needs_no_model_library(cache, recipe, tmp_path):
    words = [
        "--shards",
        str(cache),
        "--run",
        str(tmp_path / "run"),
        "--config",
        str(recipe),
        "--set",
        "steps=1",
    ]
    program = (
        f"import sys; from reed.cli.train import main; main({words}, standalone_mode=False);"
        f"print([name for name in {HEAVY.split()} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert checkpoint.steps(tmp_path / "run") == [1]


def test_a_guide_called_lr_is_sketched_beside_the_learning_rate(cache, recipe):
    guide = "guide.lr={target='caption-ngrams/embedding', hidden=16, depth=1}"
    words = ("--set", guide, "--set", "curriculum.lr=0.25", "--dry-run")
    found = call(cli_train, "--shards", cache, "--config", recipe, *words)
    assert found.exit_code == 0, found.stderr
    weights = [line for line in found.stderr.splitlines() if line.startswith(("lr ", "optim.lr"))]
    assert "0.25 at the start, 0.25 at the end" in weights[0]
    assert weights[1].startswith("optim.lr") and "1 at the start, 1 at the end" in weights[1]
