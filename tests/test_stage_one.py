"""reed-cache plan and build: what they say, refuse, write, and hand to other processes."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed import stage_one
from reed.build import shard as building
from reed.cache import files, plan, reader, schema
from reed.cli import cache as cli_cache
from reed.errors import ReedError
from reed.extras import pip_install
from reed.sources.toy.digits import Digits
from reed.stage_one import JobSpec, Request

OWN = """
import numpy as np
from reed.cache.schema import Field

class Means:
    reads = ("pixels",)
    fields = (Field("mean", "sample", (1,)), Field("tokens", "token", (16, 4), "int8"))
    licence = "MIT"
    batch_size = 100
    def revision(self): return "1"
    def load(self, device): pass
    def encode(self, samples):
        pixels = np.stack([sample["pixels"] for sample in samples])
        tokens = pixels.reshape(-1, 16, 4)
        return {"mean": pixels.mean((2, 3)), "tokens": tokens}
"""


def call(*words):
    return CliRunner().invoke(cli_cache.main, [str(word) for word in words])


def done(*words):
    found = call(*words)
    assert found.exit_code == 0, (found.output, found.exception)
    return found


def refused(parts, *words):
    """Exit code 2 and one line on stderr that has all the parts; returns what was on stdout."""
    found = call(*words)
    assert found.exit_code == 2, (found.exit_code, found.output, found.exception)
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("Error: ")]
    assert all(part in line for part in parts), line
    assert "Traceback" not in found.output
    return found.stdout


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A cache of the digits, but for nothing: every column of the pipeline."""
    cache = tmp_path_factory.mktemp("digits") / "digits"
    done("build", "digits", "--cache", cache)
    return cache


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """The same with both views."""
    cache = tmp_path_factory.mktemp("digits") / "digits"
    done("build", "digits", "--cache", cache, "--flip")
    return cache


@pytest.fixture
def fewer(monkeypatch):
    """Makes the source a part of itself: fewer(count)."""
    whole = Digits().listing()

    def set_to(count, changed=()):
        some = dict(sorted(whole.items())[:count]) | dict.fromkeys(changed, "changed")
        monkeypatch.setattr(Digits, "listing", lambda self: some)

    return set_to


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An encoder in a module of the current folder, which is not on the path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_encoder.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    yield "own_encoder:Means"
    sys.modules.pop("own_encoder", None)


def records(cache, column, view=0):
    opened = schema.load_column(cache, column)
    state = reader.load_state(cache, opened)
    return dict(
        pair
        for shard in range(plan.load(cache).shards)
        for pair in reader.records(cache, opened, shard, opened.fields, state, view=view)
    )


def shard_bytes(cache, column):
    return sum(path.stat().st_size for path in (cache / column).glob("*.tar"))


# ---- reed-cache plan


@pytest.mark.parametrize("flip", [(), ("--flip",)])
def test_the_planned_bytes_are_those_that_are_written(digits, mirrored, tmp_path, flip):
    built = mirrored if flip else digits
    words = ("plan", "digits", "--cache", tmp_path / "c", *flip)
    printed = done(*words).stdout
    assert not (tmp_path / "c").exists()
    found = stage_one.prepare(Request("digits", tmp_path / "c", flip=bool(flip)))
    for size in found.sizes:
        real = shard_bytes(built, size.column)
        if size.column == "describe":
            assert "guess" in size.basis and size.bytes == pytest.approx(real, rel=0.5)
        else:
            assert size.basis == "exact" and size.bytes == real
        assert f"{size.column}: 8 of 8 shards to write, {size.bytes:,} bytes" in printed
    total = sum(size.bytes for size in found.sizes)
    assert "1,797 samples" in printed and "8 shards of up to 256" in printed
    assert f"total: {total:,} bytes" in printed and "in 64 files" in printed and "free" in printed


