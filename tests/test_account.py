"""Classes that stay what they are, and an account of every file: through the commands."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as Pillow

from reed import stage_one
from reed.cache import account, plan, reader, schema
from reed.cli import cache as cli_cache
from reed.cli import train as cli_train
from reed.train.run_data import Lacking, RunData

PIPELINE = """
from reed.cache.schema import Field
from reed.pipelines import Pipeline

class Never:
    reads = ("absent",)
    fields = (Field("x", "sample", (1,), "float16"),)
    licence, batch_size = "none", 4
    def revision(self): return "1"
    def load(self, device): raise AssertionError("nothing may be loaded")
    def encode(self, samples): raise AssertionError("nothing may be encoded")

PHOTOS = Pipeline("image", "images", ("image",), ("labels",), 4)
"""
SMALL = ("--set", "source.resolution=8", "--set", "image.resolution=8", "--device", "cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with a pipeline of its own."""
    (tmp_path / "photos.py").write_text(PIPELINE)
    (tmp_path / "photos.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("photos", None)


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    array = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Pillow.fromarray(array).save(file, "PNG")
    return file.getvalue()


def add(root: Path, name: str, count: int) -> None:
    """`count` more pictures in one class folder."""
    (root / name).mkdir(parents=True, exist_ok=True)
    have = len(list((root / name).iterdir()))
    for i in range(have, have + count):
        (root / name / f"{i}.png").write_bytes(picture(zlib.crc32(f"{name}{i}".encode())))


def run(*words, command=cli_cache.main):
    return CliRunner().invoke(command, [str(word) for word in words])


def done(*words, command=cli_cache.main):
    result = run(*words, command=command)
    assert result.exit_code == 0, result.output
    return result


def build(*more, cache="c", data="data"):
    return done("build", "photos:PHOTOS", "--cache", cache, "--data", data, *SMALL, *more)


def refused(result, *parts):
    assert result.exit_code == 2, result.output
    for part in parts:
        assert part in result.output


def labels(cache: Path) -> dict[str, int]:
    frozen = plan.load(cache)
    column = schema.load_column(cache, "labels")
    state = reader.load_state(cache, column)
    return {
        key: int(values["label"])
        for shard in range(frozen.shards)
        for key, values in reader.records(cache, column, shard, list(column.fields), state)
    }


def content(cache: Path, shards: int) -> dict[str, bytes]:
    """The first shards of every column with their markers."""
    paths = [p for p in cache.glob("*/0*") if int(p.stem) < shards]
    return {str(path.relative_to(cache)): path.read_bytes() for path in sorted(paths)}


@pytest.mark.parametrize("command", ["plan", "build"])
@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (
            ("source.resolution=8", "image.resolution=16"),
            ("resolution 16", "source.resolution is 8", "image.resolution=8"),
        ),
        (("image.resolution=8",), ("resolution 8", "source.resolution is 256", "resolution=256")),
    ],
)
def test_two_resolutions_are_refused_before_any_work(
    folder, monkeypatch, command, settings, values
):
    add(folder / "data", "cat", 3)
    monkeypatch.setattr(stage_one, "listed", lambda *_: pytest.fail("listed"))
    words = [word for each in settings for word in ("--set", each)]
    found = run(command, "photos:PHOTOS", "--cache", "c", "--data", "data", *words)
    refused(found, "Error: column 'image' takes samples of", *values)
    assert not (folder / "c").exists()


# ---- classes


@pytest.mark.parametrize("kind", ["tree", "zip"])
def test_a_class_never_changes_its_number(folder, kind):
    root = folder / "data"

    def place():
        if kind == "zip":
            shutil.make_archive("data", "zip", root)
        return "data.zip" if kind == "zip" else "data"

    add(root, "cat", 5)
    add(root, "zebra", 4)
    build(data=place())
    before, old = content(folder / "c", 3), labels(folder / "c")
    add(root, "dog", 3)
    add(root, "ant", 2)
    add(root, "zebra", 1)
    build("--extend", data=place())
    frozen = plan.load(folder / "c").manifest
    assert frozen.classes == ("cat", "zebra", "ant", "dog")
    found = labels(folder / "c")
    assert {key: frozen.classes[label] for key, label in found.items()} == {
        key: key.split("/")[0] for key in found
    }
    assert old.items() <= found.items() and content(folder / "c", 3) == before
    for path in (folder / "c").glob("*/00000[02].tar"):
        path.write_bytes(b"damaged")
    done("repair", "c", "--data", place(), "--device", "cpu")
    assert content(folder / "c", 3) == before and labels(folder / "c") == found
    build(data=place())  # a plain rerun needs no list
    assert "  classes 4: cat, zebra, ant, dog" in done("info", "c").output.splitlines()
    assert "planned before" not in done("verify", "c", "--deep").output


def old_cache(folder: Path) -> None:
    """A cache of {cat, zebra} as a package of before would have left it."""
    add(folder / "data", "cat", 3)
    add(folder / "data", "zebra", 3)
    build()
    path = folder / "c" / "manifest.json"
    table = json.loads(path.read_text())
    del table["options"]["classes"], table["self"]
    path.write_bytes(schema.dump(table))
    (folder / "c" / account.NAME).unlink()


