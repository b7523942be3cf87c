"""A run stands alone: what it needs of its cache is in its own folder, written once."""

from __future__ import annotations

import json
import runpy
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed import config, open_cache
from reed.cache import reader, schema
from reed.cli import sample as cli_sample
from reed.cli import train as cli_train
from reed.errors import ReedError
from reed.sample.sampler import Sampler
from reed.train import loop, recipe
from reed.train.request import Request
from reed.train.run_data import Identity, RunData

HERE = Path(__file__).parent
TINY, MOLECULES = (
    SimpleNamespace(**runpy.run_path(str(HERE / f"tiny_{name}.py")))
    for name in ("cache", "molecules")
)


def refused(*parts, call):
    with pytest.raises(ReedError) as caught:
        call()
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)


def invoke(command, *words):
    return CliRunner().invoke(command.main, [str(word) for word in words])


@pytest.fixture(scope="module", params=["image", "molecule"])
def made(request, tmp_path_factory):
    """A run whose cache has moved since, and what was drawn from it before."""
    tiny = {"image": TINY, "molecule": MOLECULES}[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    cache, run = tiny.build(folder / "cache"), folder / "run"
    loop.train(tiny.settings(cache, run, steps=2), progress=False)
    before = draw(run)
    cache.rename(folder / "moved")
    return SimpleNamespace(kind=request.param, run=run, cache=cache, drawn=before)


def draw(run):
    sampler = Sampler.of_run(run)
    return sampler.draw(3, sampler.domain.sampling(steps=2), batch=3, progress=False)


def test_a_run_is_sampled_without_its_cache(made, tmp_path):
    for name, array in draw(made.run).items():
        np.testing.assert_array_equal(array, made.drawn[name])
    if made.kind == "molecule":  # the tiny images have four channels, which make no picture
        out = tmp_path / "drawn"
        done = invoke(cli_sample, "--run", made.run, "--num", 3, "--steps", 2, "--out", out)
        assert done.exit_code == 0 and out.with_suffix(".sdf").is_file(), done.output


def test_a_run_is_reported_and_exported_without_its_cache(made, tmp_path):
    done = invoke(cli_train, "report", made.run, "--out", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "page.html").read_text()
    data = RunData.read(made.run)
    assert f"{data.pipeline}, domain {made.kind}" in text and "(not there)" in text
    assert "cannot be looked at" not in text
    if made.kind == "image":
        done = invoke(cli_train, "export", made.run, "--out", tmp_path / "x.pt")
        assert done.exit_code == 0 and (tmp_path / "x.pt").is_file(), done.output


def test_data_json_says_what_the_cache_said(made):
    with open_cache(made.cache.with_name("moved")) as cache:
        data = config.read(made.run / "config.json")["data"]
        found = RunData.read(made.run)
        assert found.identity.samples == cache.manifest.samples and found.identity.keys
        assert replace(found, identity=Identity()) == RunData.of_cache(cache, data)
        assert found.samples == cache.manifest.samples and found.domain == made.kind
        for role, place in data.items():
            column, field = cache.column_and_field(place)
            assert found.fields[role] == field and found.columns[column.name] == column
        if made.kind == "molecule":
            sizes = Counter(len(atoms) for _, atoms in cache.records("molecule/atoms"))
            assert found.lengths == {str(size): count for size, count in sizes.items()}
            assert Sampler.of_run(made.run).domain.sizes == tuple(sorted(sizes.elements()))
        else:
            assert found.lengths == {}


def test_an_older_run_asks_its_cache(made, tmp_path):
    older = shutil.copytree(made.run, tmp_path / "older")
    (older / "data.json").unlink()
    refused(f"no cache at {made.cache} (no manifest.json)", call=lambda: Sampler.of_run(older))
    made.cache.with_name("moved").rename(made.cache)
    try:
        for name, array in draw(older).items():
            np.testing.assert_array_equal(array, made.drawn[name])
        assert not (older / "data.json").exists()  # sampling writes nothing into a run
    finally:
        made.cache.rename(made.cache.with_name("moved"))


def test_data_json_is_written_once_and_must_go_on_fitting(tmp_path):
    cache, run = TINY.build(tmp_path / "cache"), tmp_path / "run"
    loop.train(TINY.settings(cache, run, steps=1), progress=False)
    first = (run / "data.json").read_bytes()
    loop.train(TINY.settings(cache, run, steps=2), progress=False)
    assert (run / "data.json").read_bytes() == first

    # stored otherwise, a field is the same to the net; scaled otherwise, it is not
    other = RunData.read(run)
    table = json.loads(first)
    table["fields"]["x"]["codec"] = "float16"
    (run / "data.json").write_text(json.dumps(table))
    other.write(run)
    table["fields"]["x"]["scale"] = [0.5]
    (run / "data.json").write_text(json.dumps(table))
    refused(
        f"{run} was trained on fields.x.scale = [0.5], the cache now has [0.25]",
        "another --run",
        call=lambda: loop.train(TINY.settings(cache, run, steps=3), progress=False),
    )


def test_a_run_goes_on_with_its_cache_alone(tmp_path, edit_json, monkeypatch):
    """Another data set under the same recipe "resumed" the run, and rewrote its config.json."""
    cache, run = TINY.build(tmp_path / "cache"), tmp_path / "run"
    loop.train(TINY.settings(cache, run, steps=1), progress=False)
    moved = cache.rename(tmp_path / "moved")
    assert loop.train(TINY.settings(moved, run, steps=2), progress=False) == 2
    before = {name: (run / name).read_bytes() for name in ("config.json", "data.json")}

    # The run alone looks where the cache was; the advice for that is followed.
    again = moved.rename(tmp_path / "again")
    with pytest.raises(ReedError, match=f"{run} was trained from {moved}, which is not there"):
        Request(run=run).table()
    assert Request(run=run, assignments=(f"shards={again}",)).table()["shards"] == str(again)
    again.rename(moved)

    other = shutil.copytree(moved, tmp_path / "other")
    edit_json(other / "pixels" / "column.json", revision="2")
    monkeypatch.setitem(TINY.build.__globals__, "SAMPLES", 48)
    fewer = TINY.build(tmp_path / "fewer")
    differing = {other: "revisions.pixels = '1', now '2'", fewer: "samples = 64, now 48"}
    for place, told in differing.items():
        settings = TINY.settings(place, run, steps=3)
        says = f"{run} was trained from another cache: {told}"
        refused(says, "choose another --run", call=lambda s=settings: loop.train(s, progress=False))
    assert before == {name: (run / name).read_bytes() for name in before}

    # A run of an earlier version has no identity: it goes on, and gets one.
    table = json.loads(before["data.json"])
    identity = table.pop("identity")
    (run / "data.json").write_text(json.dumps(table))
    assert loop.train(TINY.settings(moved, run, steps=3), progress=False) == 3
    assert config.plain(RunData.read(run).identity) == identity


def test_the_default_run_is_named_after_the_folder_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    TINY.build(Path("cache/digits-flip"))
    tiny = ("--set", "domain.classes=4", "--set", "domain.net_settings.patch_size=2")

    def run(*words):
        done = invoke(cli_train, "--shards", "cache/digits-flip", *tiny, *words, "--dry-run")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["run"]

    assert run() == "runs/digits-flip"
    assert run("--variant", "sit") == "runs/digits-flip-sit"
    assert run("--run", "mine") == "mine"
    Path("runs/digits").mkdir(parents=True)  # an earlier version named runs after the pipeline
    Path("runs/digits/config.json").write_text('{"shards": "cache/digits"}')
    assert run() == "runs/digits-flip"
    Path("runs/digits/config.json").write_text('{"shards": "cache/digits-flip"}')
    assert run() == "runs/digits"


def test_a_run_keeps_the_names_of_the_classes(tmp_path):
    cache = open_cache(TINY.build(tmp_path / "cache"))
    assert cache.classes == () and RunData.of_cache(cache, TINY.TABLE["data"]).classes == ()
    cache.manifest = SimpleNamespace(
        **vars(cache.manifest) | {"samples": 64, "classes": ["a", "b"]}
    )
    RunData.of_cache(cache, TINY.TABLE["data"]).write(tmp_path / "run")
    assert RunData.read(tmp_path / "run").classes == ("a", "b")


def test_a_damaged_data_json_is_named(tmp_path):
    (tmp_path / "data.json").write_text("{")
    refused(f"cannot read {tmp_path}/data.json", call=lambda: RunData.read(tmp_path))
    (tmp_path / "data.json").write_text('{"domain": "image"}')
    refused("data.json", call=lambda: RunData.read(tmp_path))


def test_a_domain_that_asks_for_lengths_needs_some_that_differ(tmp_path, monkeypatch):
    cache = open_cache(MOLECULES.build(tmp_path / "cache"))
    monkeypatch.setattr(type(cache.join(["molecule/atoms"])), "lengths", None)
    data = MOLECULES.TABLE["data"]
    refused("are all of one length", "molecule/coords", call=lambda: RunData.of_cache(cache, data))


@pytest.mark.parametrize("tiny", [TINY, MOLECULES], ids=["image", "molecule"])
def test_a_check_parses_every_file_of_the_cache_once(tiny, tmp_path, monkeypatch):
    settings = tiny.settings(tiny.build(tmp_path / "cache"), tmp_path / "run")
    columns, markers, states = Counter(), Counter(), Counter()

    def counted(module, name, count):
        original = getattr(module, name)

        def call(cache, column, *rest, **more):
            count[getattr(column, "name", column), *rest] += 1
            return original(cache, column, *rest, **more)

        monkeypatch.setattr(module, name, call)

    counted(schema, "load_column", columns)
    counted(schema, "load_marker", markers)
    counted(reader, "load_state", states)
    recipe.check(settings)
    with open_cache(settings.shards) as cache:
        shards = cache.plan.shards
    named = {place.partition("/")[0] for place in settings.data.values()}
    named |= {each.target.partition("/")[0] for each in settings.align.values()}
    assert {name for (name,) in columns} == {name for (name,) in states} == named
    assert {*columns.values(), *markers.values(), *states.values()} == {1}
    assert len(markers) == shards * len(named)


def test_the_check_makes_the_net_the_usual_way_again(tmp_path):
    """First weights are not drawn in the check; nothing of that may be left over after it."""
    settings = TINY.settings(TINY.build(tmp_path / "cache"), tmp_path / "run")
    setup = recipe.check(settings)
    first, _ = loop.untrained(setup)
    fresh, _ = loop.untrained(recipe.check(settings))
    for name, value in first.state_dict().items():
        assert value.device.type == "cpu" and np.array_equal(value, fresh.state_dict()[name]), name
    assert any(float(value.std()) > 0 for value in first.state_dict().values() if value.dim() > 1)
