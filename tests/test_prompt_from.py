"""reed-sample --prompt-from: representations of cached samples in place of drawn ones."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed import open_cache
from reed.cli.sample import main
from reed.guides import bank
from reed.guides.steer import Steer

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache = TINY.cache  # a fixture
TEXT = "caption-ngrams/embedding"
GUIDE = {"text": {"target": TEXT, "norm": "sample", "hidden": 8, "depth": 1}}


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return TINY.trained(TINY.settings(cache, folder / "run", steps=1, guide=GUIDE))


def draw(run, *words):
    where = ("--run", run, "--steps", 2, "--device", "cpu", "--batch", 4)
    done = CliRunner().invoke(main, [str(word) for word in (*where, *words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def normed(row):
    return (row - row.mean()) / np.sqrt(row.var() + 1e-5)


def test_samples_get_the_rows_of_their_keys_in_turn(run, cache, tmp_path):
    keys = [word for key in ("s07", "s02") for word in ("--prompt-from", key)]
    code, said = draw(run, "--num", 4, *keys, "--out", tmp_path / "p")
    assert code == 0, said
    with open_cache(cache) as opened:
        dataset = opened.dataset([TEXT])
        numbers = map(dataset.keys.index, ("s07", "s02"))
        rows = [normed(dataset[number][TEXT].numpy()) for number in numbers]
    with np.load(tmp_path / "p.npz") as arrays:
        np.testing.assert_allclose(arrays["z/text"], np.stack(rows * 2), rtol=0, atol=1e-4)
    assert json.loads((tmp_path / "p.json").read_text())["z"]["prompt"] == ["s07", "s02"]

    # Other samples are never mixed with them, and the name of the files says how they were drawn.
    code, said = draw(run, "--num", 4, "--prompt-from", "s07", "--out", tmp_path / "p")
    assert code == 2 and "was drawn with z.prompt = ['s07', 's02'], now it is ['s07']" in said
    code, said = draw(run, "--num", 1, "--batch", 1, "--prompt-from", "s07")
    assert code == 0 and list(run.glob("samples/*-from-s07-fp32.npz")), said


def test_a_set_of_before_prompts_came_is_added_to(run, tmp_path):
    code, said = draw(run, "--num", 4, "--out", tmp_path / "p")
    assert code == 0, said
    table = json.loads((tmp_path / "p.json").read_text())
    assert table["z"].pop("prompt") == []
    (tmp_path / "p.json").write_text(json.dumps(table))
    code, said = draw(run, "--num", 8, "--out", tmp_path / "p")
    assert code == 0, said


def test_what_cannot_prompt_is_refused_in_one_line(run, cache, tmp_path, monkeypatch):
    plain = TINY.trained(TINY.settings(cache, tmp_path / "plain", steps=1))
    gone = TINY.trained(
        TINY.settings(shutil.copytree(cache, tmp_path / "c"), tmp_path / "g", steps=1, guide=GUIDE)
    )
    shutil.rmtree(tmp_path / "c")
    for where, words, parts in (
        (plain, ("s07",), ["prompt-from", "no guides", "leave it out"]),
        (run, ("s7",), ["--prompt-from 's7'", TEXT, str(cache), "Did you mean 's"]),
        (
            run,
            ("s07", "--guide-replace"),
            ["guide-replace", "prompt-from", "leave one of them out"],
        ),
        (gone, ("s07",), [f"no cache at {tmp_path / 'c'}", "put it back"]),
    ):
        code, said = draw(where, "--out", tmp_path / "o", "--num", 4, "--prompt-from", *words)
        assert code == 2 and len(said.splitlines()) == 1, said
        assert all(part in said for part in parts), said
    assert not list(tmp_path.glob("o.*"))
    monkeypatch.setattr(bank, "COMPARED", 10)  # the nearest of a million keys takes minutes
    code, said = draw(run, "--out", tmp_path / "o", "--num", 4, "--prompt-from", "s7")
    assert code == 2 and "A key is, say, 's" in said


def test_keys_make_names_that_a_file_can_have():
    assert Steer(prompt=("s07", "s02")).name == "from-s07+s02"
    names = [
        Steer(prompt=(key,)).name for key in ("n01/a.png", "n01_a.png", "n01:a.png", "x" * 300)
    ]
    assert len(set(names)) == 4 and all("/" not in name and len(name) < 60 for name in names)
    assert names[1] == "from-n01_a.png"
