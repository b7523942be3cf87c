"""Samples of latents: decoded by the autoencoder that the run's column was encoded with."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from reed import stage_one
from reed.build import column, engines
from reed.cache import plan, schema
from reed.cache.schema import Field
from reed.cli import sample as cli_sample
from reed.errors import ReedError
from reed.sample import decoder
from reed.sample.sampler import Sampler
from reed.train import export

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

TINY, IMAGES = (
    SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name(f"tiny_{name}.py"))))
    for name in ("cache", "images")
)
WEIGHTS = "diffusion_pytorch_model.safetensors"
SIDE, COUNT = 32, 16
FIELDS = {"x": "sd-vae/moments", "label": "labels/label"}


class Source:
    """Random images of two classes."""

    entries, views = ("image", "label", "moments"), 1

    def listing(self):
        return {f"s{i:02d}": "1" for i in range(COUNT)}

    def read(self, key, view=0):
        rng = np.random.default_rng(int(key[1:]))
        return {
            "image": rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
            "label": int(key[1:]) % 2,
            "moments": rng.random((8, 4, 4), np.float32),
        }


def build(cache, encoder, options):
    """A cache of latents and labels; options: of the latents' encoder."""
    frozen = plan.freeze(
        cache, Source().listing(), pipeline="imagenet", domain="image", source="x", shard_size=8
    )
    for name, kind, given in (("sd-vae", encoder, options), ("labels", "labels", {})):
        made = stage_one.make_encoder(kind, Path(), given)
        made.load("cpu")
        job = column.open_job(cache, frozen, name, made, Source(), encoder_name=kind, options=given)
        engines.run(job, engines.Share(), progress=False)
    return cache


def trained(cache, run):
    table = {
        "steps": 2,
        "batch": 8,
        "data": FIELDS,
        "align": {},
        "curriculum": {},
        "domain": {
            "classes": 2,
            "net_settings": {"patch_size": 2, "hidden_size": 32, "depth": 2, "num_heads": 2},
        },
    }
    return TINY.trained(
        TINY.config.build(
            TINY.TrainConfig, TINY.TABLE | table | {"shards": str(cache), "run": str(run)}
        )
    )


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """The folder of an autoencoder and the autoencoder, whose images use the whole range."""
    folder = tmp_path_factory.mktemp("vae") / "own"
    return folder, IMAGES.vae(folder)


