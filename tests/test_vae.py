"""sd-vae, with the real loading code, on small random autoencoders in diffusers' own format."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reed import config
from reed.build import column, engines
from reed.build.shard import BadSample
from reed.cache import reader
from reed.encoders import ENCODERS
from reed.errors import ReedError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

WEIGHTS = "diffusion_pytorch_model.safetensors"
NOW_TO_OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def save_vae(folder, seed: int = 0, **settings):
    """A random autoencoder of 8 pixels per latent, as diffusers writes it."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    model = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **{"latent_channels": 4, **settings},
    )
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """The folder of an autoencoder and the autoencoder."""
    folder = tmp_path_factory.mktemp("vae")
    return folder, save_vae(folder)


def make(folder, **options):
    found = ENCODERS.get("sd-vae")
    given = found.keywords | {"weights": str(folder), "resolution": 64} | options
    return config.build(found.func, given, "sd-vae")


def pictures(count: int, side: int = 64) -> list[dict]:
    rng = np.random.default_rng(5)
    return [{"image": rng.integers(0, 256, (side, side, 3), dtype=np.uint8)} for _ in range(count)]


@pytest.fixture(scope="module")
def encoder(vae):
    made = make(vae[0])
    made.load("cpu")
    return made


def posterior(model, samples):
    images = np.stack([sample["image"] for sample in samples])
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        return model.encode(pixels).latent_dist


def test_moments_are_mean_and_std_of_a_direct_call(encoder, vae):
    samples = pictures(3)
    moments = np.stack(encoder.encode(samples)["moments"])
    assert moments.shape == (3, 8, 8, 8) == (3, *encoder.fields[0].shape)
    want = posterior(vae[1], samples)
    np.testing.assert_allclose(moments[:, :4], want.mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(moments[:, 4:], want.std, rtol=0, atol=1e-5)
    assert (moments[:, 4:] > 0).all()
    np.testing.assert_allclose(2 * np.log(moments[:, 4:]), want.logvar, rtol=0, atol=1e-4)


def test_moments_do_not_depend_on_the_batch(encoder):
    samples = pictures(4)
    together = encoder.encode(samples)["moments"]
    for sample, moments in zip(samples, together, strict=True):
        alone = encoder.encode([sample])["moments"][0]
        np.testing.assert_allclose(alone, moments, rtol=0, atol=1e-5)


def test_the_field_is_known_before_anything_is_loaded():
    (field,) = ENCODERS.get("sd-vae")().fields
    assert (field.name, field.kind, field.shape) == ("moments", "moments", (8, 32, 32))
    assert (field.codec, field.scale, field.shift) == ("float16", (0.18215,), (0.0,))
    (large,) = make("/nowhere", resolution=512, channels=16, scale=1.5305, shift=0.0609).fields
    assert (large.shape, large.scale, large.shift) == ((32, 64, 64), (1.5305,), (0.0609,))


def test_decode_inverts_the_scale_of_the_pixels(encoder, vae):
    latents = np.random.default_rng(1).standard_normal((2, 4, 8, 8)).astype(np.float32)
    images = encoder.decode(latents)
    assert images.shape == (2, 64, 64, 3) and images.dtype == np.uint8
    with torch.no_grad():
        want = vae[1].decode(torch.from_numpy(latents)).sample.permute(0, 2, 3, 1)
    level = ((want + 1) * 127.5).clamp(0, 255).numpy()
    assert np.abs(images - level).max() <= 0.5 + 1e-3


def test_names_of_attention_layers_from_older_files_are_read(vae, encoder, tmp_path):
    state = load_file(vae[0] / WEIGHTS)
    for now, old in NOW_TO_OLD.items():
        state = {key.replace(f".{now}.", f".{old}."): value for key, value in state.items()}
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in state
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / "config.json").write_bytes((vae[0] / "config.json").read_bytes())
    older = make(tmp_path)
    older.load("cpu")
    samples = pictures(1)
    assert np.array_equal(older.encode(samples)["moments"], encoder.encode(samples)["moments"])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"latent_channels": 8}, "channels is 4, the autoencoder in .* has 8: .*channels=8"),
        ({"scaling_factor": 1.5}, r"scale is 0.18215, .* has 1.5: --set sd-vae.scale=1.5"),
        ({"shift_factor": 0.25}, "shift is 0.0, .* has 0.25"),
    ],
)
def test_options_are_compared_with_the_autoencoder(tmp_path, settings, problem):
    save_vae(tmp_path, **settings)
    with pytest.raises(ReedError, match=problem):
        make(tmp_path).load("cpu")


