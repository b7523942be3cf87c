"""diffusers:NAME, on small random autoencoders: as diffusers' own encode and its pipelines do."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reed.cache.schema import Column
from reed.domains.image import ImageDomain
from reed.encoders import ENCODERS
from reed.encoders.image import vae
from reed.errors import ReedError
from reed.jobs import make_encoder
from reed.sample import decoder

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
SIDE = 32
BLOCKS = {
    "block_out_channels": (8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
STATED = {"latents_mean": [0.1, -0.2, 0.3], "latents_std": [2.0, 0.5, 1.5]}
DC = {
    "latent_channels": 4,
    "encoder_block_types": ("ResBlock",) * 3,
    "decoder_block_types": ("ResBlock",) * 3,
    "encoder_block_out_channels": (8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8),
    "encoder_layers_per_block": (1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1),
    "encoder_qkv_multiscales": ((), (), ()),
    "decoder_qkv_multiscales": ((), (), ()),
    "scaling_factor": 0.3189,
}
MODELS = {  # class, settings: of Stable Diffusion 3.5, of statistics per channel, FLUX.2, DC-AE
    "sd3.5": (
        "AutoencoderKL",
        BLOCKS | {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609},
    ),
    "stated": ("AutoencoderKL", BLOCKS | STATED | {"latent_channels": 3, "scaling_factor": 0.5}),
    "flux.2": ("AutoencoderKLFlux2", BLOCKS | {"latent_channels": 4}),
    "dc-ae": ("AutoencoderDC", DC),
}


def save(folder, name: str):
    """A random model of the class, with statistics of its norm that are no defaults."""
    import diffusers

    family, settings = MODELS[name]
    torch.manual_seed(4)
    model = getattr(diffusers, family)(**settings).eval()
    if name == "flux.2":
        model.bn.running_mean.normal_()
        model.bn.running_var.uniform_(0.5, 2)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=MODELS)
def saved(request, tmp_path_factory):
    """Name, folder and model."""
    folder = tmp_path_factory.mktemp("autoencoder") / request.param
    return request.param, folder, save(folder, request.param)


def make(folder, **options):
    return make_encoder(f"diffusers:{folder}", Path(), {"resolution": SIDE, **options})


def pictures():
    rng = np.random.default_rng(6)
    return [{"image": rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)} for _ in range(2)]


def by_pipeline(name: str, model, pixels):
    """Mean or latent as the pipelines of diffusers hand it to their nets, and what they decode."""
    encoded = model.encode(pixels)
    if name == "dc-ae":
        z = encoded.latent
        return z * model.config.scaling_factor, model.decode(z).sample
    z = encoded.latent_dist.mode()
    image = model.decode(z).sample
    if name == "flux.2":
        from diffusers import Flux2Pipeline

        grid, bn = Flux2Pipeline._patchify_latents(z), model.bn
        mean = bn.running_mean.view(1, -1, 1, 1)
        std = torch.sqrt(bn.running_var.view(1, -1, 1, 1) + model.config.batch_norm_eps)
        return (grid - mean) / std, image
    if name == "stated":  # as StableDiffusionXLPipeline, the other way round
        mean, std = (
            torch.tensor(STATED[f"latents_{n}"]).view(1, -1, 1, 1) for n in ("mean", "std")
        )
        return (z - mean) * model.config.scaling_factor / std, image
    return (z - model.config.shift_factor) * model.config.scaling_factor, image


def test_a_net_sees_the_latents_of_the_pipelines_and_they_decode(saved):
    name, folder, model = saved
    encoder = make(folder)
    (field,) = encoder.fields  # known before anything is loaded
    encoder.load("cpu")
    assert encoder.fields == (field,) and encoder.revision() == make(folder).revision()
    samples = pictures()
    stored = torch.as_tensor(np.asarray(encoder.encode(samples)[field.name]))
    assert tuple(stored.shape[1:]) == field.shape

    pixels = torch.from_numpy(np.stack([s["image"] for s in samples])).permute(0, 3, 1, 2)
    with torch.no_grad():
        want, image = by_pipeline(name, model, pixels.float() / 127.5 - 1)
    domain = ImageDomain(classes=2)
    label = torch.zeros(2, dtype=torch.int64)
    batch = domain.collate({"x": stored, "label": label}, {"x": field}, {})
    torch.testing.assert_close(batch.data["x"], want, rtol=1e-4, atol=1e-4)

    # Drawn samples go back through the scale of the cache to the pixels of diffusers' own decoder.
    scale, shift = (torch.tensor(n).view(1, -1, 1, 1) for n in (field.scale, field.shift))
    column = Column("z", f"diffusers:{folder}", encoder.revision(), ("image",), (field,))
    column = Column(**vars(column) | {"options": {"resolution": SIDE}})
    found = decoder.find(column, field, "")
    found.load("cpu")
    images = found.images((want / scale + shift).numpy(), "nearest")
    level = ((image + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert images.shape == (2, SIDE, SIDE, 3) and level.std() > 0
    assert np.abs(images - level).max() <= 0.5 + 1e-2
    assert decoder.can_decode(column)


def test_the_deviation_of_flux_2_is_in_patches_too(tmp_path):
    """Channel c of a pixel in row r and column s of a patch is channel 4 c + 2 r + s."""
    model = save(tmp_path, "flux.2")
    encoder = make(tmp_path)
    encoder.load("cpu")
    moments = torch.as_tensor(np.asarray(encoder.encode(pictures())["moments"]))
    image = torch.from_numpy(pictures()[1]["image"]).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        std = model.encode(image).latent_dist.std[0]
    assert moments.shape == (2, 32, 4, 4) and std.shape == (4, 8, 8)
    for c, row, column in ((0, 0, 0), (3, 5, 2), (1, 6, 7)):
        place = 16 + 4 * c + 2 * (row % 2) + column % 2
        torch.testing.assert_close(moments[1, place, row // 2, column // 2], std[c, row, column])


def test_names_lead_to_repositories_and_folders():
    known = ENCODERS.get("diffusers:flux.2").keywords
    assert (known["hub"], known["subfolder"]) == ("black-forest-labs/FLUX.2-dev", "vae")
    assert known["name"] == "diffusers:flux.2"
    own = ENCODERS.get("diffusers:some/model/a/b@1234").keywords
    assert (own["hub"], own["subfolder"]) == ("some/model@1234", "a/b")
    assert ENCODERS.get("diffusers:./mine").keywords["weights"] == "./mine"
    for name in vae.PUBLIC:
        assert "/" in ENCODERS.get(f"diffusers:{name}").keywords["hub"]
    with pytest.raises(ReedError, match="diffusers:flux2 is neither OWNER/NAME.*'flux.2'"):
        ENCODERS.get("diffusers:flux2")


def test_options_that_differ_and_other_classes_are_refused(tmp_path):
    save(tmp_path, "dc-ae")
    with pytest.raises(ReedError, match=r"scale is 1.0, the autoencoder in .* has 0.3189: --set"):
        make(tmp_path, scale=1.0).fields  # noqa: B018
    with pytest.raises(ReedError, match="resolution 30 is not a multiple of diffusers:.*down 4"):
        make(tmp_path, resolution=30).fields  # noqa: B018
    said = json.loads((tmp_path / "config.json").read_text())
    for family, problem in (
        ("AutoencoderTiny", "'AutoencoderTiny'; use a diffusers autoencoder whose class begins"),
        ("AutoencoderKLWan", "'AutoencoderKLWan' has no 'block_out_channels'.*of images"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(said | {"_class_name": family}))
        with pytest.raises(ReedError, match=problem):
            make(tmp_path).fields  # noqa: B018


DAMAGED = (  # model, change of config.json, message
    ("sd3.5", None, "config.json holds NoneType, not a table of settings"),
    ("sd3.5", {"scaling_factor": "abc"}, "says of its latents .*could not convert.*'abc'"),
    ("sd3.5", {"scaling_factor": 0}, "config.json: the scale of the latents is 0, .* above 0"),
    ("sd3.5", {"scaling_factor": float("nan")}, "the scale of the latents is nan"),
    ("sd3.5", {"shift_factor": float("inf")}, "the shift of the latents is inf, .* be finite"),
    ("sd3.5", {"latent_channels": "16"}, "says of its latents .*latent_channels is '16'"),
    ("sd3.5", {"block_out_channels": 8}, "says of its latents .*'int' has no len"),
    ("sd3.5", {"block_out_channels": []}, "says of its latents .*there are no stages"),
    ("sd3.5", {"norm_num_groups": 3}, "makes no AutoencoderKL of the settings in .*divisible"),
    ("stated", {"latents_mean": [1, 2]}, "the shift has 2 numbers, the latents 3 channels"),
    ("stated", {"latents_std": [0, 1, 1]}, "says of its latents .*division by zero"),
    ("flux.2", {"patch_size": 3}, "says of its latents .*'patch_size': 3"),
    ("dc-ae", {"encoder_block_out_channels": None}, "says of its latents .*has no len"),
)


def test_a_damaged_config_is_one_line(tmp_path):
    for name in MODELS:
        save(tmp_path / name, name)
    for name, change, text in DAMAGED:
        path = tmp_path / name / "config.json"
        whole = path.read_text()
        path.write_text(json.dumps(change and json.loads(whole) | change))
        with pytest.raises(ReedError, match=text) as error:
            make(tmp_path / name).load("cpu")
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        path.write_text(whole)


def test_advice_names_the_column_and_a_side_that_fits(tmp_path):
    """An encoder with a path for a name has another column, whose name only the user knows."""
    save(tmp_path, "sd3.5")
    for side, near in ((33, 32), (35, 36), (0, 4), (-32, 4)):
        with pytest.raises(ReedError, match=f"down 4, .*: --set COLUMN.resolution={near}$"):
            make(tmp_path, resolution=side).fields  # noqa: B018
    with pytest.raises(ReedError, match=r"has 16: --set COLUMN\.channels=16$"):
        make(tmp_path, channels=3).fields  # noqa: B018
    with pytest.raises(ReedError, match="gone; give the folder of config.json, diff.*COLUMN.wei"):
        make(tmp_path / "gone").fields  # noqa: B018


def test_pixels_of_other_channels_are_no_latents():
    column = Column("p", "image", "1", ("image",), ())
    assert not decoder.can_decode(column) and not decoder.can_decode(None)
    own = SimpleNamespace(encoder="not_there:Mine", options={})
    assert not decoder.can_decode(own)
