"""What a failed build leaves behind: without a shard, it binds no later build."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as Pillow

from reed.build.tally import Tally
from reed.cache import plan, schema
from reed.cli import cache as cli_cache

PIPELINE = """
from dataclasses import dataclass
import numpy as np
from reed.build.source import BadSample
from reed.cache.schema import Field
from reed.pipelines import Pipeline

@dataclass
class Mean:
    version: int = 1
    broken: bool = False
    reads = ("image",)
    fields = (Field("mean", "sample", (3,), "int8"),)
    licence, batch_size = "none", 4
    def revision(self): return f"v{self.version}"
    def load(self, device): pass
    def encode(self, samples):
        if self.broken:
            raise BadSample("the encoder is broken")
        return {"mean": [sample["image"].mean((0, 1)) for sample in samples]}

PHOTOS = Pipeline("image", "images", ("image",), (), 4)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with a pipeline, and two data sets."""
    (tmp_path / "photos.py").write_text(PIPELINE)
    (tmp_path / "photos.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    for name, count in (("data", 6), ("other", 3)):
        (tmp_path / name / "a").mkdir(parents=True)
        draws = np.random.default_rng(count)
        for number in range(count):
            pixels = draws.integers(0, 256, (8, 8, 3), np.uint8)
            Pillow.fromarray(pixels).save(tmp_path / name / "a" / f"{number}.png")
    yield tmp_path
    sys.modules.pop("photos", None)


def run(command, *words, data="data"):
    small = ("--set", "source.resolution=8", "--encoder", "mean=photos:Mean")
    small += ("--device", "cpu") if command == "build" else ()
    given = (command, "photos:PHOTOS", "--cache", "c", "--data", data, *small, *words)
    return CliRunner().invoke(cli_cache.main, given)


def fail(*words):
    """A build in which every sample of a column fails."""
    result = run("build", "--set", "mean.broken=true", *words)
    assert result.exit_code == 2 and "the encoder is broken" in result.output, result.output


SMALL = ("--set", "image.resolution=8")


def test_a_column_without_a_shard_is_described_anew(folder):
    done = run("build", *SMALL, "--set", "mean.version=0", "--codec", "mean/mean=float16")
    assert done.exit_code == 0  # one shard or more binds
    refused = run("build", *SMALL, "--set", "mean.version=1")
    assert (
        refused.exit_code == 2 and "was built with revision 'v0', now it is 'v1'" in refused.output
    )

    for path in (folder / "c" / "mean").glob("0*"):
        path.unlink()
    done = run("build", *SMALL, "--set", "mean.version=1")
    assert done.exit_code == 0, done.output
    column = schema.load_column(folder / "c", "mean")
    assert (column.revision, column.fields[0].codec) == ("v1", "int8")


def test_the_settings_of_a_failed_build_are_forgotten(folder):
    """`--set` of the failed attempt was remembered, and the mended encoder refused."""
    fail(*SMALL, "--codec", "mean/mean=float16")
    done = run("build", *SMALL, "--set", "mean.version=2")
    assert done.exit_code == 0, done.output
    column = schema.load_column(folder / "c", "mean")
    assert column.options == {"version": 2}
    assert (column.revision, column.fields[0].codec) == ("v2", "int8")


def test_max_failed_is_recorded_and_a_build_goes_on(folder):
    for number in (1, 2):
        (folder / "data" / "a" / f"{number}.png").write_bytes(b"")
    result = run("build", *SMALL)
    assert result.exit_code == 2
    # How many were tried depends on how far reading ahead has come.
    for said in ("2 of the", "2 the file is empty (0 bytes) (", "'a/1.png'", "'a/2.png'"):
        assert said in result.output
    for wrong in ("ten", "110%", "-1"):
        result = run("build", *SMALL, "--max-failed", wrong)
        assert result.exit_code == 2 and f"--max-failed is {wrong!r}" in result.output

    assert run("build", *SMALL, "--max-failed", "34%").exit_code == 0
    assert plan.load(folder / "c").manifest.max_failed == 0.34
    again = run("build", *SMALL, "--retry-failed")  # the plan knows
    assert again.exit_code == 0 and "of the 6 that were planned image lacks 2" in again.output
    assert run("build", *SMALL, "--max-failed", "0.5").exit_code == 0
    assert plan.load(folder / "c").manifest.max_failed == 0.5
    assert run("build", *SMALL, "--max-failed", "1%").exit_code == 0
    assert "max_failed" not in json.loads((folder / "c" / "manifest.json").read_text())


def test_a_plan_without_a_shard_is_made_anew(folder):
    """A failed build of some data blocked every later one of other data."""
    for number in range(6):
        (folder / "data" / "a" / f"{number}.png").write_bytes(b"")
    result = run("build", *SMALL)
    assert result.exit_code == 2 and plan.load(folder / "c").manifest.samples == 6, result.output
    told = run("plan", *SMALL, data="other")
    assert told.exit_code == 0 and "c: 3 samples" in told.output, told.output
    assert plan.load(folder / "c").manifest.samples == 6  # plan writes nothing
    done = run("build", *SMALL, "--flip", data="other")
    assert done.exit_code == 0, done.output
    frozen = plan.load(folder / "c")
    assert (frozen.manifest.samples, frozen.manifest.views) == (3, 2)

    # Shards bind: the first data set is refused now.
    refused = run("build", *SMALL)
    assert refused.exit_code == 2, refused.output
    assert json.loads((folder / "c" / "manifest.json").read_text())["segments"] == [3]


def test_the_share_that_is_advised_is_enough(folder):
    """--max-failed 10% was advised where a third had failed, and then refused."""
    for number in (1, 4):
        (folder / "data" / "a" / f"{number}.png").write_bytes(b"")
    said = run("build", *SMALL).stderr
    assert "2 the file is empty (" in said and "'a/1.png'" in said and "'a/4.png'" in said
    share = said.rpartition("--max-failed ")[2].strip()
    assert share == "34%"  # 2 of 6
    assert run("build", *SMALL, "--max-failed", share).exit_code == 0


def test_every_whole_percent_that_failed_is_allowed():
    """0.29 * 100 is less than 29."""
    for percent in range(1, 100):
        Tally("c", 100, 100, percent, percent / 100, {"key": "bad"}).check()


def test_a_setting_of_the_source_leaves_the_others_of_the_cache(folder):
    """It reset them to the defaults, so that the advice to give source.classes was refused."""
    assert run("build", *SMALL).exit_code == 0
    words = ("build", "photos:PHOTOS", "--cache", "c", "--data", "data", "--device", "cpu")
    done = CliRunner().invoke(cli_cache.main, [*words, "--set", 'source.classes=["a"]'])
    assert done.exit_code == 0, done.output

    # What the cache has for good is not advised to be changed.
    for given in ("source.resolution=16", "source.background=white"):
        done = CliRunner().invoke(cli_cache.main, [*words, "--set", given])
        name, _, value = given.partition("=")
        assert done.exit_code == 2 and f"c was built with {name} = " in done.stderr
        assert value in done.stderr.partition(", not ")[2], done.stderr
        assert "image.resolution" not in done.stderr
