"""One life for every kind of data: options made from dataclasses, one record, no kind by name."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed import config
from reed.cli import evaluate as cli_evaluate
from reed.cli import sample as cli_sample
from reed.cli import train as cli_train
from reed.cli.kinds import KindCommand
from reed.domains.base import DOMAINS
from reed.domains.molecule import MoleculeDomain
from reed.errors import ReedError
from reed.evaluate.base import EVALUATORS, kind_of
from reed.evaluate.image_metrics import choose
from reed.evaluate.record import Record
from reed.metrics.image_set import open_images
from reed.sample.sample_set import OUTPUTS, output_of
from reed.train import public

HERE = Path(__file__).parent
RECORDS = HERE / "data" / "records"  # written by the commands of commit 2abb2d0
TINY = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_cache.py")))
CHAINS = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_chains.py")))
ROOM = re.compile(r"""hasattr\(|['"](protein|image|molecule|sit|semla)['"]""")


# ---- no kind by name


def test_what_all_kinds_share_names_none():
    """What differs is asked of the net or the domain."""
    root = HERE.parent
    paths = [*root.glob("cli/*.py"), *root.glob("reed/train/*.py"), *root.glob("reed/sample/*.py")]
    paths += root.glob("reed/evaluate/*.py")
    assert len(paths) > 30
    found = [
        (path.name, line)
        for path in paths
        for line in path.read_text().splitlines()
        if ROOM.search(line) and not line.startswith("@EVALUATORS.register(")
    ]
    assert found == []


def test_every_domain_has_an_output_and_an_evaluator():
    for name in DOMAINS.names():
        assert name in OUTPUTS.names() and name in EVALUATORS.names()


@pytest.mark.parametrize("command", [cli_sample, cli_evaluate])
def test_the_fields_of_the_dataclasses_are_the_flags(command):
    said = CliRunner().invoke(command.main, ["--help"], terminal_width=80).stdout
    kinds, types = command._kinds(), {}
    assert set(kinds) == {"image", "molecule", "protein"}
    for kind, classes in kinds.items():
        section = said.partition(f"Options of {kind}s:")[2].partition("Options of")[0]
        options = (each for cls in classes for each in config.options(cls))
        for option in (each for each in options if not each.hidden):
            assert f"--{option.flag}" in section and option.help.split()[0] in section
            assert types.setdefault(option.flag, option.kind) is option.kind
        for cls in classes:  # what only the program gives has no help
            plain = {place.partition(".")[0] for o in config.options(cls) for place in o.places}
            left = {field.name for field in config.settable(cls)} - plain
            assert left <= {"structures", "each"}


def test_the_kinds_are_looked_up_once_and_not_before_they_are_needed():
    """Looking them up imports torch, and was done anew at each step of a call."""
    calls, given = [], {}
    kinds = {"thing": (Outer,)}
    command = KindCommand("x", callback=given.update, kinds=lambda: calls.append(1) or kinds)
    assert calls == []
    done = CliRunner().invoke(command, ["--ends", "0.5", "2", "--names", "a", "--names", "b"])
    assert done.exit_code == 0, done.output
    assert given == {"flags": {"ends": (0.5, 2.0), "names": ("a", "b")}}
    assert "--folder PATH" in CliRunner().invoke(command, ["--help"]).stdout
    assert calls == [1]


@dataclasses.dataclass
class Inner:
    low: float = config.option(0.0, "Both ends.", flag="ends", metavar="LOW HIGH")
    high: float = config.option(1.0, "The other.", flag="ends")


@dataclasses.dataclass
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    names: tuple[str, ...] = config.option((), "Names.")
    folder: Path | None = config.option(None, "A folder.")
    hidden: int = 3


def test_nested_fields_make_one_flag():
    ends, names, folder = config.options(Outer)
    assert (ends.flag, ends.places, ends.default) == ("ends", ("inner.low", "inner.high"), (0, 1))
    assert (ends.help, ends.metavar, ends.kind) == ("Both ends.", "LOW HIGH", float)
    assert names.several and names.kind is str and folder.kind is Path


# ---- records


@pytest.mark.parametrize(
    ("name", "step", "num", "metric", "value"),
    [
        ("image", 20, 4, "fd", 67.9886),
        ("molecule", 4, 4, "validity", 0.0),
        ("protein", 4, 1024, "perplexity_at 0.1", 25.5025),
    ],
)
def test_records_of_before_are_read(name, step, num, metric, value, tmp_path):
    found = Record.read(RECORDS / f"{name}.eval.json")
    assert (found.recipe["step"], found.samples["num"]) == (step, num)
    assert found.metrics[metric]["value"] == pytest.approx(value, abs=1e-4)
    assert str(found.reference["place"]).startswith("cache/")
    assert [each for each in found.metrics.values() if "value" not in each] == []
    found.write(tmp_path / "again.json")
    assert Record.read(tmp_path / "again.json") == found


def test_what_is_no_record_is_refused(tmp_path):
    for text, part in (
        ("{}", "metrics, samples, reference, warnings missing"),
        ("[1]", "no table"),
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ReedError, match=part):
            Record.read(tmp_path / "x.json")


# ---- what reed-eval is given


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TINY.build(tmp_path_factory.mktemp("kinds") / "cache")


def refused(*words):
    found = CliRunner().invoke(cli_evaluate.main, [str(word) for word in words])
    assert found.exit_code == 2 and "Traceback" not in found.stderr, found.output
    return found.stderr.splitlines()[-1]


def test_the_kind_is_told_by_what_there_is(cache, tmp_path):
    images = np.zeros((2, 8, 8, 4), np.uint8)
    np.save(tmp_path / "x.npy", images)
    np.savez(tmp_path / "x.npz", arr_0=images)
    np.savez(tmp_path / "other.npz", y=images)
    (tmp_path / "folder").mkdir()
    for name in ("x.npy", "x.npz", "folder"):
        assert kind_of(tmp_path / name, tmp_path) == "image"
    assert kind_of(tmp_path / "other.npz", cache) == "image"  # the cache's
    with pytest.raises(ReedError, match="cannot tell what .*other.npz holds.* is no cache"):
        kind_of(tmp_path / "other.npz", tmp_path)
    (tmp_path / "other.json").write_text('{"kind": "mine:Mine"}')
    assert kind_of(tmp_path / "other.npz", cache) == "mine:Mine"
    for name, text in (("x.fasta", ">a\nAC\n"), ("x.sdf", "")):
        (tmp_path / name).write_text(text)
    assert kind_of(tmp_path / "x.fasta", cache) == "protein"
    assert kind_of(tmp_path / "x.sdf", cache) == "molecule"


def test_an_array_of_images_is_measured_and_another_is_one_line(cache, tmp_path):
    """A .npy was a traceback, a .fasta "File is not a zip file"."""
    path = tmp_path / "x.npy"
    np.save(path, open_images(cache).all()[:20])
    words = (path, "--reference", cache, "--features", "random-conv")
    np.save(tmp_path / "rgb.npy", open_images(cache).all()[:20, ..., :3])
    np.save(tmp_path / "real.npy", open_images(cache).all()[20:, ..., :3])
    colour = (tmp_path / "rgb.npy", "--reference", tmp_path / "real.npy")
    done = CliRunner().invoke(
        cli_evaluate.main, [*map(str, colour), "--features", "random-conv", "--num", "20"]
    )
    assert done.exit_code == 0 and "20 images of" in done.stdout, done.output
    np.save(path, np.zeros((3, 4)))
    assert "it is float64 [3, 4], images are uint8 [N, H, W, C]" in refused(*words)
    (tmp_path / "x.txt").write_text("nothing")
    assert "it is no .npz, .npy, .tar, folder or cache" in refused(tmp_path / "x.txt", *words[1:])


def test_metrics_are_those_that_can_be_taken(cache, tmp_path, monkeypatch):
    """The default was the toy digits', whatever the images."""
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("reed.weights.cached", lambda origin: None)
    said = []
    with pytest.raises(ReedError, match="no metric can be taken .*name one with --metrics"):
        choose(open_images(cache), {}, "fp32", said.append)  # no digits, of four channels
    digits = SimpleNamespace(shape=(8, 8, 1), labels=lambda: np.zeros(2), num=2, statistics={})
    assert choose(digits, {}, "fp32", said.append) == ["fd"]
    assert "left out: fid, sfid, is, pr, kid (inception: no weights (--weights inc" in said[-1]
    given = {"inception": str(tmp_path / "w.pth")}
    with pytest.raises(ReedError, match="no weights at .*w.pth"):
        choose(digits, given, "fp32", said.append)
    (tmp_path / "w.pth").write_bytes(b"weights")
    assert choose(digits, given, "fp32", said.append) == ["fd", "fid", "sfid", "is", "pr", "kid"]
    bare = SimpleNamespace(shape=(), labels=lambda: None, num=0, statistics={"mu": 0, "sigma": 0})
    assert choose(bare, given, "fp32", said.append) == ["fid", "is"]
    assert "sfid, pr, kid (the reference holds no images)" in said[-1]


# ---- sampling and exporting


@pytest.fixture(scope="module")
def run(cache):
    return TINY.trained(TINY.settings(cache, cache.parent / "run", steps=1))


def draw(run, out, *words):
    words = ("--run", run, "--out", out, "--steps", 1, *words)
    return CliRunner().invoke(cli_sample.main, [str(word) for word in words])


def test_a_set_grows_by_its_defaults(run, tmp_path):
    """It was refused: "was drawn with batch = 4, now it is 8"."""
    for num in (4, 8, 9):
        found = draw(run, tmp_path / "s", "--num", num)
        assert found.exit_code == 0, found.output
        told = json.loads((tmp_path / "s.json").read_text())
        assert (told["num"], told["batch"], told["kind"]) == (num, 4, "image")
    draw(run, tmp_path / "once", "--num", 9, "--batch", 4)
    assert (tmp_path / "s.npz").read_bytes() == (tmp_path / "once.npz").read_bytes()
    assert "batch = 4, now it is 3" in draw(run, tmp_path / "s", "--num", 9, "--batch", 3).stderr


def test_a_set_of_before_is_added_to(run, tmp_path):
    """Its OUT.json does not state the kind."""
    draw(run, tmp_path / "s", "--num", 2)
    path = tmp_path / "s.json"
    told = json.loads(path.read_text())
    del told["kind"]
    path.write_text(json.dumps(told))
    assert draw(run, tmp_path / "s", "--num", 3).exit_code == 0


def test_set_is_the_long_form_of_every_flag(run, tmp_path):
    words = ("--set", "guidance.scale=1.5", "--set", "guidance.high=0.5", "--set", "png=true")
    assert draw(run, tmp_path / "s", "--num", 1, *words, "--set", "labels=random").exit_code == 0
    flags = ("--guidance", 1.5, "--interval", 0, 0.5, "--png", "--labels", "random")
    assert draw(run, tmp_path / "t", "--num", 1, *flags).exit_code == 0
    ours, theirs = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "st")
    assert {**ours, "files": 0} == {**theirs, "files": 0} and (tmp_path / "s").is_dir()
    for text, part in (("steps", "is not of the form"), ("steps=x", "steps must be int")):
        found = draw(run, tmp_path / "u", "--num", 1, "--set", text)
        assert found.exit_code == 2 and part in found.stderr