def test_what_is_there_is_not_planned_again(digits, tmp_path):
    cache = shutil.copytree(digits, tmp_path / "c")
    assert "total: 0 bytes" in done("plan", "digits", "--cache", cache).stdout
    lost = 0
    for column, shard in (("pixels", 7), ("describe", 3), ("describe", 0)):
        lost += (cache / column / f"{shard:06d}.tar").stat().st_size
        (cache / column / f"{shard:06d}.json").unlink()
    found = stage_one.prepare(Request("digits", cache))
    sizes = {size.column: size for size in found.sizes}
    assert {name: size.shards for name, size in sizes.items()} == {
        "pixels": 1,
        "digits-vit": 0,
        "describe": 2,
        "caption-ngrams": 0,
    }
    assert sizes["describe"].basis == "from shard 1"
    assert sum(size.bytes for size in sizes.values()) == pytest.approx(lost, rel=0.01)


def test_the_time_is_estimated_from_the_shards_that_are_there(digits, tmp_path):
    cache = shutil.copytree(digits, tmp_path / "c")
    folder = cache / "pixels"
    for shard in range(2, 8):
        (folder / f"{shard:06d}.json").unlink()
    for name, when in (("column.json", 1000), ("000000.json", 1600), ("000001.json", 2200)):
        os.utime(folder / name, (when, when))
    printed = done("plan", "digits", "--cache", cache).stdout
    assert "pixels: 6 of 8 shards to write" in printed
    assert "about 1.0 h at the pace of the shards that are there" in printed
    assert "at the pace" not in done("plan", "digits", "--cache", tmp_path / "new").stdout


@pytest.mark.parametrize("container", schema.CONTAINERS)
@pytest.mark.parametrize("codec", ["float32", "float16", "int8"])
def test_the_plan_follows_codec_and_container(tmp_path, container, codec):
    words = (
        "digits",
        "--cache",
        tmp_path / "c",
        "--encoder",
        "digits-vit",
        "--container",
        container,
        "--codec",
        f"digits-vit/tokens={codec}",
    )
    request = Request(
        "digits",
        tmp_path / "c",
        ("digits-vit",),
        codecs=(f"digits-vit/tokens={codec}",),
        container=container,
    )
    planned = {size.column: size for size in stage_one.prepare(request).sizes}
    done("build", *words)
    for name, size in planned.items():
        real = sum(path.stat().st_size for path in (tmp_path / "c" / name).glob(f"*.{container}"))
        assert size.bytes == pytest.approx(real, rel=0 if container == "tar" else 0.1)


@pytest.mark.parametrize("command", ["plan", "build"])
def test_what_does_not_fit_is_refused(tmp_path, monkeypatch, command):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_234_567))
    words = (command, "digits", "--cache", tmp_path / "c")
    printed = refused(["needs 19.4 MB more", "has 1.2 MB free", "--force"], *words)
    assert ("total: " in printed) == (command == "plan")
    assert not (tmp_path / "c").exists()
    done(*words, "--force")
    assert (tmp_path / "c").exists() == (command == "build")


def test_the_disk_is_that_of_the_nearest_folder_there_is(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda p: asked.append(p) or SimpleNamespace(free=5))
    assert files.free(tmp_path / "a" / "b") == 5
    assert asked == [tmp_path]


def test_a_rebuild_may_use_the_room_of_what_it_throws_away(digits, tmp_path, monkeypatch):
    cache = shutil.copytree(digits, tmp_path / "c")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    refused(["more"], "plan", "digits", "--cache", tmp_path / "d")
    done("plan", "digits", "--cache", cache, "--rebuild")


# ---- reed-cache build


def test_another_run_with_workers_gives_the_same_bytes(fakes, digits, tmp_path):
    done("build", "digits", "--cache", tmp_path / "c", "--workers", 2)
    assert fakes.tree(tmp_path / "c") == fakes.tree(digits)


def test_ranges_of_shards_meet(fakes, digits, tmp_path):
    words = ("build", "digits", "--cache", tmp_path / "c")
    done(*words, "--shards-from", 5)
    assert not (tmp_path / "c" / "pixels" / "000003.tar").exists()
    done(*words, "--shards-to", 5)
    assert fakes.tree(tmp_path / "c") == fakes.tree(digits)


