"""reed-train, reed-sample and reed-eval: what they print, refuse and write."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
from click.testing import CliRunner

from reed import checkpoint, config, evaluate, pipelines
from reed.cli import evaluate as cli_evaluate
from reed.cli import sample as cli_sample
from reed.cli import train as cli_train
from reed.metrics import FEATURES
from reed.recipe import TrainConfig

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TINY.build(tmp_path_factory.mktemp("tiny") / "cache")


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
    assert line.lower().startswith("error: ") and "Traceback" not in found.stderr
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
        (["--set", "curriculum.x=1"], ["curriculum.x", "weighs no loss", "diffusion"]),
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
        cli_train, *words, "--set", "align.digits-vit.target=dino/tokens",
    )  # fmt: skip


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
        "flag", 1.0, 2.0, 8,
    )  # fmt: skip
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


class Half:
    """A stand-in feature space: the mean of each half of the image."""

    def __init__(self, images, labels):
        assert images.dtype == np.uint8 and len(images) == len(labels) == TINY.SAMPLES

    def __call__(self, images):
        flat = images.reshape(len(images), 2, -1).astype(np.float64)
        return flat.mean(2)


@pytest.fixture
def half(monkeypatch):
    FEATURES.names()
    monkeypatch.setitem(FEATURES._items, "half", Half)


def test_samples_are_measured_against_the_cache(cache, half, tmp_path):
    real, labels = evaluate.reference_images(cache)
    assert real.shape == (64, 8, 8, 4) and sorted(set(labels)) == [0, 1, 2, 3]
    path = tmp_path / "s.npz"
    np.savez(path, arr_0=real[::-1], arr_1=labels)
    words = (path, "--reference", cache, "--features", "half")
    found = json.loads(call(cli_evaluate, *words).stdout)
    assert found["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert (found["samples"], found["reference_samples"]) == (64, 64)
    np.savez(path, arr_0=np.minimum(real, 250) + 5, arr_1=labels)
    moved = json.loads(call(cli_evaluate, *words).stdout)["frechet_distance"]
    means = [Half(real, labels)(images).mean(0) for images in (real, np.minimum(real, 250) + 5)]
    assert moved >= np.square(means[0] - means[1]).sum() > 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"text", None, "npy", "other"])
def test_what_are_no_samples_is_refused(cache, half, tmp_path, content):
    path = tmp_path / "s.npz"
    if content == "npy":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif content == "other":
        np.savez(path, x=np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    words = (path, "--reference", cache, "--features", "half")
    refused(["cannot read samples", str(path)], cli_evaluate, *words)


def test_samples_of_another_size_or_an_unknown_space_are_refused(cache, half, tmp_path):
    path = tmp_path / "s.npz"
    np.savez(path, arr_0=np.zeros((4, 8, 8, 3), np.uint8), arr_1=np.zeros(4))
    words = (path, "--reference", cache, "--features", "half")
    refused(["(8, 8, 3)", "(8, 8, 4)"], cli_evaluate, *words)
    words = (path, "--reference", cache, "--features", "digits-mpl")
    refused(["'digits-mpl'", "Did you mean 'digits-mlp'?"], cli_evaluate, *words)


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
    words = ["--shards", str(cache), "--run", str(tmp_path / "run"), "--config", str(recipe),
             "--set", "steps=1"]  # fmt: skip
    program = (
        f"import sys; from reed.cli.train import main; main({words}, standalone_mode=False);"
        f"print([name for name in {HEAVY.split()} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert checkpoint.steps(tmp_path / "run") == [1]