def test_a_cache_of_before_opens_and_says_what_it_may_have(folder):
    old_cache(folder)
    said = done("verify", "c", "--deep").output
    assert "c: planned before sources kept an account: it may have a list of classes that" in said
    build()
    assert "planned before" in done("verify", "c").output  # it is still planned by the old one
    add(folder / "data", "dog", 1)
    words = ("build", "photos:PHOTOS", "--cache", "c", "--data", "data", *SMALL, "--extend")
    refused(
        run(*words),
        "with what is new 'zebra' would be class 2, it was 1",
        """--set 'source.classes=["cat", "zebra"]'""",
    )
    before = labels(folder / "c")
    build("--extend", "--set", 'source.classes=["cat","zebra"]')
    assert plan.load(folder / "c").manifest.classes == ("cat", "zebra", "dog")
    assert before.items() <= labels(folder / "c").items()


def test_labels_are_not_rebuilt_where_a_class_has_two_numbers(folder):
    old_cache(folder)
    add(folder / "data", "yak", 1)  # which an extension of before made class 1
    build("--extend", "--set", 'source.classes=["cat","zebra"]')
    path = folder / "c" / "manifest.json"
    table = json.loads(path.read_text())
    del table["options"]["classes"], table["self"]
    path.write_bytes(schema.dump(table))
    (folder / "c" / "labels" / "000000.tar").write_bytes(b"damaged")
    refused(
        run("repair", "c", "--data", "data", "--device", "cpu"),
        "'zebra' has two numbers in it",
        "start anew with --rebuild",
    )


def test_other_names_for_the_same_numbers_are_refused(folder):
    add(folder / "data", "cat", 3)
    add(folder / "data", "zebra", 3)
    build()
    words = ("build", "photos:PHOTOS", "--cache", "c", "--data", "data", *SMALL)
    refused(
        run(*words, "--set", 'source.classes=["zebra","cat"]'),
        "class 0 is 'cat', the source now says 'zebra'",
    )


# ---- the account


def test_the_account_of_a_build(folder):
    add(folder / "data", "cat", 200)
    (folder / "data" / "cat" / "notes").write_text("no image")
    for name in ("a.heic", "b.heic"):
        (folder / "data" / "cat" / name).write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "data" / "cat" / "7.png").write_bytes(b"")
    result = build("--json")
    told = json.loads(result.stdout)
    assert (told["samples"], told["stored"], told["classes"]) == (200, 199, ["cat"])
    assert told["passed_over"] == {
        "ending .heic": {"count": 2, "names": ["cat/a.heic", "cat/b.heic"]},
        "no ending": {"count": 1, "names": ["cat/notes"]},
    }
    assert told["columns"]["image"] == {
        "samples": 199,
        "shards": 50,
        "left_out": {"the file is empty (0 bytes)": {"count": 1, "keys": ["cat/7.png"]}},
    }
    assert told["columns"]["labels"]["samples"] == 200
    line = "passed over 3 files: 2 .heic (cat/a.heic, cat/b.heic), 1 without ending (cat/notes)"
    assert line in result.stderr.splitlines()
    assert f"  {line}" in done("info", "c").output.splitlines()
    last = build().stdout.splitlines()[-1]
    want = "c: 199 samples, columns image, labels; of the 200 that were planned image lacks 1"
    assert last == want
    planned = json.loads(
        done(
            "plan", "photos:PHOTOS", "--cache", "d", "--data", "data", *SMALL[:-2], "--json"
        ).stdout
    )
    assert planned["passed_over"] == told["passed_over"] and planned["stored"] == 0
    assert planned["columns"]["image"] == {"samples": 0, "shards": 0, "left_out": {}}


def test_a_name_that_is_no_text_stops_no_build(folder):
    add(folder / "data", "cat", 3)
    with open(os.fsencode(folder) + b"/data/cat/caf\xe9.png", "wb") as file:
        file.write(picture(9))
    said = build().stdout
    assert r"passed over 1 file: 1 name is no text (cat/caf\udce9.png)" in said
    assert said.splitlines()[-1] == "c: 3 samples, columns image, labels"
    assert account.load(folder / "c").passed["name is no text"].count == 1


# ---- before the first sample


@pytest.mark.parametrize("command", ["plan", "build"])
def test_what_a_later_column_lacks_is_found_before_the_first_is_encoded(folder, command):
    add(folder / "data", "cat", 3)
    words = (command, "photos:PHOTOS", "--cache", "c", "--data", "data", *SMALL[:4])
    refused(
        run(*words, "--encoder", "late=photos:Never"), "encoder 'late' reads 'absent'", "the source"
    )
    missing = ("--encoder", "captions=caption-file", "--set", "captions.file=gone.jsonl")
    refused(run(*words, *missing), "no captions at gone.jsonl")
    (folder / "bad.jsonl").write_text("{")
    bad = ("--encoder", "captions=caption-file", "--set", "captions.file=bad.jsonl")
    refused(run(*words, *bad), "bad.jsonl, record 1 is not JSON")
    (folder / "page.safetensors").write_bytes(b"<html>")
    page = ("--encoder", "dinov2-b", "--set", "dinov2-b.weights=page.safetensors")
    refused(run(*words, *page), "page.safetensors is a web page")
    gone = ("--encoder", "dinov2-b", "--set", "dinov2-b.weights=gone.safetensors")
    refused(run(*words, *gone), "there are no weights at gone.safetensors")
    assert not list(folder.glob("c/*/0*"))


