"""Features as the data: tokens that a net generates, standardised, drawn and decoded."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from reed import config
from reed.cache import schema
from reed.cache.opened import open_cache
from reed.cache.schema import Field
from reed.cli import sample as cli_sample
from reed.domains.image import ImageDomain, SampleOptions
from reed.encoders import ENCODERS
from reed.errors import ReedError
from reed.train import recipe
from reed.train.run_data import RunData

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache = TINY.cache
TOKENS = "digits-vit/tokens"
NET = {"patch_size": 1, "hidden_size": 32, "depth": 2, "num_heads": 2}
OVER = {
    "data": {"x": TOKENS},
    "domain": {"predict": "x", "times": "shift:2", "net_settings": NET},
    "curriculum": {"digits-vit": 0.0, "caption-ngrams": 0.0},
    "steps": 4,
}


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    """A run that generates the tokens of the tiny cache."""
    return TINY.trained(TINY.settings(cache, tmp_path_factory.mktemp("run") / "tokens", **OVER))


def raw(cache):
    """The tokens as their encoder gave them, [N, T, C]."""
    source = TINY.Source()
    return np.stack([source.read(key)["tokens"] for key in source.listing()])


def test_the_net_sees_each_channel_of_the_column_standardised(cache):
    """The statistics are those of numpy over all that the encoder gave."""
    setup = recipe.check(TINY.settings(cache, Path("none"), **OVER))
    field, want = setup.fields["x"], raw(cache).reshape(-1, 24).astype(np.float64)
    np.testing.assert_allclose(field.shift, want.mean(0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(field.scale, 1 / want.std(0), rtol=1e-10)

    # Stored as int8, the values are those of the encoder up to a step of the codec.
    with open_cache(cache) as opened:
        stored = torch.stack([torch.as_tensor(v) for v in opened[TOKENS].values()])
    label = torch.zeros(len(stored), dtype=torch.int64)
    batch = setup.domain.collate({"x": stored, "label": label}, setup.fields, {})
    x = batch.data["x"]
    assert x.shape == (64, 24, 4, 4) and x.dtype == torch.float32
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(24), rtol=0, atol=1e-2)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(24), rtol=0, atol=1e-2)
    token = (stored[5, 7] - torch.tensor(field.shift)) * torch.tensor(field.scale)
    torch.testing.assert_close(x[5, :, 1, 3], token.float())  # row by row: token 7 is (1, 3)


def test_a_channel_that_never_varies_is_only_shifted(cache, monkeypatch):
    counted = {"count": 4, "sum": [12.0, 0.0], "sumsq": [36.0, 16.0]}
    marker = SimpleNamespace(stats={"tokens": counted})
    monkeypatch.setattr(schema, "load_marker", lambda *_: marker)
    with open_cache(cache) as opened:
        field = RunData.of_cache(opened, {"x": TOKENS, "label": "pixels/label"}).fields["x"]
    assert field.shift == (3.0, 0.0) and field.scale == (1.0, 0.5)


def test_samples_are_in_the_scale_of_the_column(run):
    """A net that is told what x is draws it: the inverse of the standardisation, token by token."""
    data = RunData.read(run)
    assert data is not None and len(data.fields["x"].shift) == 24
    domain = config.build(ImageDomain, {"classes": 4, "predict": "x", "net_settings": NET})
    net = domain.net(data.fields).eval()
    torch.nn.init.normal_(net.final_layer.linear.bias)
    drawn = domain.generate(net, data.fields, range(2), SampleOptions("euler", 4))["x"]
    field, bias = data.fields["x"], net.final_layer.linear.bias.detach().numpy()
    want = bias / np.array(field.scale) + np.array(field.shift)
    assert drawn.shape == (2, 16, 24) and drawn.dtype == np.float32
    np.testing.assert_allclose(drawn, np.broadcast_to(want, drawn.shape), rtol=0, atol=1e-4)
    assert domain.picture({"x": drawn}, data.fields).dtype == np.uint8


def test_a_column_without_statistics_is_refused(cache, monkeypatch):
    load = schema.load_marker

    def bare(*args, **_):
        return load(*args, stats=False)

    monkeypatch.setattr(schema, "load_marker", bare)
    with pytest.raises(ReedError, match="digits-vit/tokens, and the marker of shard 0 has no stat"):
        recipe.check(TINY.settings(cache, Path("none"), **OVER))
    empty = SimpleNamespace(stats={"tokens": {"count": 0, "sum": [0.0], "sumsq": [0.0]}})
    monkeypatch.setattr(schema, "load_marker", lambda *_: empty)
    with pytest.raises(ReedError, match="the column has no value to standardise it by"):
        recipe.check(TINY.settings(cache, Path("none"), **OVER))


def test_a_run_resumes_and_another_standardisation_is_refused_in_a_short_line(run, cache):
    more = TINY.settings(cache, run, **OVER | {"steps": 5})
    assert TINY.trained(more) == run
    text = (run / "data.json").read_text()
    table = json.loads(text)
    table["fields"]["x"]["shift"][3] += 1
    (run / "data.json").write_text(json.dumps(table))
    with pytest.raises(ReedError, match=r"fields.x.shift = '24 numbers from .*; give --sh") as said:
        TINY.trained(TINY.settings(cache, run, **OVER | {"steps": 6}))
    assert len(str(said.value)) < 400 + len(str(run))
    (run / "data.json").write_text(text)


def save_rae(folder, seed: int = 0, **settings):
    """A random AutoencoderRAE of 4 x 4 tokens of 24 channels, as diffusers writes it."""
    pytest.importorskip("transformers")
    from diffusers import AutoencoderRAE

    torch.manual_seed(seed)
    model = AutoencoderRAE(
        **{
            "encoder_hidden_size": 24,
            "encoder_num_hidden_layers": 1,
            "encoder_input_size": 56,
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 32,
            "patch_size": 8,
            "latents_mean": torch.randn(24, 4, 4),
            "latents_std": torch.rand(24, 4, 4) + 0.5,
            **settings,
        }
    )
    model.save_pretrained(folder)
    return model.eval()


def small_heads(patch: pytest.MonkeyPatch) -> None:
    """Let diffusers build encoders of 24 channels, too few for its heads of 64."""
    from diffusers.models.autoencoders import autoencoder_rae

    build = autoencoder_rae._build_encoder
    patch.setattr(autoencoder_rae, "_build_encoder", lambda *a, **k: build(*a, **k, head_dim=12))


@pytest.fixture(scope="module")
def rae(tmp_path_factory):
    """The folder of a small autoencoder, and the autoencoder."""
    folder = tmp_path_factory.mktemp("rae") / "small"
    with pytest.MonkeyPatch.context() as patch:
        small_heads(patch)
        yield folder, save_rae(folder)


def make(folder, **options):
    found = ENCODERS.get("rae-dinov2-s")
    given = found.keywords | {"weights": str(folder), "channels": 24, "grid": 4} | options
    return config.build(found.func, given, "rae-dinov2-s")


def test_tokens_are_those_of_diffusers_before_its_own_statistics(rae):
    folder, model = rae
    encoder = make(folder)
    assert encoder.fields == (Field("tokens", "token", (16, 24), "int8"),)
    assert encoder.revision().startswith("sha256:") and "tokens fp32" in encoder.revision()
    encoder.load("cpu")
    images = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    tokens = encoder.encode([{"image": image} for image in images])["tokens"]
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        latent = model.encode(pixels).latent
        want = model.decode(latent).sample.permute(0, 2, 3, 1).numpy()
    grid = torch.as_tensor(tokens).mT.unflatten(2, (4, 4))
    ours = (grid - model._latents_mean) / (model._latents_std + 1e-5)
    torch.testing.assert_close(ours, latent, rtol=0, atol=1e-4)

    # And back: the decoder gives the pixels that diffusers' own decoding gives.
    decoded = encoder.decode(tokens)
    assert decoded.shape == (2, 32, 32, 3) and decoded.dtype == np.uint8
    assert np.abs(decoded - (want * 255).clip(0, 255)).max() <= 0.5 + 1e-2


def test_what_is_no_fitting_autoencoder_is_refused(rae, tmp_path):
    folder, _ = rae
    with pytest.raises(ReedError, match="channels is 32, the autoencoder has 24: --set rae-dinov2"):
        make(folder, channels=32).load("cpu")
    with pytest.raises(ReedError, match="grid is 16, the autoencoder has 4"):
        make(folder, grid=16).load("cpu")
    said = json.loads((folder / "config.json").read_text())
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(said | {"_class_name": "AutoencoderKL"}))
    with pytest.raises(ReedError, match="is of the class 'AutoencoderKL', not AutoencoderRAE"):
        make(tmp_path).load("cpu")


def test_an_old_diffusers_is_named(rae, monkeypatch):
    monkeypatch.setattr("reed.weights.library", lambda *_: SimpleNamespace())
    with pytest.raises(ReedError, match="needs a newer diffusers, which has AutoencoderRAE"):
        make(rae[0]).load("cpu")


def draw(run, out, *words):
    names = ("--run", run, "--out", out, "--num", 3, "--batch", 2, "--steps", 2, *words)
    found = CliRunner().invoke(cli_sample.main, [str(word) for word in names])
    return found


def test_samples_are_written_as_tokens_or_decoded(run, rae, tmp_path):
    found = draw(run, tmp_path / "t")
    assert found.exit_code == 0, found.output + repr(found.exception)
    assert "'tokens' are written as they are; to decode them, give the folder" in found.stderr
    with np.load(tmp_path / "t.npz") as file:
        tokens = file["arr_0"]
    assert tokens.shape == (3, 16, 24) and tokens.dtype == np.float32
    field = RunData.read(run).fields["x"]
    assert np.abs((tokens - field.shift) * np.array(field.scale)).mean() < 3  # raw, as the column

    found = draw(run, tmp_path / "i", "--vae", rae[0])
    assert found.exit_code == 0, found.output + repr(found.exception)
    with np.load(tmp_path / "i.npz") as file:
        images = file["arr_0"]
    encoder = make(rae[0])
    encoder.load("cpu")
    np.testing.assert_array_equal(images, np.concatenate([encoder.decode(t[None]) for t in tokens]))
    said = json.loads((tmp_path / "i.json").read_text())["vae"]
    assert said["encoder"] == "rae-dinov2-b" and said["weights"].startswith("sha256:")
    missing = draw(run, tmp_path / "n", "--vae", tmp_path / "nowhere")
    said = "nowhere: there is nothing; give the folder of an AutoencoderRAE"
    assert missing.exit_code == 2 and said in missing.stderr and "dinov2" not in missing.stderr
    refused = draw(run, tmp_path / "p", "--png")
    assert refused.exit_code == 2 and "--png and --tars need images: to decode" in refused.stderr