@pytest.fixture(scope="module")
def run(vae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    options = {"weights": str(vae[0]), "resolution": SIDE, "batch_size": 3}
    return trained(build(folder / "cache", "sd-vae", options), folder / "run")


def call(*words):
    return CliRunner().invoke(cli_sample.main, [str(word) for word in words])


def draw(out, *words):
    found = call("--out", out, "--num", 5, "--batch", 4, "--steps", 2, *words)
    assert found.exit_code == 0, found.output + repr(found.exception)
    with np.load(f"{out}.npz") as arrays:
        return arrays["arr_0"], json.loads(Path(f"{out}.json").read_text()), found.stderr


def decoded(model, latents):
    with torch.no_grad():
        return model.decode(torch.from_numpy(latents)).sample.permute(0, 2, 3, 1).numpy()


def test_latents_of_a_run_become_images(run, vae, tmp_path):
    images, said, _ = draw(tmp_path / "s", "--run", run)
    latents, other, _ = draw(tmp_path / "z", "--run", run, "--vae", "none")
    assert images.shape == (5, SIDE, SIDE, 3) and images.dtype == np.uint8
    assert latents.shape == (5, 4, 4, 4) and latents.dtype == np.float32
    level = (decoded(vae[1], latents) * 127.5 + 127.5).clip(0, 255)
    assert images.std() > 0 and np.abs(images - level).max() <= 0.5 + 1e-2
    cut, _, _ = draw(tmp_path / "c", "--run", run, "--rounding", "down")
    assert (images.astype(int) - cut).min() == 0 and (images.astype(int) - cut).max() == 1
    digest = stage_one.make_encoder("sd-vae", Path(), {"weights": str(vae[0])}).revision()
    want = {"encoder": "sd-vae", "weights": digest.split()[0], "precision": "fp32"}
    assert said["vae"] == want and said["rounding"] == "nearest"
    assert other["vae"] is None and other["rounding"] is None
    assert Path(tmp_path / "s.png").is_file() and not Path(tmp_path / "z.png").exists()


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_decoded_images_are_the_same_at_any_batch_size(run, tmp_path, batch):
    images, _, _ = draw(tmp_path / "a", "--run", run)
    others, _, _ = draw(tmp_path / "b", "--run", run, "--batch", batch)
    np.testing.assert_array_equal(others, images)


def test_kept_latents_are_named_so(run):
    for words, name in ((["--vae", "none"], "latents"), ([], "")):
        assert call("--run", run, "--num", 1, "--steps", 1, *words).exit_code == 0
        stem = "-".join(part for part in ("step-0000002-euler1-fp32", name) if part)
        assert (run / "samples" / f"{stem}.npz").is_file()
    refused(["--png and --tars need images"], "--run", run, "--vae", "none", "--png")


def refused(parts, *words):
    found = call(*words)
    assert found.exit_code == 2 and found.stdout == "", found.output + repr(found.exception)
    (line,) = found.stderr.splitlines()
    assert line.startswith("Error: ") and all(part in line for part in parts), line


@pytest.fixture(scope="module")
def other(vae, tmp_path_factory):
    """An autoencoder of other weights."""
    folder = tmp_path_factory.mktemp("vae") / "other"
    model = IMAGES.vae(folder)
    with torch.no_grad():
        model.decoder.conv_out.bias += 0.5
    model.save_pretrained(folder)
    return folder


def test_other_weights_are_taken_on_purpose_and_told(run, other, tmp_path):
    images, said, told = draw(tmp_path / "s", "--run", run, "--vae", other)
    mine, own, silent = draw(tmp_path / "own", "--run", run)
    assert "column 'sd-vae' was encoded by weights sha256:" in told and str(other) in told
    assert "encoded" not in silent and said["vae"] != own["vae"]
    assert np.abs(images.astype(int) - mine).max() > 30
    words = ("--run", run, "--out", tmp_path / "own", "--num", 5, "--batch", 4, "--steps", 2)
    found = call(*words, "--vae", other)
    assert found.exit_code == 2 and "vae.weights = 'sha256:" in found.stderr
    assert call("--run", run, "--num", 1, "--steps", 1, "--vae", other).exit_code == 0
    assert (run / "samples" / "step-0000002-euler1-fp32-vae-other.npz").is_file()


def test_weights_that_changed_or_went_are_refused(vae, other, tmp_path):
    folder = tmp_path / "vae"
    folder.mkdir()
    for name in ("config.json", WEIGHTS):
        (folder / name).write_bytes((vae[0] / name).read_bytes())
    cache = build(tmp_path / "c", "sd-vae", {"weights": str(folder), "resolution": SIDE})
    run = trained(cache, tmp_path / "run")
    (folder / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())
    refused(["column 'sd-vae' was encoded by", "those found are", "--vae PATH"], "--run", run)
    (folder / WEIGHTS).unlink()
    cache.rename(tmp_path / "moved")  # what decodes is in the run, too
    refused(["sd-vae", str(folder), "--vae PATH; --vae none keeps latents"], "--run", run)
    assert not (run / "samples").exists()
    latents, _, _ = draw(tmp_path / "s", "--run", run, "--vae", "none")
    assert latents.shape[1:] == (4, SIDE // 8, SIDE // 8)


def test_imported_latents_are_decoded_by_the_usual_autoencoder(vae, tmp_path):
    cache = build(tmp_path / "c", "sd-vae-import", {"resolution": SIDE})
    run = trained(cache, tmp_path / "run")
    images, said, _ = draw(tmp_path / "s", "--run", run, "--vae", vae[0])
    assert images.shape == (5, SIDE, SIDE, 3) and said["vae"]["encoder"] == "sd-vae"


def test_public_latents_are_decoded(run, vae, tmp_path):
    export.write(run, tmp_path / "x.safetensors")
    words = ("--checkpoint", tmp_path / "x.safetensors")
    images, said, _ = draw(tmp_path / "s", *words, "--vae", vae[0])
    mine, _, _ = draw(tmp_path / "own", "--run", run)
    np.testing.assert_array_equal(images, mine)
    assert (said["run"], said["step"], said["images_seen"]) == (None, 2, None)
    assert said["checkpoint"] == str(tmp_path / "x.safetensors") and said["convention"] == "repa"
    refused(
        ["x.safetensors states its scale and shift", "leave out --scale"],
        *words,
        "--vae",
        vae[0],
        "--scale",
        0.5,
    )


def test_what_cannot_decode_is_named(run):
    found = schema.load_column(
        Path(json.loads((run / "config.json").read_text())["shards"]), "labels"
    )
    with pytest.raises(ReedError, match="encoder 'labels' of the latents cannot decode"):
        decoder.find(found, Field("x", "moments", (8, 4, 4)), "")
    assert Sampler.of_run(run).columns["x"].encoder == "sd-vae"
