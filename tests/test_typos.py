"""What is mistyped is told before torch is imported; a bug in a user's own code is one line."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed import config
from reed.cache import classes
from reed.cli import cache as cli_cache
from reed.cli import evaluate as cli_evaluate
from reed.cli import sample as cli_sample
from reed.cli import train as cli_train
from reed.cli import typos
from reed.errors import ReedError
from reed.guides.settings import GuideConfig
from reed.metrics import FEATURES
from reed.train import settings as train_settings
from reed.train.align import AlignConfig

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
PROGRAM = """
import importlib, sys
main = importlib.import_module(f"reed.cli.{sys.argv[1]}").main
try: main(sys.argv[2:])
finally: print("torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder that looks like a run on images to what needs no torch."""
    run = tmp_path_factory.mktemp("typos") / "run"
    (run / "step-0000001").mkdir(parents=True)
    (run / "data.json").write_text('{"domain": "image", "classes": ["ant", "bee"]}')
    (run / "config.json").write_text('{"domain": {"classes": 2}}')
    return run


WRONG = [
    (
        "sample --run RUN --labels animals",
        "labels is 'animals', it must be one of balanced, ",
    ),
    ("sample RUN --set labels=animals", "labels is 'animals'"),
    ("sample RUN --set nosuch=1", "samples of kind 'image' have no option 'nosuch'. Available: "),
    ("sample RUN --order puritan", "order is 'puritan', it must be one of purity, random"),
    ("sample RUN --label ant --label wasp", "--label 'wasp' is no class: numbers go from 0 to 1."),
    ("sample RUN --label 2", "--label '2' is no class: numbers go from 0 to 1."),
    ("sample RUN --prompt-from x --prompt-from y", "prompt-from is 'x', and this net has no guid"),
    ("sample --num 3 --seed 1 runs/nowhere", "runs/nowhere has no checkpoint yet; train it"),
    ("train --shards cache/nowhere", "no cache at cache/nowhere"),
    ("train --shards CACHE --set nosuch=1", "unknown setting 'nosuch'. Available: "),
    ("train --shards CACHE --set optim.rate=1", "unknown setting 'optim.rate'. Available: betas"),
    ("train --shards CACHE --set seed=one", "seed must be int, got str 'one'"),
    ("train --shards CACHE --set align.digits-vit.tip=1", "unknown setting 'align.digits-vit.tip'"),
    ("train --shards CACHE --sweep guide.z.reed=bank,joint", "unknown setting 'guide.z.reed'"),
    ("train --shards CACHE --sweep optim.lr=1e-4,2e-4,x", "optim.lr must be float, got str 'x'"),
    ("train --shards CACHE --sweep variant=none,siit", "no variant 'siit'. Did you mean 'sit'?"),
    ("evaluate nowhere.npz --reference RUN", "cannot read samples from nowhere.npz: there is"),
    ("evaluate RUN --reference RUN --metrics fd,fit", "unknown metric 'fit'. Did you mean 'fid'?"),
    ("evaluate RUN --reference RUN --features incep", "unknown feature space 'incep'. Did you"),
    ("evaluate RUN --reference RUN --precision fp8", "precision is 'fp8', it must be one of fp32"),
    ("evaluate RUN --reference nowhere", "cannot read the reference from nowhere: there is"),
    ("cache build digits --set nosuch=1", "--set nosuch=… does not name a column"),
    ("cache build digits --set digits-vit.nosuch=1", "nosuch"),
    ("cache build imagenet --data nowhere", "there is nothing at nowhere"),
    ("cache build digits --encoder digit-vit", "Did you mean 'digits-vit'?"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[words for words, _ in WRONG])
def test_a_typo_is_told_before_torch_is_imported(run, tmp_path, words, said):
    cache = tmp_path / "cache"
    cache.mkdir()
    from reed.cache import plan, schema

    plan.freeze(cache, {"a": "1"}, pipeline="digits", domain="image", source="digits", shard_size=4)
    assert schema.load_manifest(cache).pipeline == "digits"
    words = words.replace("RUN", str(run)).replace("CACHE", str(cache)).split()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2 and done.stdout.splitlines()[-1] == "False", done
    *_, line = done.stderr.splitlines()
    assert line.startswith("Error: ") and said in line


@pytest.mark.parametrize(
    "words", ["evaluate x.npz --reference x.npz --metricz fd", "sample --metricz 3 RUN"]
)
def test_an_option_that_there_is_not_is_no_path(run, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npz").touch()
    name, *rest = words.replace("RUN", str(run)).split()
    main = {"evaluate": cli_evaluate, "sample": cli_sample}[name].main
    found = CliRunner().invoke(main, rest)
    assert found.exit_code == 2 and "No such option '--metricz'" in found.stderr, found.output


def test_the_names_that_need_no_torch_are_those_of_the_dataclasses():
    """Add a new option of a domain or of an output, or a setting of a recipe, to reed.cli.typos."""
    kinds = cli_sample._kinds().values()
    options = {o.flag: (o, cls) for each in kinds for cls in each for o in config.options(cls)}
    fields = {field.name for each in kinds for cls in each for field in config.settable(cls)}
    assert typos.SAMPLE.keys() == options.keys()
    assert {*typos.SAMPLE, *typos.MORE_FIELDS} - {*typos.NOT_SET} == fields
    for flag, (option, cls) in options.items():
        assert (option.kind is bool) == (flag in typos.SWITCHES)
        assert (len(option.places) == 2) == (flag in typos.PAIRS)
        assert option.choices == typos.SAMPLE[flag] and option.hidden == (flag in typos.HIDDEN)
        assert option.several == (flag in typos.SEVERAL)
        for value in typos.SAMPLE[flag]:
            config.build(cls, {flag: value})
        if typos.SAMPLE[flag]:
            with pytest.raises(ReedError, match="must be one of"):
                config.build(cls, {flag: "animals"})

    tables = {
        "": train_settings.TrainConfig,
        "optim": train_settings.OptimConfig,
        "every": train_settings.EveryConfig,
        "preview": train_settings.PreviewConfig,
        "loader": train_settings.LoaderConfig,
    }
    for name, cls in tables.items():
        assert set(typos.RECIPE[name]) == {field.name for field in config.settable(cls)}
    for name, cls in {"align": AlignConfig, "guide": GuideConfig}.items():
        assert set(typos.ENTRIES[name]) == {field.name for field in config.settable(cls)}
    plain = {
        f"{table}.{field.name}".removeprefix("."): field.type
        for table, cls in tables.items()
        for field in config.settable(cls)
        if field.type in ("int", "float", "str")
    }
    assert {name: kind.__name__ for name, kind in typos.TYPES.items()} == plain
    kinds = cli_evaluate._kinds().values()
    flags = {option.flag for each in kinds for cls in each for option in config.options(cls)}
    assert flags == typos.EVALUATION.keys()
    options = {o.flag: o for each in kinds for cls in each for o in config.options(cls)}
    spaces = {"features": tuple(FEATURES.names())}  # others can be installed, so it takes any
    assert {f: o.choices for f, o in options.items()} | spaces == typos.EVALUATION


# ---- a bug in a user's own encoder

MINE = """import numpy as np
from reed.cache.schema import Field

class Mine:
    reads = ("pixels",)
    fields = (Field("x", "sample", (1,)),)
    licence, batch_size = "none", 16
    def revision(self): return "1"
    def load(self, device): pass
    def encode(self, samples):
        return {"x": [np.full(1, 1 // int(s["pixels"].sum() != WRONG)) for s in samples]}

class Unloaded(Mine):
    def load(self, device): {}["weights"]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


def build(*words):
    words = ("build", "digits", "--cache", "c", "--device", "cpu", *words)
    return CliRunner().invoke(cli_cache.main, words)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_bug_in_an_encoder_is_one_line_with_column_key_and_place(folder, workers):
    from reed.sources.toy.digits import Digits

    source = Digits()
    key = sorted(source.listing())[7]
    total = int(np.asarray(source.read(key)["pixels"]).sum())
    (folder / "mine.py").write_text(MINE.replace("WRONG", str(total)))
    words = ("--encoder", "own=mine:Mine", "--workers", workers)
    result = build(*words)
    assert result.exit_code == 2, result.output
    *_, line = result.stderr.strip().splitlines()
    found = line.partition("key '")[2].partition("'")[0]
    assert int(np.asarray(source.read(found)["pixels"]).sum()) == total  # the sample at fault
    assert line.startswith(f"Error: column 'own', key {found!r}, mine.py:11: ZeroDivisionError: ")
    assert line.endswith("by zero (--traceback shows the rest)")
    assert "Traceback" not in result.output
    whole = build(*words, "--traceback")
    assert whole.exit_code == 2 and "Traceback (most recent call last)" in whole.output
    assert "in encode" in whole.output and "ZeroDivisionError" in whole.output


def test_a_bug_while_loading_or_importing_is_one_line(folder):
    (folder / "mine.py").write_text(MINE.replace("WRONG", "-1"))
    result = build("--encoder", "own=mine:Unloaded")
    assert "Error: column 'own', mine.py:14: KeyError: 'weights' (--traceback" in result.output
    sys.modules.pop("mine")
    (folder / "mine.py").write_text("x = nosuch\n")
    os.utime(folder / "mine.py", (1, 1))
    result = build("--encoder", "own=mine:Mine")
    assert "Error: encoder 'mine:Mine', mine.py:1: NameError: name 'nosuch'" in result.output
    sys.modules.pop("mine", None)
    (folder / "mine.py").write_text("def broken(:\n")
    os.utime(folder / "mine.py", (2, 2))
    result = build("--encoder", "own=mine:Mine")
    assert "encoder 'mine:Mine', mine.py:1: SyntaxError" in result.output


RETURNS = """
from reed.cache.schema import Field

class Bare:
    reads, fields = ("pixels",), (Field("v", "sample", (3,)),)

class Needy:
    def __init__(self, size): ...

class Wrong(Bare):
    licence, batch_size, given = "MIT", 4, None
    def revision(self): return "1"
    def load(self, device): ...
    def encode(self, samples): return self.given

class NoValues(Wrong):
    given = {"v": None}

class NoRevision(Wrong):
    def revision(self): return {}["weights"]

class Nothing:
    entries, views = ("pixels",), 1
    def listing(self): ...
    def read(self, key, view=0): ...

class Listless(Nothing):
    def listing(self): return 1 / 0

number = 3
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--encoder own=mine:Bare", "encoder 'mine:Bare' lacks licence, batch_size, revision, "),
        ("--encoder own=mine:Needy", "mine:Needy cannot be made: Needy.__init__() missing 1 "),
        ("--encoder own=mine:number", "mine:number cannot be made: 'int' object is not callable"),
        ("--encoder own=mine:Wrong", "column 'own': the encoder gave a value of type NoneType; re"),
        ("--encoder own=mine:NoValues", "the encoder gave field 'v' of type NoneType; return one "),
        ("--encoder own=mine:NoRevision", "column 'own', mine.py:20: KeyError: 'weights' (--tr"),
        ("--source mine:Bare", "source 'mine:Bare' lacks entries, views, listing, read; add what"),
        ("--source mine:Nothing", "the source lists a value of type NoneType; return {key: stamp}"),
        ("--source mine:Listless", "the listing of the source, mine.py:28: ZeroDivisionError: "),
    ],
)
def test_a_class_that_is_no_encoder_or_source_is_one_line(folder, words, said):
    """Each of these was a traceback."""
    (folder / "mine.py").write_text(RETURNS)
    sys.modules.pop("mine", None)
    result = build(*words.split())
    assert result.exit_code == 2, result.exception
    assert said in result.stderr.splitlines()[-1], result.stderr


# ---- a run by position and by name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    cache = TINY.build(folder / "cache")
    return TINY.trained(TINY.settings(cache, folder / "run", steps=2))


def call(command, *words):
    return CliRunner().invoke(command.main, [str(word) for word in words])


def test_a_run_is_named_by_position_or_by_run(trained, tmp_path):
    small = ("--num", 2, "--steps", 1, "--device", "cpu")
    for number, words in enumerate([(trained,), ("--run", trained), (trained, "--run", trained)]):
        done = call(cli_sample, *words, *small, "--out", tmp_path / str(number))
        assert done.exit_code == 0, done.output
    done = call(cli_sample, trained, "--run", tmp_path, *small)
    assert done.exit_code == 2 and "name one of them" in done.output

    for words in ((trained,), ("--run", trained)):
        done = call(cli_train, "export", *words, "--out", tmp_path / "x.pt")
        assert done.exit_code == 0, done.output
        done = call(cli_evaluate, *words, "--reference", tmp_path)
        assert f"{trained} is a run on images: measure samples" in done.output
        done = call(cli_train, *words, "--set", "steps=3", "--dry-run")
        assert done.exit_code == 0 and json.loads(done.stdout)["steps"] == 3, done.output
    assert call(cli_train, "export", "--out", tmp_path / "x.pt").exit_code == 2
    assert "Missing argument 'SAMPLES'" in call(cli_evaluate, "--reference", tmp_path).output
    line = "nowhere is neither a run (no config.json) nor average, export, report"
    assert line in call(cli_train, "nowhere").output


def test_shards_of_samples_are_called_tars(trained, tmp_path):
    small = (trained, "--num", 2, "--steps", 1, "--device", "cpu")
    done = call(cli_sample, *small, "--out", tmp_path / "new", "--tars")
    assert done.exit_code == 0 and (tmp_path / "new.tars" / "000000.tar").is_file(), done.output
    assert "--shards" not in call(cli_sample, "--help").output
    done = call(cli_sample, *small, "--out", tmp_path / "old", "--shards")
    assert done.exit_code == 0 and (tmp_path / "old.shards" / "000000.tar").is_file(), done.output
    assert done.stderr.count("--shards is now called --tars; this name will go in a later") == 1


def test_labels_are_named_or_numbered(trained, tmp_path, monkeypatch):
    data = json.loads((trained / "data.json").read_text())
    data["classes"] = ["ant", "bee", "zebra", "4"]
    (trained / "data.json").write_text(json.dumps(data))
    small = (trained, "--steps", 1, "--device", "cpu", "--num", 5)

    def labels(*words):
        out = tmp_path / "-".join(words)
        done = call(cli_sample, *small, "--out", out, *words)
        assert done.exit_code == 0, done.output
        with np.load(f"{out}.npz") as arrays:
            return arrays["arr_1"].tolist(), json.loads(Path(f"{out}.json").read_text())["label"]

    assert labels("--label", "3") == ([3] * 5, ["3"])
    assert labels("--label", "zebra") == ([2] * 5, ["2"])
    assert labels("--label", "zebra", "--label", "0") == ([2, 0, 2, 0, 2], ["2", "0"])
    assert labels("--seed", "0") == ([0, 1, 2, 3, 0], [])
    assert labels("--label", "4") == ([3] * 5, ["3"])  # no number, but the name of the last class
    for wrong, said in (("zebras", "Did you mean 'zebra'?"), ("5", "numbers go from 0 to 3")):
        done = call(cli_sample, *small, "--label", wrong)
        assert done.exit_code == 2 and f"--label {wrong!r} is no class: " in done.output
        assert said in done.output

    # The folders 1, 10 and 2 are the classes 0, 1 and 2: a label has no two meanings.
    names = ["1", "10", "2"]
    assert [classes.number_of(name, names, 3) for name in names] == [0, 1, 2]
    with pytest.raises(ReedError, match="'0' is no class: names are numbers here, and count. Did"):
        classes.number_of("0", names, 3)
    assert classes.number_of("1", ["0", "1", "2"], 3) == 1

    # A set that an earlier version drew, without the option, can still be added to.
    path = tmp_path / "--seed-0.json"
    table = json.loads(path.read_text())
    del table["label"]
    path.write_text(json.dumps(table))
    done = call(cli_sample, *small[:-1], 7, "--out", tmp_path / "--seed-0", "--seed", "0")
    assert done.exit_code == 0, done.output