def test_the_time_of_each_stage_is_said(tmp_path):
    found = done("build", "digits", "--cache", tmp_path / "c", "--encoder", "describe")
    lines = [line for line in found.stdout.splitlines() if line.startswith("describe: read ")]
    assert len(lines) == 1 and " s, encode " in lines[0] and "limits)" in lines[0]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--encoder", "pixls"), ["unknown encoder 'pixls'", "'pixels'"]),
        (("--encoder", "own_encoder:Means"), ["NAME=own_encoder:Means"]),
        (("--encoder", "x=nowhere:Means"), ["nowhere"]),
        (("--encoder", "a/b=pixels"), ["'a/b'"]),
        (("--codec", "pixels"), ["--codec 'pixels' is not COLUMN/FIELD=CODEC"]),
        (("--codec", "text/x=int8"), ["'text'", "not built here"]),
        (("--codec", "pixels/x=int8"), ["no field 'x'"]),
        (("--codec", "pixels/pixels=floa"), ["unknown codec 'floa'"]),
        (("--shards-from", "3", "--shards-to", "3"), ["is empty"]),
        (("--device", "cuda:99"), ["--device cuda:99"]),
    ],
)
def test_what_a_user_may_mistype_is_named(tmp_path, words, parts):
    refused(parts, "build", "digits", "--cache", tmp_path / "c", *words)
    assert not list(tmp_path.rglob("*.tar"))


@pytest.mark.parametrize("flag", [("--rebuild",), ("--engine", "ray")])
def test_some_things_are_for_one_process_alone(tmp_path, monkeypatch, flag):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused([flag[0], "2 processes"], "build", "digits", "--cache", tmp_path / "c", *flag)


def test_a_source_that_cannot_mirror_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Digits, "views", 1)
    refused(["'digits'", "cannot mirror"], "plan", "digits", "--cache", tmp_path / "c", "--flip")


def test_without_ray_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ("build", "digits", "--cache", tmp_path / "c", "--engine", "ray")
    refused(["ray", pip_install("ray")], *words)
    assert not (tmp_path / "c").exists()


# ---- changed inputs


def test_new_samples_go_into_new_shards(fakes, tmp_path, fewer):
    cache = tmp_path / "c"
    words = (
        "build",
        "digits",
        "--cache",
        cache,
        "--encoder",
        "digits-vit",
        "--encoder",
        "describe",
    )
    fewer(600)
    done(*words)
    before = fakes.tree(cache)
    fewer(700)
    refused(["100 new (first: 'digit-0600')", "--extend", "--rebuild"], *words)
    assert fakes.tree(cache) == before
    planned = stage_one.prepare(Request("digits", cache, extend=True)).plan
    assert fakes.tree(cache) == before and planned.manifest.segments == (600, 100)
    done(*words, "--extend")
    after = fakes.tree(cache)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"manifest.json"}
    assert set(after) - set(before) == {
        "keys-1.txt",
        *(f"{c}/000003.{s}" for c in ("pixels", "digits-vit", "describe") for s in ("tar", "json")),
    }
    assert len(records(cache, "pixels")) == 700
    done(*words)
    assert fakes.tree(cache) == after


def test_a_changed_source_needs_a_new_cache(fakes, tmp_path, fewer):
    cache = tmp_path / "c"
    words = ("build", "digits", "--cache", cache, "--encoder", "describe")
    fewer(300)
    done(*words)
    fewer(300, changed=["digit-0007"])
    for flags in ((), ("--extend",)):
        refused(["1 changed (first: 'digit-0007')", "--rebuild"], *words, *flags)
    done(*words, "--rebuild", "--flip")
    assert plan.load(cache).manifest.views == 2
    done("build", "digits", "--cache", tmp_path / "d", "--encoder", "describe", "--flip")
    assert fakes.tree(cache) == fakes.tree(tmp_path / "d")


def test_a_rebuild_that_cannot_start_throws_nothing_away(fakes, digits, tmp_path):
    cache = shutil.copytree(digits, tmp_path / "c")
    words = ("build", "digits", "--cache", cache, "--rebuild")
    refused(["unknown encoder"], *words, "--encoder", "pixls")
    refused(["unknown codec"], *words, "--codec", "pixels/pixels=floa")
    assert fakes.tree(cache) == fakes.tree(digits)


# ---- both views


def test_the_second_view_is_the_first_one_mirrored(digits, mirrored):
    first, second = records(mirrored, "pixels"), records(mirrored, "pixels", 1)
    plain = records(digits, "pixels")
    assert first.keys() == second.keys() == plain.keys() and len(first) == 1797
    for key, values in first.items():
        assert np.array_equal(values["pixels"], plain[key]["pixels"])
        assert np.array_equal(second[key]["pixels"], values["pixels"][..., ::-1])
        assert second[key]["label"] == values["label"]


