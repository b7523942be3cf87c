"""What reed-train prints and records when it starts."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from reed import __version__
from reed.cli import cache as cli_cache
from reed.cli import train as cli_train
from reed.train import summary

WORLD = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_world.py"))))
NET = "domain.net_settings={hidden_size=32, depth=3, num_heads=2}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the cache of twelve plain images."""
    place = tmp_path_factory.mktemp("summary")
    data = WORLD.pictures(place / "photos", 12)
    words = ["build", "images", "--data", data, "--cache", place / "c", "--device", "cpu"]
    done = CliRunner().invoke(cli_cache.main, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return place


def train(place, steps, *words):
    given = ["--shards", place / "c", "--run", place / "r", "--set", f"steps={steps}", *words]
    given += ["--set", NET, "--set", "preview.every=0", "--set", "every.log=1", "--set", "batch=8"]
    done = CliRunner().invoke(cli_train.main, list(map(str, given)))
    assert done.exit_code == 0, done.output
    return done.stderr


def test_a_run_says_what_it_trains_and_where_it_resumes(place):
    first = train(place, 2)
    lines = first.splitlines()
    saved = next((place / "r").glob("step-*"))
    assert not any(line.startswith("{") for line in lines) and max(map(len, lines[:7])) < 100
    threads = torch.get_num_threads()
    assert lines[:2] == [
        f"run         {place / 'r'}, 2 steps",
        f"device      cpu, {threads} thread{'s' * (threads > 1)}, fp32",
    ]
    assert lines[3:6] == [
        "samples     12",
        "batch       8 samples; 1.5 steps per epoch",
        "align       gradients: gradients/tokens at tap 2, weight 0.5",
    ]
    # The numbers of parameters are those of the checkpoint.
    from safetensors.torch import load_file

    sizes = {"net": 0, "heads": 0}
    for name, tensor in load_file(saved / "model.safetensors").items():
        sizes["heads" if name.startswith("heads.") else "net"] += tensor.numel()
    assert lines[2] == f"parameters  {sizes['net']:,} of the net, {sizes['heads']:,} of heads"

    # The bar shows the loss of the domain and the cosine, as in the log.
    log = json.loads((place / "r" / "metrics.jsonl").read_text().splitlines()[-1])
    shown = f"diffusion {log['diffusion']:.3f}, cos/gradients {log['cos/gradients']:.3f}"
    assert shown in first

    again = train(place, 3)
    assert again.splitlines()[0].endswith(", 3 steps, resumed at step 2")
    path = place / "r" / "environment.jsonl"
    (line,) = map(json.loads, path.read_text().splitlines())  # nothing has changed
    assert line["step"] == 0 and line["device"] == "cpu" and line["precision"] == "fp32"
    assert line["versions"]["reed"] == __version__
    assert line["versions"]["torch"] == torch.__version__

    # Another version is recorded with the step at which it went on.
    line["versions"]["reed"] = "0.0.1"
    path.write_text(json.dumps(line) + "\n")
    train(place, 4)
    found = [json.loads(text) for text in path.read_text().splitlines()]
    assert [(each["step"], each["versions"]["reed"]) for each in found] == [
        (0, "0.0.1"),
        (3, __version__),
    ]


def test_a_guide_and_a_ramp_are_described(place):
    words = ("--set", 'guide.z={target="gradients/sample", read="prior", hidden=16, depth=1}')
    ramp = 'curriculum.gradients={kind="linear", start=1.0, end=0.25, ends="100%"}'
    said = train(place, 2, *words, "--set", ramp, "--run", str(place / "guided"))
    assert "align       gradients: gradients/tokens at tap 2, weight 1 to 0.25" in said
    assert "guide       z: gradients/sample, when start, read prior, enter vector" in said


def test_what_is_set_of_a_target_is_in_its_line(place):
    parts = 'align.gradients={head="conv", normalize={kind="spatial"}, token_weight=true, %s}'
    at = parts % 'release="50%"'
    said = train(place, 4, "--set", at, "--run", str(place / "parts"))
    wanted = "conv head, spatial norm 1, token weights, released at step 2"
    assert f"at tap 2, weight 0.5 to 0, {wanted}\n" in said
    parts = 'align.gradients={loss="gram", release={on="plateau", ramp="50%"}}'
    said = train(place, 4, "--set", parts, "--run", str(place / "plateau"))
    assert "at tap 2, weight 0.5, gram loss, released on a plateau (0.02)\n" in said
    assert ", gram/gradients 0." in said


def test_the_bar_shows_losses_and_cosines_alone():
    line = {"loss": 1.0, "diffusion": 0.5, "cos/a": 0.25, "lr": 1e-3, "weight/a": 0.5}
    assert summary.progress(line, ("diffusion",)) == "diffusion 0.500, cos/a 0.250"
