"""Several averages of a run: trained, saved, resumed, chosen, sampled, exported."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from reed.bytes import human
from reed.cli import completion, scored
from reed.cli import evaluate as cli_evaluate
from reed.cli import sample as cli_sample
from reed.cli import train as cli_train
from reed.errors import ReedError
from reed.evaluate.record import Record
from reed.train import averages, checkpoint, dry_run, public
from reed.train.recipe import check

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make  # fixtures
same, trained = TINY.same, TINY.trained
THREE = [0.9, 0.5, "sigma_rel=0.10"]
NAMES = ["0.9", "0.5", "sigma_rel=0.1"]


def everything(run, step=None):
    return checkpoint.load(run, step, averages=NAMES[1:])


def equal(ours, theirs):
    """Two checkpoints are equal bit for bit, with all averages."""
    same(ours, theirs)
    for name, state in theirs.averages.items():
        assert all(torch.equal(ours.averages[name][key], value) for key, value in state.items())


def test_several_averages_are_those_of_runs_with_one(make):
    """The first is the average of an old recipe, and training is the same bit for bit."""
    several = trained(make("several", steps=6, ema=THREE))
    saved = everything(several)
    for name, over in {
        "0.9": {},  # ema_decay of the tiny recipe
        "0.5": {"ema_decay": 0.5},
        "sigma_rel=0.1": {"ema_sigma_rel": 0.1},
    }.items():
        alone = checkpoint.load(trained(make(f"alone-{name}", steps=6, **over)))
        state = saved.averages.get(name, saved.ema)
        assert all(torch.equal(state[key], value) for key, value in alone.ema.items()), name
        same(saved, alone, ("model", "optim"))
    assert sorted(path.name for path in (several / "step-0000006").iterdir()) == [
        "ema.0.5.safetensors",
        "ema.safetensors",
        "ema.sigma_rel=0.1.safetensors",
        "model.safetensors",
        "optim.safetensors",
        "state.json",
    ]


def test_several_averages_go_on_as_if_never_stopped(make):
    whole = trained(make("whole", steps=8, ema=THREE, every={"save": 4}))
    split = trained(make("split", steps=4, ema=THREE))
    equal(everything(split), everything(whole, 4))
    trained(make("split", steps=8, ema=THREE))
    equal(everything(split), everything(whole))


def test_averages_of_every_third_step(make):
    """Training is the same, an average is what it was at the last multiple, and runs resume."""
    over = {"ema": THREE, "every": {"average": 3, "save": 4}}
    whole, plain = trained(make("whole", steps=8, **over)), trained(make("plain", steps=8))
    same(checkpoint.load(whole), checkpoint.load(plain), ("model", "optim"))
    every = trained(make("every", steps=3, every={"save": 1}))
    trained(make("split", steps=4, **over))
    equal(everything(trained(make("split", steps=8, **over))), everything(whole))
    # the power-function average of the first update is the net itself
    at = everything(whole, 4).averages["sigma_rel=0.1"]
    third = checkpoint.load(every, 3).model
    assert all(torch.equal(value, third[f"net.{name}"]) for name, value in at.items())


def test_a_run_with_other_averages_is_another_run(make):
    run = trained(make(steps=2, ema=THREE)).name
    with pytest.raises(ReedError, match=r"was trained with ema = \[0.9, 0.5, .*now it is \[0.9\]"):
        trained(make(run, steps=2, ema=[0.9]))


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"ema": [0.9, 0.90]}, r"ema is \[0.9, 0.9\], which has 0.9 twice; remove one"),
        ({"ema": [0.9, "0.9"]}, r"has 0.9 twice"),
        ({"ema": [1.0]}, r"ema: decay is 1.0, it must be at least 0 and below 1"),
        ({"ema": ["sigma_rel=0.4"]}, r"ema: sigma_rel is 0.4, .*above 0 and at most 0.2887"),
        ({"ema": ["sigma_rel=x"]}, r"ema: 'sigma_rel=x' is no average; give a decay such as"),
        ({"ema": ["wide"]}, r"ema: 'wide' is no average; .* or a width such as \"sigma_rel=0.05\""),
        ({"ema": [True]}, r"ema\[0\] cannot be True"),
        ({"ema": 0.9}, r"ema must be a list, got 0.9"),
        ({"every": {"average": 0}}, r"every.average is 0, it must be at least 1"),
        ({"every": {"snapshot": -2}}, r"every.snapshot is -2, it must be at least 0"),
        ({"every": {"log": -1}}, r"every.log is -1, it must be at least 0"),
        (
            {"every": {"average": 4, "snapshot": 6}},
            r"every.snapshot is 6 and every.average 4; .* so make it a multiple",
        ),
        (
            {"ema": [0.9], "ema_sigma_rel": 0.1},
            r"ema is \[0.9\] and ema_sigma_rel is 0.1, .*add \"sigma_rel=0.1\" to ema and leave",
        ),
    ],
)
def test_bad_averages(make, over, message):
    with pytest.raises(ReedError, match=message):
        make(**over)


def test_an_average_is_chosen_by_name(make, tmp_path):
    settings = make(ema=THREE)
    folder = tmp_path / "run" / "step-0000007"
    for name in ("ema", "ema.0.5", "ema.sigma_rel=0.1", "ema.sigma_rel=0.07", "model"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.safetensors").write_bytes(b"")
    own = settings.averages()
    assert list(own) == NAMES
    # what was reconstructed comes after those of the recipe
    assert list(averages.stored(folder, own)) == [*NAMES, "sigma_rel=0.07"]
    for wanted, name, file in (
        ("", "0.9", "ema"),
        ("0.9", "0.9", "ema"),
        ("0.500", "0.5", "ema.0.5"),
        ("sigma_rel=0.10", "sigma_rel=0.1", "ema.sigma_rel=0.1"),
    ):
        found = averages.chosen(settings.run, None, own, wanted)
        assert (found.name, found.file) == (name, folder / f"{file}.safetensors")
        assert found.is_first == (file == "ema")
    with pytest.raises(ReedError, match=r"0000007 has no average 0.99; it has 0.9, 0.5, sigma_rel"):
        averages.chosen(settings.run, 7, own, "0.99")
    with pytest.raises(
        ReedError, match=r"or make it with reed-train average .*run --sigma-rel 0.2$"
    ):
        averages.chosen(settings.run, 7, own, "sigma_rel=0.2")
    with pytest.raises(ReedError, match=r"--ema: 'best' is no average"):
        averages.chosen(settings.run, 7, own, "best")
    # an old recipe has one, with a name
    assert list(make(ema_decay=0.999).averages()) == ["0.999"]
    assert list(make(ema_sigma_rel=0.05).averages()) == ["sigma_rel=0.05"]


# ---- what is drawn from an average, and exported


@pytest.fixture(scope="module")
def several(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "several"
    return trained(TINY.settings(cache, folder, steps=3, ema=THREE))


@pytest.fixture(scope="module")
def alone(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "alone"
    return trained(TINY.settings(cache, folder, steps=3, ema_decay=0.5))


def call(command, *words):
    found = CliRunner().invoke(command.main, [str(word) for word in words])
    return found.exit_code, found.output


DRAW = ("--num", 4, "--steps", 2)


def test_samples_of_averages_are_sets_of_their_own(several, alone, tmp_path):
    code, said = call(cli_sample, several, "--ema", "all", *DRAW)
    assert code == 0, said
    samples = several / "samples"
    ways = {name: "" if name == "0.9" else f"-ema-{name}" for name in NAMES}
    drawn = {name: samples / f"step-0000003{way}-euler2-fp32" for name, way in ways.items()}
    for name, out in drawn.items():
        assert json.loads(Path(f"{out}.json").read_text())["ema"] == name
    images = {name: np.load(f"{out}.npz")["arr_0"] for name, out in drawn.items()}
    assert not np.array_equal(images["0.9"], images["0.5"])
    # they are those of the run with that average alone, whose recipe has no name
    code, said = call(cli_sample, alone, *DRAW)
    assert code == 0, said
    out = alone / "samples" / "step-0000003-euler2-fp32"
    assert json.loads(out.with_name(f"{out.name}.json").read_text())["ema"] is True
    assert np.array_equal(np.load(f"{out}.npz")["arr_0"], images["0.5"])
    # the first is meant where none is named, and it may be named
    before = sorted(samples.iterdir())
    for words in ([], ["--ema"], ["--ema", "0.90"]):
        assert call(cli_sample, "--run", several, *DRAW, *words)[0] == 0
    assert sorted(samples.iterdir()) == before


def test_samples_of_two_averages_never_mix(several, tmp_path):
    out = tmp_path / "s"
    words = (several, "--out", out, *DRAW)
    assert call(cli_sample, *words, "--ema", "0.5")[0] == 0
    code, said = call(cli_sample, *words)
    assert code == 2 and f"{out} was drawn with ema = '0.5', now it is '0.9'; choose" in said
    code, said = call(cli_sample, *words, "--no-ema")
    assert code == 2 and "was drawn with ema = '0.5', now it is False" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ema", "0.99"], "step-0000003 has no average 0.99; it has 0.9, 0.5, sigma_rel=0.1"),
        (["--ema", "best"], "--ema: 'best' is no average; give a decay such as 0.999"),
        (["--ema", "0.5", "--no-ema"], "--no-ema takes the last weights and --ema 0.5 an average"),
    ],
)
def test_averages_that_there_are_not(several, tmp_path, words, message):
    code, said = call(cli_sample, several, *words)
    assert code == 2 and message in said, said
    code, said = call(cli_train, "export", several, "--out", tmp_path / "x.pt", *words)
    assert code == 2 and message in said, said


def test_an_average_belongs_to_a_run(several, tmp_path):
    file = tmp_path / "x.pt"
    code, said = call(cli_train, "export", several, "--out", file)
    assert code == 0, said
    code, said = call(cli_sample, "--checkpoint", file, "--ema", "0.5")
    assert code == 2 and f"--ema 0.5 names an average of a run, and {file} has one" in said


def test_an_average_is_exported(several, tmp_path):
    saved = everything(several)
    for words, state in (([], saved.ema), (["--ema", "0.5"], saved.averages["0.5"])):
        for ending in (".pt", ".safetensors"):
            out = tmp_path / f"{len(words)}{ending}"
            assert call(cli_train, "export", several, "--out", out, *words)[0] == 0
            found = public.read(out).net
            assert all(torch.equal(found[key], value) for key, value in state.items())


def test_the_names_of_averages_are_completed(several, alone, tmp_path):
    assert list(completion.averages(several)) == NAMES
    assert list(completion.averages(alone)) == ["0.5"]
    (tmp_path / "config.json").write_text('{"ema_sigma_rel": 0.10, "ema": []}')
    assert list(completion.averages(tmp_path)) == ["sigma_rel=0.1"]  # without a checkpoint yet


def test_samples_of_all_averages_are_measured_in_one_call(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 30, 8, 8, 3), np.uint8)
    places = [tmp_path / f"s-ema-{name}.npz" for name in NAMES]
    for name, place, drawn in zip(NAMES, places, images, strict=True):
        np.savez(place, arr_0=drawn)
        table = {"num": 30, "kind": "image", "ema": name}
        place.with_name(f"{place.stem}.json").write_text(json.dumps(table))
    measure = ("--reference", places[0], "--metrics", "fd", "--features", "random-conv")
    code, said = call(cli_evaluate, *places, places[0], *measure)
    assert code == 0, said

    # a line for each set, and a record beside it that says which average it is of
    rows = [line.split() for line in said.splitlines() if line.startswith(("samples ", "s-ema-"))]
    records = [Record.read(place.with_name(f"{place.stem}.eval.json")) for place in places]
    assert [record.recipe["ema"] for record in records] == NAMES
    (metric,) = records[0].metrics
    values = [record.metrics[metric]["value"] for record in records]
    assert [row for row in rows if len(row) == 2] == [
        ["samples", metric],
        *([place.stem, f"{value:.4f}"] for place, value in zip(places, values, strict=True)),
    ]
    assert values[0] < 1e-3 < values[1]  # the reference, and another average

    # --run is one of SAMPLES, and --ema is for runs
    code, said = call(cli_evaluate, places[0], "--run", places[0], *measure)
    assert code == 0 and f"30 images of {places[0]} against" in said
    code, said = call(cli_evaluate, places[0], "--ema", "0.5", *measure)
    assert code == 2 and f"--ema 0.5 names an average of a run, and {places[0]} holds" in said
    code, said = call(cli_evaluate, *measure)
    assert code == 2 and "Missing argument 'SAMPLES'." in said


def test_sets_of_one_name_are_told_apart_by_their_folders(tmp_path):
    places = [tmp_path / name / "s.npz" for name in "ab"]
    for place in places:
        place.parent.mkdir()
        place.write_bytes(b"")
    measured = [scored.Measured(place) for place in places]
    metrics = [{"fid": {"value": 12.5}}, {"is": {"value": 3.0}}]
    lines = scored.table(measured, metrics).splitlines()
    assert [line.split() for line in lines] == [
        ["samples", "fid", "is"],
        [f"{tmp_path}/a/s", "12.5000", "-"],
        [f"{tmp_path}/b/s", "-", "3.0000"],
    ]


def test_a_dry_run_says_what_checkpoints_take(several, cache, tmp_path, monkeypatch):
    """The sizes of the tensors of a run with as many averages, but for the counters of AdamW."""
    over = {"keep": 2, "every": {"save": 2, "keep": 4, "snapshot": 3}}
    over["ema"] = [0.9, "sigma_rel=0.05", "sigma_rel=0.1"]
    settings = TINY.settings(cache, tmp_path / "new" / "run", steps=9, **over)
    saved = everything(several)
    moments = {name: value for name, value in saved.optim.items() if not name.startswith("step/")}
    sizes = [
        sum(value.numel() * value.element_size() for value in state.values())
        for state in (saved.model, moments, saved.ema)
    ]
    whole, average = sizes[0] + sizes[1] + 3 * sizes[2], sizes[2]
    # checkpoints 8, 9 and 4; snapshots 3, 6 and 9 of two averages
    total = 3 * whole + 3 * 2 * average
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=total + 10**9))
    assert dry_run.disk(check(settings)) == (
        f"disk: 3 checkpoints of {human(whole)}, 3 snapshots of {human(2 * average)}, "
        f"{human(total)} in all, {human(total + 10**9)} free; each of 3 averages takes "
        f"{human(average)} of a checkpoint"
    )
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1000))
    end = f"{human(average)} of a checkpoint; make room, or lower keep"
    assert dry_run.disk(check(settings)).endswith(f" 1.0 kB free; each of 3 averages takes {end}")
    assert not settings.run.parent.exists()
    # a run with one average keeps all of its checkpoints
    said = dry_run.disk(check(TINY.settings(cache, tmp_path / "old", every={"save": 5})))
    assert said.startswith("disk: 4 checkpoints of ") and "each of 1 average takes" in said
