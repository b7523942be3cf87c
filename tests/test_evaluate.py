"""reed-eval: what it measures, prints, warns of, writes and refuses."""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from reed import config
from reed.cli.evaluate import main
from reed.errors import ReedError
from reed.evaluate.provenance import beside
from reed.evaluate.reference import Computing, Reference
from reed.metrics import FEATURES
from reed.metrics.frechet import Gaussian, frechet_distance
from reed.metrics.image_set import open_images
from reed.metrics.mmd import cmmd

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))


class Half:
    """A stand-in feature space: the mean of each half of the image, and of each channel."""

    outputs = ("half", "channel")
    seen = 0  # images, over all of them

    def __init__(self, weights=None, precision="fp32"):
        self._about = f"{weights} {precision}"

    def revision(self):
        return f"half {self._about}"

    def lacks(self, real):
        return ""

    def load(self, device, real):
        assert device == "cpu"

    def __call__(self, images):
        assert images.dtype == np.uint8
        Half.seen += len(images)
        flat = images.reshape(len(images), 2, -1).astype(np.float64)
        return {"half": flat.mean(2), "channel": images.mean((1, 2))}


@pytest.fixture(autouse=True)
def spaces(monkeypatch):
    """Half under its own name, and in place of the networks."""
    FEATURES.names()
    for name in ("half", "inception", "dinov2-l", "clip-l-336"):
        monkeypatch.setitem(FEATURES._items, name, Half)
    monkeypatch.setattr(Half, "seen", 0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TINY.build(tmp_path_factory.mktemp("tiny") / "cache")


@pytest.fixture(scope="module")
def real(cache):
    return open_images(cache).all()


@pytest.fixture
def samples(real, tmp_path):
    path = tmp_path / "drawn" / "s.npz"
    path.parent.mkdir()
    np.savez(path, arr_0=np.minimum(real[:50], 250) + 5, arr_1=np.zeros(50))
    return path


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def record(path, *words):
    found = call(path, *words)
    assert found.exit_code == 0, found.output
    return json.loads(beside(path, ".eval.json").read_text()), found


def refused(*words):
    found = call(*words)
    assert found.exit_code == 2 and found.stdout == "", found.output
    *_, line = found.stderr.splitlines()
    assert line.startswith("Error: ") and "Traceback" not in found.stderr
    return line


def test_equal_sets_are_at_distance_zero(cache, real, tmp_path):
    np.savez(tmp_path / "s.npz", arr_0=real[::-1])
    words = ("--reference", cache, "--metrics", "fd,pr,kid,cmmd", "--features", "half")
    found, _ = record(tmp_path / "s.npz", *words)
    values = {name: each["value"] for name, each in found["metrics"].items()}
    assert values["fd/half"] == pytest.approx(0, abs=1e-6)
    assert values["cmmd/half"] == pytest.approx(0, abs=1e-6)
    assert values["precision/half"] == values["recall/half"] == 1
    assert values["kid/half"] < 0  # unbiased: a sample is not compared with itself


def test_a_record_says_what_its_numbers_are_of(cache, real, samples):
    found, said = record(samples, "--reference", cache, "--features", "half", "--num", 50)
    one = found["metrics"]["fd/half"]
    drawn = np.minimum(real[:50], 250) + 5
    ours = frechet_distance(*(Gaussian.of(Half()(x)["half"]) for x in (drawn, real)))
    assert one["value"] == pytest.approx(ours) and ours > 1
    assert one["features"] == "half" and one["revision"] == "half None fp32"
    assert one["device"] == "cpu" and one["reference_images"] == 64
    assert f"torch-{torch.__version__}" in one["evaluator"]
    about = open_images(cache)
    assert found["reference"] == {
        "place": str(cache),
        "kind": "cache",
        "num": 64,
        "shape": [8, 8, 4],
        "sha256": about.sha256,
    }
    assert found["samples"]["sha256"] == open_images(samples).sha256
    assert (found["samples"]["num"], found["samples"]["kind"]) == (50, "npz")
    assert set(found["recipe"].values()) == {None} and "guidance" in found["recipe"]
    assert found["stage_one"] == {"bytes": None, "seconds": None}
    (warning,) = found["warnings"]
    assert warning.startswith("50 samples are fewer than 2,048")
    assert f"Warning: {warning}" in said.stderr
    assert f"fd/half  {ours:10.4f}  half" in said.stdout
    assert str(beside(samples, ".eval.json")) in said.stdout


@pytest.fixture
def recipe(cache, samples):
    """What reed-sample writes beside the samples of a run, here one aligned to three columns."""
    settings = config.plain(TINY.settings(cache, samples.parent / "run"))
    settings["align"]["mine"] = {"target": "dinov2-b/tokens", "tap": 1}
    settings["curriculum"]["mine"] = 0.5
    table = {
        "run": "runs/x",
        "checkpoint": "runs/x/step-3",
        "step": 3,
        "ema": True,
        "sampler": "sde",
        "steps": 250,
        "guidance": {"scale": 1.8, "low": 0.0, "high": 0.7},
        "labels": "balanced",
        "seed": 0,
        "num": 50,
        "precision": "fp32",
        "vae": None,
        "images_seen": 48,
        "rounding": "nearest",
        "config": settings,
    }

    def write(**changes):
        path = samples.with_name("s.json")
        path.write_text(json.dumps(table | changes))
        return table | changes

    return write


def test_a_record_keeps_the_recipe_of_the_samples(cache, samples, recipe):
    table = recipe()
    found, _ = record(samples, "--reference", cache, "--features", "half")
    assert found["recipe"] == table
    size = found["stage_one"]["bytes"]
    assert size.keys() == {"pixels", "digits-vit", "caption-ngrams"}
    shards = (cache / "digits-vit").glob("*.tar")
    assert size["digits-vit"] == sum(path.stat().st_size for path in shards)


@pytest.mark.parametrize("metric", ["fd-dinov2", "kid"])
def test_a_space_that_the_run_was_aligned_to_is_warned_of(cache, samples, recipe, metric):
    table = recipe()
    circular = "aligned to dinov2-b, which dinov2-l is close to"
    found, _ = record(samples, "--reference", cache, "--metrics", metric)
    assert (circular in " ".join(found["warnings"])) == (metric == "fd-dinov2")
    table["config"]["curriculum"]["mine"] = 0
    recipe(config=table["config"])
    samples.with_name("s.eval.json").unlink()
    found, _ = record(samples, "--reference", cache, "--metrics", metric)
    assert "aligned" not in " ".join(found["warnings"])  # its weight was zero


def test_the_alignment_of_a_public_checkpoint_is_warned_of(cache, samples, recipe):
    recipe(config={"enc_type": "dinov2-vit-b", "data_dir": "x"}, run=None)
    found, _ = record(samples, "--reference", cache, "--metrics", "fd-dinov2")
    assert "aligned to dinov2-vit-b, which dinov2-l" in found["warnings"][1]


@pytest.mark.parametrize(("num", "part"), [(2047, "fewer than 2,048"), (2048, "published numbers")])
def test_few_samples_are_warned_of(tmp_path, num, part):
    draws = np.random.default_rng(0)
    np.savez(tmp_path / "s.npz", arr_0=draws.integers(0, 256, (num, 2, 2, 1), np.uint8))
    words = ("--reference", tmp_path / "s.npz", "--features", "half")
    found, _ = record(tmp_path / "s.npz", *words)
    assert len(found["warnings"]) == 1 and part in found["warnings"][0]


def adm(path, real, **more):
    """A reference file of the ADM suite: images, and statistics of more images than these."""
    space = Half()(real)
    both = [Gaussian.of(space[name] + 3) for name in space]
    about = {
        f"{name}{end}": value
        for each, end in zip(both, ("", "_s"), strict=True)
        for name, value in (("mu", each.mean), ("sigma", each.covariance))
    }
    np.savez(path, **about, **more)
    return both


def test_an_adm_reference_gives_its_statistics_to_fid_and_its_images_to_the_rest(
    tmp_path, real, samples, monkeypatch
):
    # as in the suite: FID and sFID are of the training set, precision and recall of some images
    monkeypatch.setattr(Half, "outputs", ("pool", "spatial", "logits"))
    plain = Half.__call__

    def as_inception(self, images):
        found = plain(self, images)
        return {"pool": found["half"], "spatial": found["channel"], "logits": found["channel"] / 50}

    both = adm(tmp_path / "adm.npz", real, arr_0=real)
    adm(tmp_path / "bare.npz", real)
    monkeypatch.setattr(Half, "__call__", as_inception)
    words = ("--reference", tmp_path / "adm.npz", "--metrics", "fid,sfid")
    found, _ = record(samples, *words)
    space = Half()
    rows = space(open_images(samples).all())
    for name, output, theirs in (("fid", "pool", both[0]), ("sfid", "spatial", both[1])):
        one = found["metrics"][name]
        assert one["value"] == pytest.approx(frechet_distance(Gaussian.of(rows[output]), theirs))
        assert one["reference_images"] is None
    Half.seen = 0
    found, _ = record(samples, *words[:3], "is,pr,kid,fid")
    assert list(found["metrics"]) == ["fid", "sfid", "is", "precision", "recall", "kid"]
    assert Half.seen == 50 + 64  # each image went through the space once
    assert found["metrics"]["precision"]["reference_images"] == 64
    assert found["metrics"]["is"]["value"] > 1
    record(
        samples,
        "--reference",
        tmp_path / "bare.npz",
        "--metrics",
        "is,fid",
        "--out",
        tmp_path / "other.json",
    )
    line = refused(
        samples,
        "--reference",
        tmp_path / "bare.npz",
        "--metrics",
        "pr",
        "--out",
        tmp_path / "other.json",
    )
    assert "bare.npz holds statistics of Inception and no images" in line


def test_a_reference_is_fitted_once(tmp_path, real, samples):
    place = tmp_path / "real.npz"
    np.savez(place, arr_0=real)
    words = ("--reference", place, "--features", "half", "--metrics", "fd,kid")
    first, _ = record(samples, *words)
    assert Half.seen == 64 + 50
    (kept,) = (tmp_path / ".statistics").iterdir()
    again, _ = record(samples, *words)
    assert Half.seen == 64 + 50 + 50 and again["metrics"] == first["metrics"]
    kept.write_bytes(b"cut short")
    found, said = record(samples, *words)
    assert "is damaged and was made again" in said.stderr and Half.seen == 278
    assert found["metrics"] == first["metrics"]
    np.savez(place, arr_0=real[:60])  # another content under the same name
    record(samples, *words, "--out", tmp_path / "x.json")
    assert Half.seen == 278 + 60 + 50 and len(list(kept.parent.iterdir())) == 2


def test_statistics_that_cannot_be_kept_are_a_warning(tmp_path, real, samples):
    np.savez(tmp_path / "real.npz", arr_0=real)
    (tmp_path / ".statistics").write_text("a file where a folder should be")
    words = ("--reference", tmp_path / "real.npz", "--features", "half")
    assert "statistics of the reference were not kept" in record(samples, *words)[1].stderr


def test_real_images_whose_features_are_kept_are_drawn_by_chance(tmp_path, real, monkeypatch):
    monkeypatch.setattr("reed.evaluate.reference.ROWS", 10)
    np.savez(tmp_path / "real.npz", arr_0=real)
    rows = Reference(tmp_path / "real.npz", "half").rows()
    whole = Half()(real)["half"]
    chosen = [int(np.flatnonzero((whole == row).all(1))[0]) for row in rows]
    assert len(chosen) == 10 and chosen == sorted(set(chosen)) and chosen[-1] > 30
    in_parts = Reference(tmp_path / "real.npz", "half", how=Computing(batch=7))
    assert np.array_equal(rows, in_parts.rows())


def test_folders_are_measured_like_files(tmp_path, real):
    from PIL import Image

    for name, images in (("real", real), ("drawn", real[:40] // 2)):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image[..., :3]).save(tmp_path / name / f"{i:03}.png")
    (tmp_path / "drawn.json").write_text('{"num": 40, "sampler": "heun"}')
    words = ("--reference", tmp_path / "real", "--features", "half", "--metrics", "cmmd")
    found, _ = record(tmp_path / "drawn", *words)
    assert (tmp_path / "drawn.eval.json").is_file()
    assert found["recipe"]["sampler"] == "heun" and found["samples"]["kind"] == "folder"
    rows = [torch.from_numpy(Half()(x[..., :3])["half"]) for x in (real[:40] // 2, real)]
    assert found["metrics"]["cmmd/half"]["value"] == pytest.approx(cmmd(*rows))


def test_numbers_of_the_same_samples_are_kept_and_of_others_replaced(cache, real, samples):
    words = ("--reference", cache, "--features", "half", "--metrics")
    record(samples, *words, "fd")
    found, said = record(samples, *words, "kid,cmmd")
    assert list(found["metrics"]) == ["fd/half", "kid/half", "cmmd/half"]
    assert all(name in said.stdout for name in found["metrics"])
    np.savez(samples, arr_0=real[:30])
    assert list(record(samples, *words, "cmmd")[0]["metrics"]) == ["cmmd/half"]


def test_a_record_is_not_mixed_with_another_reference(cache, real, samples, tmp_path):
    words = ("--features", "half", "--reference")
    record(samples, *words, cache)
    np.savez(tmp_path / "other.npz", arr_0=real)
    line = refused(samples, *words, tmp_path / "other.npz")
    assert all(part in line for part in ("s.eval.json", str(cache), "other.npz", "--out"))
    assert call(samples, *words, tmp_path / "other.npz", "--out", tmp_path / "o.json").stdout
    for content in ("no json", "[]", '{"samples": 1}'):
        (tmp_path / "o.json").write_text(content)
        line = refused(samples, *words, cache, "--out", tmp_path / "o.json")
        assert "o.json" in line and "choose another --out" in line


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--metrics", "fidd"], "unknown metric 'fidd'. Did you mean 'fid'?"),
        (["--metrics", ","], "unknown metric ','"),
        (["--features", "haff"], "unknown feature space 'haff'. Did you mean 'half'?"),
        (["--metrics", "fid", "--features", "half"], "of the metrics fid none may be taken in"),
        (["--num", "51"], "holds 50 samples, --num says 51"),
        (["--weights", "half"], "--weights 'half' must be SPACE=FILE"),
        (["--features", "half", "--weights", "hal=x"], "--weights hal: no metric uses it. Did you"),
        (["--weights", "digits-mlp=x"], "digits-mlp is fitted to the reference: it has no weights"),
        (["--metrics", "fd", "--precision", "bf16"], "no precision to choose"),
        (["--device", "quantum"], "--device quantum cannot be used here"),
    ],
)
def test_what_a_user_may_mistype_is_named(cache, samples, words, part):
    assert part in refused(samples, "--reference", cache, *words)


def test_samples_that_cannot_be_compared_are_refused(cache, real, samples, tmp_path):
    path = tmp_path / "t.npz"
    words = (path, "--reference", cache, "--features", "half")
    assert "cannot read samples from" in refused(*words)
    np.savez(path, arr_0=real[..., :3])
    assert "shape (8, 8, 3), the images of" in (line := refused(*words)) and "(8, 8, 4)" in line
    np.savez(path, arr_0=real[:1])
    assert "t.npz holds 1 sample; at least 2 are needed" in refused(*words)
    np.savez(path, mu=np.zeros(2), sigma=np.eye(2))
    assert "t.npz holds 0 samples" in refused(*words)
    words = (samples, "--features", "half", "--reference")
    assert "cannot read the reference from" in refused(*words, tmp_path / "nowhere")
    np.savez(path, arr_0=real)
    line = refused(samples, "--reference", path, "--features", "digits-mlp")
    assert "t.npz has no labels" in line and "--features inception" in line


def test_numbers_of_a_space_are_written_before_the_next_one_is_entered(cache, samples, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setitem(FEATURES._items, "dinov2-l", type("Fails", (Half,), {"load": fail}))
    words = ("--reference", cache, "--metrics", "kid,fd-dinov2")
    assert isinstance(call(samples, *words).exception, MemoryError)
    written = json.loads(samples.with_name("s.eval.json").read_text())
    assert list(written["metrics"]) == ["kid"]


def test_weights_that_are_not_there_are_told_first(cache, samples, monkeypatch):
    def missing(*_):
        raise ReedError("there are none")

    monkeypatch.setitem(FEATURES._items, "dinov2-l", type("None", (Half,), {"revision": missing}))
    assert "there are none" in refused(samples, "--reference", cache, "--metrics", "kid,fd-dinov2")
    assert Half.seen == 0 and not samples.with_name("s.eval.json").exists()


def test_features_that_are_not_finite_are_refused(cache, samples, monkeypatch):
    bad = {"half": np.full((64, 2), np.nan), "channel": np.zeros((64, 4))}
    monkeypatch.setattr(
        Half, "__call__", lambda _, x: {name: rows[: len(x)] for name, rows in bad.items()}
    )
    line = refused(samples, "--reference", cache, "--features", "half", "--metrics", "kid")
    assert "in half/half: 50 of 50 feature vectors are not finite" in line


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "cannot read the recipe"),
        ("[1]", "it holds no table"),
        ('{"num": 7}', "says that 7 samples were drawn"),
    ],
)
def test_a_recipe_that_is_not_of_the_samples_is_refused(cache, samples, content, part):
    samples.with_name("s.json").write_text(content)
    line = refused(samples, "--reference", cache, "--features", "half")
    assert part in line and "s.json" in line


def test_a_reference_measures_any_number_of_files(cache, real, samples):
    """What pipelines use: one reference in memory, and nothing written."""
    reference = Reference(cache, "half")
    assert np.array_equal(reference.images, real)
    before = sorted(os.listdir(cache.parent))
    found = reference.measure(samples)
    halves = [reference.gaussian(x) for x in (open_images(samples).all(), real)]
    assert found["frechet_distance"] == pytest.approx(frechet_distance(*halves))
    assert (found["samples"], found["reference_samples"], found["features"]) == (50, 64, "half")
    assert reference.measure(samples) == found and Half.seen == 64 + 50 * 2 + 114
    assert sorted(os.listdir(cache.parent)) == before
    with pytest.raises(ReedError, match="at least 2"):
        np.savez(samples, arr_0=real[:1])
        reference.measure(samples)
