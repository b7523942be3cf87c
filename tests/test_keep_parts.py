"""reed-sample keeps the drawn parts for more samples and more files, or removes them at the end."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed.cli.sample import main
from reed.sample.sampler import Sampler

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache = TINY.cache  # a fixture


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    return TINY.trained(TINY.settings(cache, tmp_path_factory.mktemp("run") / "run", steps=1))


@pytest.fixture
def drawn(monkeypatch):
    """The numbers of the batches that were drawn."""
    numbers, batch = [], Sampler.batch

    def spied(sampler, number, *more):
        numbers.append(number)
        return batch(sampler, number, *more)

    monkeypatch.setattr(Sampler, "batch", spied)
    return numbers


def draw(run, out, *words):
    where = ("--run", run, "--out", out, "--steps", 1, "--batch", 4, "--device", "cpu")
    done = CliRunner().invoke(main, [str(word) for word in (*where, *words)])
    assert done.exit_code == 0, done.output
    with np.load(f"{out}.npz") as arrays:
        return arrays["arr_0"]


def test_parts_are_kept_unless_they_are_not_wanted(run, tmp_path, drawn):
    kept = draw(run, tmp_path / "kept", "--num", 8)
    named = draw(run, tmp_path / "named", "--num", 8, "--keep-parts")
    gone = draw(run, tmp_path / "gone", "--num", 8, "--no-keep-parts")
    assert np.array_equal(kept, named) and np.array_equal(kept, gone)
    assert (tmp_path / "kept.parts").is_dir() and (tmp_path / "named.parts").is_dir()
    left = sorted(path.name for path in tmp_path.glob("gone*"))
    assert left == ["gone.json", "gone.npz", "gone.png"]

    # Nothing is drawn again for a finished set; more samples begin anew without the parts.
    del drawn[:]
    assert np.array_equal(draw(run, tmp_path / "gone", "--num", 8), gone) and drawn == []
    more = draw(run, tmp_path / "kept", "--num", 12)
    assert drawn == [2]
    again = draw(run, tmp_path / "gone", "--num", 12, "--no-keep-parts")
    assert drawn == [2, 0, 1, 2] and np.array_equal(again, more)
    assert not (tmp_path / "gone.parts").exists()


def test_an_unfinished_set_keeps_its_parts(run, tmp_path):
    for share in ("0/2", "1/2"):
        words = ("--num", 8, "--no-keep-parts", "--array", share)
        where = ("--run", run, "--out", tmp_path / "s", "--steps", 1, "--batch", 4)
        done = CliRunner().invoke(main, [str(word) for word in (*where, *words)])
        assert done.exit_code == 0, done.output
        assert (tmp_path / "s.parts").is_dir() == (share == "0/2")
    assert (tmp_path / "s.npz").is_file()