def test_another_number_of_pixels_per_latent_is_refused(vae):
    with pytest.raises(ReedError, match="down is 16, the autoencoder .* has 8"):
        make(vae[0], down=16).load("cpu")
    with pytest.raises(ReedError, match="resolution 60 is not a multiple of sd-vae.down 8"):
        make(vae[0], resolution=60)
    with pytest.raises(ReedError, match="precision cannot be 'fp64'.*fp32"):
        make(vae[0], precision="fp64")


def test_weights_that_do_not_fit_are_listed(vae, tmp_path):
    (tmp_path / "config.json").write_bytes((vae[0] / "config.json").read_bytes())
    state = load_file(vae[0] / WEIGHTS)
    state["extra"] = state.pop("quant_conv.bias")
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(ReedError, match=r"1 missing \(quant_conv.bias\); 1 unexpected \(extra\)"):
        make(tmp_path).load("cpu")


def test_a_folder_without_a_configuration_or_of_another_class_is_refused(vae, tmp_path):
    save_file(load_file(vae[0] / WEIGHTS), tmp_path / WEIGHTS)
    with pytest.raises(ReedError, match="cannot read .*config.json, which describes the weights"):
        make(tmp_path).revision()
    said = json.loads((vae[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(said | {"_class_name": "UNet2DModel"}))
    with pytest.raises(ReedError, match="'UNet2DModel'; use a diffusers autoencoder"):
        make(tmp_path).load("cpu")


def test_images_of_another_size_or_type_are_refused(encoder):
    with pytest.raises(ReedError, match="32 pixels a side.*64: --set sd-vae.resolution=32"):
        encoder.encode(pictures(1, side=32))
    for image in (np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3)), np.zeros((8, 9, 3), "u1")):
        with pytest.raises(BadSample, match="it should be uint8"):
            encoder.encode([{"image": image}])
    with pytest.raises(
        BadSample, match=r"is \(32, 32, 3\), the first one of the batch \(64, 64, 3\)"
    ):
        encoder.encode(pictures(1) + pictures(1, side=32))


def test_the_revision_follows_weights_configuration_and_options(vae, tmp_path):
    same = make(vae[0]).revision()
    save_vae(tmp_path)
    assert make(tmp_path).revision() == same
    found = {same, make(vae[0], precision="tf32").revision(), make(vae[0], resolution=8).revision()}
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(said | {"act_fn": "gelu"}))
    found.add(make(tmp_path).revision())
    save_vae(tmp_path, seed=1)
    found.add(make(tmp_path).revision())
    assert len(found) == 5
    assert "mean+std" in same and "diffusers-" in same


def test_the_public_weights_are_pinned_to_a_commit():
    encoder = ENCODERS.get("sd-vae")()
    assert encoder.origin.repo == "stabilityai/sd-vae-ft-mse" and len(encoder.origin.revision) == 40
    assert encoder.licence == "MIT"
    other = make(None, hub="some/pipeline", subfolder="vae").origin
    assert other.revision == "main" and other.files == ("vae/config.json", f"vae/{WEIGHTS}")


class Pictures:
    """A source of random images."""

    entries = ("image",)
    views = 1

    def __init__(self, count: int) -> None:
        self.samples = pictures(count)

    def listing(self) -> dict[str, str]:
        return {f"{i:03}": "1" for i in range(len(self.samples))}

    def read(self, key: str, view: int = 0) -> dict:
        return self.samples[int(key)]


def test_a_cache_of_moments_is_what_the_autoencoder_gives(vae, encoder, fakes, tmp_path):
    source, cache = Pictures(5), tmp_path / "cache"
    plan = fakes.freeze(cache, source, shard_size=3)
    job = column.open_job(cache, plan, "sd-vae", encoder, source)
    engines.run(job, engines.Share(), progress=False)
    seen = 0
    for shard in range(plan.shards):
        state = reader.load_state(cache, job.column)
        for key, values in reader.records(cache, job.column, shard, encoder.fields, state):
            want = posterior(vae[1], [source.read(key)])
            direct = torch.cat([want.mean, want.std], 1)[0]
            np.testing.assert_allclose(values["moments"], direct, rtol=1e-3, atol=1e-4)
            seen += 1
    assert seen == 5