def test_plan_says_which_weights_a_build_would_fetch(folder, monkeypatch):
    from reed import weights

    add(folder / "data", "cat", 3)
    monkeypatch.setattr(weights, "cached", lambda origin: None)
    words = ("plan", "photos:PHOTOS", "--cache", "c", "--data", "data", *SMALL[:4])
    said = done(*words, "--encoder", "dinov2-b").output
    assert "dinov2-b: its weights are not on this machine; a build fetches them" in said


# ---- training

RECIPE = {
    "steps": 2,
    "batch": 4,
    "data": {"x": "image/image", "label": "labels/label"},
    "domain": {
        "classes": 2,
        "net_settings": {"hidden_size": 16, "depth": 1, "num_heads": 2, "patch_size": 4},
    },
    "every": {"log": 1},
    "precision": "fp32",
}


def train(folder, *words):
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    return run(
        *("--shards", "c", "--run", "r", "--config", "recipe.json"), *words, command=cli_train.main
    )


def test_a_label_that_the_recipe_has_no_class_for_is_refused(folder, one_thread):
    for name in ("a", "b", "c"):
        add(folder / "data", name, 4)
    keys = [f"{name}/{number}.png" for name in "abc" for number in range(4)]
    table = "".join(f"{key},{'abc'.index(key[0])}\n" for key in keys)
    (folder / "numbers.csv").write_text(table)
    build("--set", "source.labels=numbers.csv")
    refused(
        train(folder, "--dry-run"),
        "labels/label of sample 'c/",
        "is 2, the greatest is 2, and domain.classes is 2: labels go from 0 to 1",
        "set domain.classes=3",
    )
    assert train(folder, "--dry-run", "--set", "domain.classes=3").exit_code == 0
    del (table := json.loads(json.dumps(RECIPE)))["domain"]["classes"]
    (folder / "recipe.json").write_text(json.dumps(table))
    words = ("--shards", "c", "--run", "r", "--config", "recipe.json", "--dry-run")
    assert json.loads(run(*words, command=cli_train.main).stdout)["domain"]["classes"] == 3


def test_the_classes_of_a_recipe_are_those_that_the_cache_names(folder, one_thread):
    """An unnamed class was trained as "no label", or an IndexError after a dry run had passed."""
    for name in ("a", "b", "c"):
        add(folder / "data", name, 4)
    build()
    for number in (2, 4):
        refused(
            train(folder, "--dry-run", "--set", f"domain.classes={number}"),
            f"domain.classes is {number}, c has 3 classes (a, b, c): leave domain.classes out, "
            "or set it to 3",
        )
    del (table := json.loads(json.dumps(RECIPE)))["domain"]["classes"]
    (folder / "recipe.json").write_text(json.dumps(table))
    words = ("--shards", "c", "--run", "r", "--config", "recipe.json")
    told = run(*words, "--dry-run", command=cli_train.main)
    assert json.loads(told.stdout)["domain"]["classes"] == 3
    assert run(*words, command=cli_train.main).exit_code == 0
    kept = json.loads((folder / "r" / "config.json").read_text())
    assert kept["domain"]["classes"] == 3

    # A run of an earlier version goes on with the number that it was trained with.
    kept["domain"]["classes"] = 4
    (folder / "r" / "config.json").write_text(json.dumps(kept))
    again = run(*words, "--set", "domain.classes=4", "--dry-run", command=cli_train.main)
    assert json.loads(again.stdout)["domain"]["classes"] == 4


def test_a_run_says_what_its_columns_lack_and_keeps_the_names(folder, one_thread):
    add(folder / "data", "a", 150)
    add(folder / "data", "b", 50)
    (folder / "data" / "a" / "3.png").write_bytes(b"")
    build()
    result = train(folder)
    assert result.exit_code == 0, result.output
    want = "trains on 199 of the cache's 200 samples: image lacks 1 (a/3.png)"
    assert want in result.output.splitlines()
    kept = RunData.read(folder / "r")
    assert (kept.samples, kept.left_out, kept.classes) == (200, 1, ("a", "b"))
    assert kept.lacking == {"image": Lacking(1, ("a/3.png",))}
    pytest.importorskip("plotly")
    done("report", "r", command=cli_train.main)
    page = (folder / "r" / "report.html").read_text()
    assert "image lacks 1 (a/3.png)" in page and "2: a, b" in page
    done("peek", "c", "--html", "c.html")
    assert "2: a, b" in (folder / "c.html").read_text()
