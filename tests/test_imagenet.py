"""Images from end to end, offline: files in, a cache by the command line, two steps of training."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from reed import jobs
from reed.cache import cost, plan, reader, schema
from reed.cli import cache as cli_cache
from reed.cli import sample as cli_sample
from reed.cli import train as cli_train
from reed.encoders.image.preprocess import IMAGENET, Preprocess
from reed.pipelines import imagenet
from reed.sources.image.crop import square

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

ROOT = Path(__file__).resolve().parents[1]
TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_images.py"))))
COLUMNS = ["captions", "convnext", "dinov2-b", "labels", "qwen2-vl-7b", "sd-vae"]
ENCODED = [word for name in TINY.ENCODERS for word in ("--encoder", name)]
SMALL_NET = {
    "steps": 2,
    "batch": 8,
    "domain.size": '""',
    "domain.classes": 3,
    "precision": "fp32",
    "domain.net_settings.hidden_size": 32,
    "domain.net_settings.depth": 3,
    "domain.net_settings.num_heads": 2,
    "align.dinov2-b.tap": 1,
    "align.dinov2-b.hidden": 16,
    "align.qwen2-vl-7b.tap": 2,
    "align.qwen2-vl-7b.hidden": 16,
}


def call(command, *words):
    return CliRunner().invoke(command, [str(word) for word in words])


def done(*words, command=cli_cache.main):
    found = call(command, *words)
    assert found.exit_code == 0, (words, found.output, found.exception)
    return found.stdout


@pytest.fixture(scope="module", autouse=True)
def several_shards():
    """Shards of 64 samples, so that there are five; and no network."""
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imagenet, "PIPELINE", replace(imagenet.PIPELINE, shard_size=64))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return TINY.photos(tmp_path_factory.mktemp("photos") / "train")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return TINY.models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def build(data, weights):
    """Builds all columns at a place: build(cache, more words)."""

    def built(cache, *more):
        words = ("--set", f"source.resolution={TINY.SIDE}", "--codec", "convnext/tokens=float32")
        return done(
            "build",
            "imagenet",
            "--cache",
            cache,
            "--data",
            data,
            *ENCODED,
            *words,
            *TINY.settings(weights),
            *more,
        )

    return built


@pytest.fixture(scope="module")
def cache(build, tmp_path_factory):
    """A cache of every column, by one process that reads between encoding."""
    folder = tmp_path_factory.mktemp("cache") / "imagenet"
    build(folder, "--workers", 0)
    return folder


def stored(cache, column):
    """Key -> field -> value."""
    opened = schema.load_column(cache, column)
    state = reader.load_state(cache, opened)
    shards = range(plan.load(cache).shards)
    found = (reader.records(cache, opened, s, opened.fields, state) for s in shards)
    return dict(itertools.chain.from_iterable(found))


def content(cache):
    """Every file but what building took, which is not the same twice."""
    files = (p for p in cache.rglob("*") if p.is_file() and p.name != "cost.jsonl")
    return {p.relative_to(cache): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def pixels(data):
    """Key -> image uint8 [32, 32, 3], of everything that can be decoded."""
    keys = [f"{path.parent.name}/{path.name}" for path in data.glob("*/*")]
    return {k: square((data / k).read_bytes(), TINY.SIDE) for k in keys if k not in TINY.BROKEN}


def batch(pixels, keys):
    return torch.from_numpy(np.stack([pixels[key] for key in keys])).permute(0, 3, 1, 2)


# ---- what is in the cache


def test_every_column_has_every_image_but_the_broken(cache, pixels):
    assert schema.columns(cache) == COLUMNS and len(pixels) == TINY.COUNT - 3
    for column in set(COLUMNS) - {"labels"}:
        assert set(stored(cache, column)) == set(pixels)
    labels = stored(cache, "labels")
    assert len(labels) == TINY.COUNT  # a label needs no pixels
    assert all(value["label"] == int(key[2]) - 1 for key, value in labels.items())


def test_verify_info_and_peek(cache, tmp_path):
    assert ", 0 problems" in done("verify", cache, "--deep")
    told = done("info", cache)
    for key, reason in TINY.BROKEN.items():
        assert f"left out '{key}': {reason}" in told
    dinov2 = told[told.index("dinov2-b: complete") : told.index("labels: complete")]
    assert "297 samples" in dinov2 and "3 failed" in dinov2
    assert "dinov2-b/tokens: token, 4x384, int8" in dinov2  # nobody asked for int8
    cosine = re.search(r"cosine to the original.*: mean (\S+), worst (\S+)", dinov2)
    assert 0.999 < float(cosine[2]) <= float(cosine[1]) <= 1
    done("peek", cache, "random", "--out", tmp_path / "peek.png")
    assert (tmp_path / "peek.png").stat().st_size > 1000


def test_a_rerun_needs_no_settings(cache, data):
    assert schema.load_column(cache, "dinov2-b").options["grid"] == 2
    options = dict(schema.load_manifest(cache).options)
    assert options.pop("classes") == sorted(path.name for path in data.iterdir() if path.is_dir())
    assert options == {"resolution": TINY.SIDE}
    before = content(cache)
    done("build", "imagenet", "--cache", cache, "--data", data, *ENCODED)
    assert content(cache) == before


def test_what_building_took_is_kept(cache):
    took = {column: cost.seconds(cache / column) for column in COLUMNS}
    assert all(0 < seconds < 600 for seconds in took.values())
    cost.record(cache / "labels", 2.5, "cpu")
    assert cost.seconds(cache / "labels") == pytest.approx(took["labels"] + 2.5)
    assert cost.seconds(cache / "nowhere") is None


# ---- features equal direct calls of the models


def test_tokens_of_convnext_equal_timms(cache, pixels):
    found = stored(cache, "convnext")
    model = TINY.timm_model(TINY.VISION["convnext"])
    said = model.pretrained_cfg
    seen = Preprocess(said["mean"], said["std"], "antialias-normalise", said["interpolation"])
    keys = list(found)
    with torch.no_grad():
        x = seen(batch(pixels, keys), 64)
        last = model.forward_features(x)
        pooled = model.forward_head(last, pre_logits=True)
    tokens = np.stack([found[key]["tokens"] for key in keys])
    np.testing.assert_allclose(tokens, last.flatten(2).mT, rtol=0, atol=1e-5)
    vectors = np.stack([found[key]["pooled"] for key in keys])
    np.testing.assert_allclose(vectors, pooled, rtol=0, atol=1e-5)


def test_vectors_of_dinov2_equal_timms_and_tokens_point_where_they_do(cache, pixels):
    found = stored(cache, "dinov2-b")
    model = TINY.timm_model(TINY.VISION["dinov2-b"])
    model.set_input_size(img_size=(28, 28))
    keys = list(found)
    with torch.no_grad():
        x = Preprocess(*IMAGENET, order="normalise-resize")(batch(pixels, keys), 28)
        last = model.forward_features(x).numpy()
    vectors = np.stack([found[key]["cls"] for key in keys])
    np.testing.assert_allclose(vectors, last[:, 0], rtol=0, atol=1e-5)
    tokens, want = np.stack([found[key]["tokens"] for key in keys]), last[:, 1:]
    norms = np.linalg.norm(tokens, axis=-1) * np.linalg.norm(want, axis=-1)
    assert ((tokens * want).sum(-1) / norms).min() > 0.999


def test_moments_equal_those_of_diffusers(cache, pixels, tmp_path):
    found, model = stored(cache, "sd-vae"), TINY.vae(tmp_path)
    keys = list(found)
    with torch.no_grad():
        posterior = model.encode(batch(pixels, keys).float() / 127.5 - 1).latent_dist
    have = np.stack([found[key]["moments"] for key in keys])
    want = torch.cat([posterior.mean, posterior.std], dim=1).numpy()
    np.testing.assert_allclose(have, want.astype(np.float16), rtol=1e-3, atol=1e-5)


def test_captions_and_their_embeddings_equal_the_encoders_one_at_a_time(cache, weights, pixels):
    captions, vectors = stored(cache, "captions"), stored(cache, "qwen2-vl-7b")
    assert len({value["text"] for value in captions.values()}) > 5
    for name, key in itertools.product(("captions", "qwen2-vl-7b"), list(captions)[:5]):
        made = jobs.make_encoder(name, Path(), schema.load_column(cache, name).options)
        made.load("cpu")
        sample = {"image": pixels[key], "captions/text": captions[key]["text"]}
        (value,) = next(iter(made.encode([sample]).values()))
        if name == "captions":
            assert value == captions[key]["text"]
        else:
            np.testing.assert_allclose(vectors[key]["embedding"], value, rtol=1e-3, atol=1e-3)


# ---- the same whoever builds it


def test_reading_processes_write_the_same_bytes(cache, build, tmp_path):
    build(tmp_path / "c", "--workers", 2)
    assert content(tmp_path / "c") == content(cache)


def test_two_ranks_write_the_same_bytes(cache, build, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        build(tmp_path / "c", "--workers", 0)
    assert plan.load(cache).shards == 5
    assert content(tmp_path / "c") == content(cache)


def test_other_batches_give_the_same_features(cache, build, tmp_path):
    sizes = {"sd-vae": 5, "dinov2-b": 9, "convnext": 7, "captions": 64, "qwen2-vl-7b": 7}
    build(tmp_path / "c", *(w for c, n in sizes.items() for w in ("--set", f"{c}.batch_size={n}")))
    for column in sizes:
        have, want = stored(tmp_path / "c", column), stored(cache, column)
        assert list(have) == list(want)
        for key, field in itertools.product(want, next(iter(want.values()))):
            ours, theirs = have[key][field], want[key][field]
            if field == "text":
                assert ours == theirs
                continue
            # int8 and float16 may round what differs by 1e-6 to the next level.
            rounds = field in ("moments", "embedding") or (column, field) == ("dinov2-b", "tokens")
            loose = {"atol": 0.02, "rtol": 1e-3} if rounds else {"atol": 1e-5, "rtol": 0}
            np.testing.assert_allclose(ours, theirs, **loose)


@pytest.mark.slow
def test_two_processes_at_once_write_the_same_bytes(cache, data, weights, tmp_path):
    code = (
        "from dataclasses import replace\nfrom reed.pipelines import imagenet\n"
        "imagenet.PIPELINE = replace(imagenet.PIPELINE, shard_size=64)\n"
        "from reed.cli.cache import main\nmain()"
    )
    words = [
        "build",
        "imagenet",
        "--cache",
        tmp_path / "c",
        "--data",
        data,
        *ENCODED,
        "--set",
        f"source.resolution={TINY.SIDE}",
        "--codec",
        "convnext/tokens=float32",
        *TINY.settings(weights),
    ]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            stderr=subprocess.PIPE,
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "HF_HUB_OFFLINE": "1"},
        )
        for rank in range(2)
    ]
    for rank in ranks:
        _, stderr = rank.communicate(timeout=200)
        assert rank.returncode == 0, stderr.decode()[-2000:]
    assert content(tmp_path / "c") == content(cache)


# ---- stage two


def train(shards, run, *more):
    sets = [w for name, value in SMALL_NET.items() for w in ("--set", f"{name}={value}")]
    words = ("--shards", shards, "--run", run, *sets, *more)
    return done(*words, command=cli_train.main)


def test_two_steps_of_training_on_the_moments(cache, tmp_path):
    assert "trained" in train(cache, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert all(np.isfinite(value) for value in last.values() if isinstance(value, float))
    assert any("dinov2-b" in name for name in last) and any("qwen2" in name for name in last)
    drawn = CliRunner().invoke(
        cli_sample.main, ["--run", str(tmp_path / "run"), "--num", "3", "--steps", "2"]
    )
    assert drawn.exit_code == 0, drawn.output
    with np.load(tmp_path / "run" / "samples" / "step-0000002-euler2-fp32.npz") as arrays:
        images = arrays["arr_0"]
    assert images.dtype == np.uint8 and images.shape == (3, TINY.SIDE, TINY.SIDE, 3)
    assert images.std() > 0


# ---- prefetch, lists, and the source of a cache


def test_prefetch_reports_weights_that_are_given(weights):
    told = done("prefetch", "imagenet", *ENCODED, *TINY.settings(weights))
    assert "labels: has no weights to download" in told
    size = weights["dinov2-b"].stat().st_size
    assert f"dinov2-b: given by dinov2-b.weights, {weights['dinov2-b'].parent}, sha256 " in told
    assert f"  {weights['dinov2-b']}: {size:,} bytes" in told
    assert f"captions: given by captions.weights, {weights['captions']}" in told


def test_prefetch_says_what_the_hub_has_and_where_it_lies(tmp_path, monkeypatch):
    commit = "31f26fdeee1355a5c34592e401dd41e45d25a493"
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    asked = []

    def download(repo, **more):
        asked.append((repo, more["revision"], more["local_files_only"]))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    told = done("prefetch", "imagenet", "--encoder", "labels")
    assert asked == [("stabilityai/sd-vae-ft-mse", commit, False)]
    digest = hashlib.sha256(b"weights").hexdigest()
    where = f"{commit}, {tmp_path}, sha256 {digest}"
    assert f"sd-vae: stabilityai/sd-vae-ft-mse at {where}" in told
    assert "diffusion_pytorch_model.safetensors: 7 bytes" in told


def test_prefetch_offline_says_which_file_to_put_where(weights, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    vae = ("--set", f"sd-vae.weights={weights['sd-vae']}")
    found = call(cli_cache.main, "prefetch", "imagenet", *vae)
    assert found.exit_code == 2
    (line,) = found.stderr.splitlines()
    assert line.startswith("Error: dinov2-b: timm/vit_base_patch14_dinov2.lvd142m at main")
    assert "model.safetensors from https://huggingface.co/timm/" in line
    assert line.endswith("--set dinov2-b.weights=PATH")
    assert "reed-cache prefetch PIPELINE --encoder dinov2-b" in line
    convnext = ("--encoder", f"mine=timm:{TINY.VISION['convnext']}")
    found = call(cli_cache.main, "prefetch", "imagenet", *vae, *convnext)
    assert found.exit_code == 2 and "--encoder COLUMN=timm:test_convnext" in found.stderr


def test_list_encoders_shows_them_all():
    listed = [line.split()[0] for line in done("list", "encoders").splitlines()]
    assert listed[-2:] == ["timm:NAME", "transformers:NAME"]
    assert {"sd-vae", "dinov2-b", "captions", "caption-file", "qwen2-vl-7b", "t5"} <= set(listed)
    assert {"images", "repa-folder"} <= set(done("list", "sources").split())


def test_the_source_stays_what_it_was(data, tmp_path):
    repa, cache = TINY.repa(tmp_path / "repa"), tmp_path / "c"
    words = ("build", "imagenet", "--cache", cache, "--data", repa)
    imported = ("--encoder", "sd-vae=sd-vae-import", "--set", f"sd-vae.resolution={TINY.SIDE}")
    done(*words, "--source", "repa-folder", *imported)
    assert schema.load_manifest(cache).source == "repa-folder"
    done(*words, "--encoder", "sd-vae=sd-vae-import")  # neither source nor settings again
    moments = np.load(repa / "vae-sd/00000/img-mean-std-00000003.npy")
    have = stored(cache, "sd-vae")["00000/img00000003"]["moments"]
    np.testing.assert_array_equal(have, moments.astype(np.float16).astype(np.float32))
    assert stored(cache, "labels")["00000/img00000004"]["label"] == 1
    for name, says in (("images", "was built with source"), ("repa-foder", "Did you mean")):
        found = call(cli_cache.main, *words, "--data", data, "--source", name)
        assert found.exit_code == 2 and says in found.stderr, found.stderr
    found = call(cli_cache.main, *words, "--flip")
    assert "source 'repa-folder' cannot mirror its samples" in found.stderr