@pytest.mark.parametrize("name", ["describe", "digits-vit", "caption-ngrams"])
def test_every_column_encodes_the_view_itself(mirrored, name):
    encoder = stage_one.make_encoder(name, None, {})
    encoder.load("cpu")
    pixels, captions = (records(mirrored, c, 1) for c in ("pixels", "describe"))
    found, keys = records(mirrored, name, 1), sorted(pixels)[:50]
    samples = [
        {"pixels": pixels[k]["pixels"], "describe/caption": captions[k]["caption"]} for k in keys
    ]
    for field, values in encoder.encode(samples).items():
        for key, value in zip(keys, values, strict=True):
            if field == "caption":
                assert found[key][field] == value
            else:
                assert np.allclose(found[key][field], value, atol=0.06)


# ---- an encoder of one's own, and jobs for other processes


def test_an_encoder_of_ones_own_makes_a_column(own, tmp_path):
    words = ("build", "digits", "--encoder", f"means={own}")
    assert "means: 8 of 8 shards" in done("plan", *words[1:]).stdout
    done(*words)
    cache = tmp_path / "cache" / "digits"
    opened = schema.load_column(cache, "means")
    assert (opened.name, opened.encoder) == ("means", own)
    pixels, means = records(cache, "pixels"), records(cache, "means")
    assert all(np.allclose(means[k]["mean"], pixels[k]["pixels"].mean()) for k in pixels)
    refused(["means was built with encoder", "'describe'"], *words[:3], "means=describe")


def test_one_encoder_can_make_two_columns(tmp_path):
    done(
        "build",
        "digits",
        "--cache",
        tmp_path,
        "--encoder",
        "half=digits-vit",
        "--codec",
        "half/tokens=float16",
    )
    opened = schema.load_column(tmp_path, "half")
    assert (opened.encoder, opened.field("tokens").codec) == ("digits-vit", "float16")
    # what a column has is kept, also when it is not said again
    done("build", "digits", "--cache", tmp_path, "--encoder", "half=digits-vit")


def test_a_job_can_be_sent_and_opened_elsewhere(fakes, own, tmp_path, monkeypatch):
    done("build", "digits", "--encoder", f"means={own}", "--codec", "means/tokens=float16")
    cache = tmp_path / "cache" / "digits"
    before = fakes.tree(cache)
    request = Request("digits", cache.relative_to(tmp_path), (f"means={own}",))
    (spec,) = [job for job in stage_one.prepare(request).jobs if job.column == "means"]
    spec, again = spec.absolute(), JobSpec.of_column(cache, "means", None, "cpu")
    monkeypatch.chdir("/")
    sent = pickle.loads(pickle.dumps(spec))
    assert sent == spec and hash(sent) == hash(spec)
    for job in (sent.open(), again.open()):
        for shard in (0, 7):
            (cache / "means" / f"{shard:06d}.json").unlink()
            building.build_shard(job, shard)
        assert fakes.tree(cache) == before


def test_every_option_is_explained():
    for command in ("plan", "build"):
        text = done(command, "--help").stdout
        assert "Example" in text
        unexplained = [
            p.name
            for p in cli_cache.main.commands[command].params
            if p.param_type_name == "option" and not p.help
        ]
        assert unexplained == []


def test_a_bad_request_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ReedError, match="unknown pipeline 'digts'"):
        stage_one.prepare(Request("digts", tmp_path))


def test_codecs_of_a_pipeline_hold_for_the_columns_that_it_names_itself(tmp_path):
    def chosen(*encoders):
        jobs = stage_one.chosen(Request("fashion", tmp_path / "c", encoders=encoders))
        return {job.column: job.codecs for job in jobs}

    kept = {"image", "labels", "captions-beside", "lite0"}
    assert chosen()["lite0"] == (("tokens", "pca:64+int8"),)
    assert chosen("lite0=timm:tf_efficientnet_lite0")["lite0"] == (("tokens", "pca:64+int8"),)
    other = chosen("lite0=timm:tf_efficientnet_lite2")
    assert other.keys() == kept and other["lite0"] == ()