def exported(run, out):
    words = ["export", str(run), "--out", str(out)]
    return CliRunner().invoke(cli_train.main, words)


def test_export_writes_the_facts_of_the_net(run, tmp_path):
    """That of a run on proteins had a SiT's heads and classes."""
    chains = CHAINS.build(tmp_path / "chains")
    proteins = TINY.trained(CHAINS.settings(chains, tmp_path / "proteins", steps=1))
    assert exported(proteins, tmp_path / "p.pt").exit_code == 0
    found = public.read(tmp_path / "p.pt").args
    names = {"hidden_dim", "num_encoder_layers", "num_decoder_layers", "num_neighbors", "dropout"}
    assert set(found) == names | {"backbone_noise", "fields"}
    assert exported(run, tmp_path / "i.pt").exit_code == 0
    found = public.read(tmp_path / "i.pt").args
    assert set(found) == {"num_heads", "num_classes", "path_type", "fields"}
    assert found["num_classes"] == 4


def test_a_run_without_a_public_layout_is_not_exported(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "reed.train.run_data.RunData.make_domain", lambda data, settings: MoleculeDomain()
    )
    found = exported(run, tmp_path / "x.pt")
    assert found.exit_code == 2 and list(tmp_path.iterdir()) == []
    assert "nets of MoleculeDomain have no public layout; start another run" in found.stderr


def test_a_kind_without_an_output_has_its_arrays_written():
    assert output_of("mine:Mine") is OUTPUTS.get("arrays")