def codecs_of(cache, name):
    return {field.name: field.codec for field in schema.load_column(cache, name).fields}


def test_few_samples_keep_fewer_components_and_an_extension_keeps_as_many(tmp_path):
    """Fewer than 65 molecules were refused, and fewer than 129 atoms failed after the encoding."""
    data, cache = tmp_path / "x", tmp_path / "c"
    words = ("geom", "--data", data, "--cache", cache, "--encoder", "rdkit3d")
    data.mkdir()
    (data / "a.smi").write_text("".join(f"{'C' * (i + 1)}O\n" for i in range(3)))  # 6, 9, 12 atoms
    lines = [
        "column 'rdkit3d', field 'sample': pca:64+int8 is lowered to pca:2+int8, which is what 3 "
        "vectors of 1,217 channels can be fitted with",
        "column 'rdkit3d', field 'token': pca:128+int8 is lowered to pca:26+int8, which is what 27 "
        "vectors of 755 channels can be fitted with",
    ]
    assert lines[0] in done("plan", *words).stdout.splitlines() and not cache.exists()
    said = done("build", *words).stderr.splitlines()
    assert [line for line in said if "lowered" in line] == lines
    kept = {"sample": "pca:2+int8", "token": "pca:26+int8"}
    assert codecs_of(cache, "rdkit3d") == kept
    with np.load(cache / "rdkit3d" / "calibration.npz") as arrays:
        assert (arrays["sample/asked"], arrays["token/asked"]) == (64, 128)
        assert arrays["sample/basis"].shape == (2, 1217)

    (data / "b.smi").write_text("".join(f"{'C' * (i + 1)}N\n" for i in range(4)))
    before = {path: path.read_bytes() for path in (cache / "rdkit3d").glob("*.*[nz]")}
    asked = ("--codec", "rdkit3d/sample=pca:64+int8")  # what the first build asked for
    said = done("build", *words, "--extend", *asked).output
    assert "lowered" not in said and codecs_of(cache, "rdkit3d") == kept
    assert all(path.read_bytes() == content for path, content in before.items())
    assert "0 problems" in done("verify", cache, "--deep").output
    other = ("--codec", "rdkit3d/sample=pca:63+int8")
    refused(("was built with fields", "pca:2+int8", "pca:63+int8"), "build", *words, *other)


@pytest.mark.parametrize("command", ["plan", "build"])
def test_one_sample_has_no_components(tmp_path, command):
    data, cache = tmp_path / "x.smi", tmp_path / "c"
    data.write_text("CCO\n")
    words = ("geom", "--data", data, "--cache", cache, "--encoder", "rdkit3d")
    parts = ("column 'rdkit3d', field 'sample'", "pca:64+int8", "at least 2 vectors")
    refused((*parts, "from 1 sample come 1", "--codec rdkit3d/sample=float16"), command, *words)
    assert not cache.exists()


def test_numbers_and_nouns_agree(tmp_path):
    """The words 1 shards were read on every small cache."""
    from reed.wording import counted, named

    nouns = {"shard": "shards", "class": "classes", "entry": "entries"}
    assert [counted(n, "shard") for n in (0, 1, 20614)] == ["0 shards", "1 shard", "20,614 shards"]
    assert {noun: counted(2, noun).split()[1] for noun in nouns} == nouns
    assert named(["a", "b", "c"]) == "a, b, c" and named(["a", "b", "c"], 4) == "a, b, c, …"
    data, cache = tmp_path / "x.smi", tmp_path / "c"
    data.write_text("CCO\n")
    words = ("geom", "--data", data, "--cache", cache, "--encoder", "molecule")
    said = done("plan", *words).output
    assert "c: 1 sample, 1 shard of up to" in said and "molecule: 1 of 1 shard to write" in said
    assert "in 2 files" in said and "c: 1 sample, column molecule\n" in done("build", *words).output
    said = done("info", cache).output
    assert "1 sample in 1 shard\n" in said and "complete, 1/1 shard, 1 sample, " in said
    assert "c: 1 shard checked, 0 problems" in done("verify", cache).output
    (cache / "molecule" / "000000.json").unlink()
    said = done("reindex", cache).output
    assert "molecule shard 0: 1 sample\n" in said and "c: 1 marker written" in said
