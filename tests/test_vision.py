"""Vision encoders: the real loading code on random weights in the formats of the public files."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from reed import config, weights
from reed.build import column, engines
from reed.cache import reader
from reed.encoders import ENCODERS
from reed.encoders.image.cards import CARDS
from reed.encoders.image.preprocess import Preprocess
from reed.errors import ReedError

GOLDEN = Path(__file__).with_name("golden") / "preprocess.npz"
BY_NAME = {card.name: card for card in CARDS}
# The golden vectors' name for what was done before each public encoder, and the card.
PUBLIC = {
    "dinov2": "dinov2-b",
    "clip": "clip-l",
    "mocov3": "mocov3-b",
    "mae": "mae-l",
    "jepa": "ijepa-h",
}


def random_model(name: str, **arguments):
    """A timm model whose parameters are all random, those that start at zero or one too."""
    torch.manual_seed(1)
    model = timm.create_model(name, pretrained=False, num_classes=0, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Inside a few standard deviations, and of a size that keeps the tokens apart.
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def dino():
    """A random DINOv2-S at its native 518 pixels."""
    return random_model("vit_small_patch14_dinov2.lvd142m")


@pytest.fixture(scope="module")
def dino_file(dino, folder):
    save_file(dino.state_dict(), folder / "dinov2-s.safetensors")
    return folder / "dinov2-s.safetensors"


def make(name: str, path=None, **options):
    found = ENCODERS.get(name)
    given = found.keywords | ({"weights": str(path)} if path else {}) | options
    return config.build(found.func, given, name)


def loaded(name: str, path, **options):
    encoder = make(name, path, **options)
    encoder.load("cpu")
    return encoder


@pytest.fixture(scope="module")
def encoder(dino_file):
    return loaded("dinov2-s", dino_file)


def pictures(count: int, side: int = 256) -> list[dict]:
    """Random images with structure on several scales."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (count, 8, 8, 3)).repeat(side // 8, 1).repeat(side // 8, 2)
    fine = rng.integers(-40, 40, (count, side, side, 3))
    return [{"image": image} for image in (coarse + fine).clip(0, 255).astype(np.uint8)]


def seen(name: str, samples, size: int) -> torch.Tensor:
    """What the model of a card is given."""
    stacked = torch.from_numpy(np.stack([sample["image"] for sample in samples]))
    return BY_NAME[name].preprocess(stacked.permute(0, 3, 1, 2), size)


def resized(model, side: int):
    """A copy of a timm model for another input size, through timm's own way of loading."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    name, tag = model.pretrained_cfg["architecture"], model.pretrained_cfg["tag"]
    other = timm.create_model(f"{name}.{tag}", pretrained=False, num_classes=0, img_size=side)
    other.load_state_dict(checkpoint_filter_fn(model.state_dict(), other))
    return other.eval().requires_grad_(False)


def close(have, want, atol=1e-5):
    np.testing.assert_allclose(np.stack(have), want.detach().numpy(), rtol=0, atol=atol)


def test_tokens_and_cls_equal_a_direct_call(encoder, dino):
    samples = pictures(3)
    values = encoder.encode(samples)
    want = resized(dino, 224).forward_features(seen("dinov2-s", samples, 224))
    assert want.shape == (3, 257, 384)
    close(values["tokens"], want[:, 1:])
    close(values["cls"], want[:, 0])
    assert want[:, 1:].std(1).mean() > 0.1  # tokens that are all alike would prove little


def test_features_do_not_depend_on_the_batch(encoder):
    samples = pictures(5)
    together = encoder.encode(samples)
    for i, sample in enumerate(samples):
        for name, values in encoder.encode([sample]).items():
            np.testing.assert_allclose(values[0], together[name][i], rtol=0, atol=1e-5)


def test_images_of_512_pixels_give_a_grid_of_32(dino_file, dino):
    encoder = loaded("dinov2-s", dino_file, grid=32)
    samples = pictures(1, side=512)
    assert encoder.size == 448 and encoder.fields[0].shape == (1024, 384)
    want = resized(dino, 448).forward_features(seen("dinov2-s", samples, 448))
    close(encoder.encode(samples)["tokens"], want[:, 1:])


def test_registers_are_dropped_with_the_class_token(folder):
    model = random_model("vit_small_patch14_reg4_dinov2.lvd142m")
    # As Meta publishes it: the class token's position apart, and names of its own.
    state = model.state_dict()
    place = torch.randn(1, 1, 384)
    state["cls_token"] = state["cls_token"] - place
    state["pos_embed"] = torch.cat([place, state["pos_embed"]], 1)
    state["register_tokens"] = state.pop("reg_token")
    torch.save(state | {"mask_token": torch.zeros(1, 384)}, folder / "dinov2_vits14_reg4.pth")
    values = loaded("dinov2-reg-s", folder / "dinov2_vits14_reg4.pth").encode(pictures(2))
    want = resized(model, 224).forward_features(seen("dinov2-reg-s", pictures(2), 224))
    assert want.shape[1] == 1 + 4 + 256 and model.num_prefix_tokens == 5
    close(values["tokens"], want[:, 5:])
    close(values["cls"], want[:, 0])


@pytest.mark.parametrize("norm", [True, False])
def test_an_inner_layer_is_that_block_with_or_without_the_norm(dino_file, dino, norm):
    values = loaded("dinov2-s", dino_file, layer=2, norm=norm).encode(pictures(1))
    model = resized(dino, 224)
    x = model.norm_pre(model._pos_embed(model.patch_embed(seen("dinov2-s", pictures(1), 224))))
    x = model.blocks[1](model.blocks[0](x))
    x = model.norm(x) if norm else x
    close(values["tokens"], x[:, 1:])
    close(values["cls"], x[:, 0])


def test_the_last_layer_by_its_number_is_the_default(dino_file, encoder):
    last = loaded("dinov2-s", dino_file, layer=12).encode(pictures(1))
    assert np.array_equal(last["tokens"], encoder.encode(pictures(1))["tokens"])
    with pytest.raises(ReedError, match="dinov2-s.layer is 13, the model has 12"):
        loaded("dinov2-s", dino_file, layer=13)


def test_pth_and_safetensors_give_the_same(dino, encoder, folder):
    torch.save(dino.state_dict(), folder / "dinov2-s.pth")
    other = loaded("dinov2-s", folder / "dinov2-s.pth")
    assert np.array_equal(
        other.encode(pictures(1))["tokens"], encoder.encode(pictures(1))["tokens"]
    )


def test_bf16_is_near_and_not_the_same(dino_file, encoder):
    have = loaded("dinov2-s", dino_file, precision="bf16").encode(pictures(1))["tokens"]
    want = encoder.encode(pictures(1))["tokens"]
    assert have.dtype == np.float32
    assert 1e-5 < np.abs(have - want).mean() < 0.05


def moco_file(path, model, **more):
    """A checkpoint of MoCo v3's training script: three networks behind DataParallel."""
    state = {f"module.base_encoder.{key}": value for key, value in model.state_dict().items()}
    state |= {f"module.base_encoder.head.{i}.weight": torch.ones(2, 2) for i in (0, 3, 6)}
    state |= {"module.momentum_encoder.cls_token": torch.zeros(1), **more}
    state |= {"module.predictor.0.weight": torch.ones(2, 2)}
    torch.save({"epoch": 300, "arch": "vit_small", "state_dict": state}, path)


def test_mocov3_checkpoints_become_timms_vit(folder):
    model = random_model("vit_small_patch16_224", num_heads=12)
    moco_file(folder / "vit-s-300ep.pth.tar", model)
    values = loaded("mocov3-s", folder / "vit-s-300ep.pth.tar").encode(pictures(1))
    model.set_input_size((256, 256))
    want = model.forward_features(seen("mocov3-s", pictures(1), 256))
    close(values["tokens"], want[:, 1:])
    close(values["cls"], want[:, 0])


def test_slips_in_the_names_of_the_public_large_mocov3_are_mended():
    from reed.encoders.image.timm_models import from_mocov3

    slips = {
        "blocks.13.norm13.weight": "blocks.13.norm1.weight",
        "blocks.13.mlp.fc13.bias": "blocks.13.mlp.fc1.bias",
        "blocks.14.norm14.bias": "blocks.14.norm2.bias",
        "blocks.14.mlp.fc14.weight": "blocks.14.mlp.fc2.weight",
        "blocks.13.norm2.weight": "blocks.13.norm2.weight",
        "norm.weight": "norm.weight",
    }
    state = {f"module.base_encoder.{key}": key for key in slips}
    assert from_mocov3({"state_dict": state}) == {new: old for old, new in slips.items()}


class Small:
    """Models of the families of cards, two blocks deep, so that a test of each is quick."""

    ARGUMENTS = {
        "clip-l": {"depth": 2, "embed_dim": 48, "num_heads": 3},
        "siglip2-b": {"depth": 2, "embed_dim": 48, "num_heads": 3},
        "mae-l": {"depth": 2, "embed_dim": 48, "num_heads": 3},
        "ijepa-h": {"depth": 2, "embed_dim": 48, "num_heads": 3},
        "dinov3-b": {"depth": 2, "embed_dim": 48, "num_heads": 3},
        "convnext-b": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 48)},
    }

    def __init__(self, name: str, folder) -> None:
        arguments = self.ARGUMENTS[name]
        self.model = random_model(BY_NAME[name].model, **arguments)
        stages = ((8, 4), (16, 8), (24, 16), (48, 32)) if name == "convnext-b" else ()
        self.card = dataclasses.replace(
            BY_NAME[name], dim=48, arguments=tuple(arguments.items()), stages=stages
        )
        self.path = folder / f"{name}.pth"

    def encoder(self, state=None, **options):
        torch.save(state or self.model.state_dict(), self.path)
        found = ENCODERS.get(self.card.name).func(self.card, str(self.path), **options)
        found.load("cpu")
        return found


@pytest.mark.parametrize("name", ["clip-l", "siglip2-b", "mae-l", "ijepa-h", "dinov3-b"])
def test_each_family_gives_a_grid_of_tokens_after_its_norm(name, folder):
    small = Small(name, folder)
    encoder, model, card = small.encoder(), small.model, small.card
    model.set_input_size(img_size=(encoder.size, encoder.size))
    last = model.forward_features(seen(name, pictures(2), encoder.size))
    values = encoder.encode(pictures(2))
    close(values["tokens"], last[:, -256:])
    assert last.shape[1] == 256 + model.num_prefix_tokens
    vector = model.forward_head(last, pre_logits=True) if card.pooled else last[:, 0]
    close(values[encoder.fields[1].name], vector)
    assert encoder.fields[1].name == ("pooled" if name in ("siglip2-b", "ijepa-h") else "cls")


def test_convnext_gives_its_feature_map(folder):
    small = Small("convnext-b", folder)
    # As Meta publishes it, with a classifier, which is not needed.
    state = small.model.state_dict() | {"head.fc.weight": torch.ones(5, 48)}
    values = small.encoder(state).encode(pictures(1))
    last = small.model.forward_features(seen("convnext-b", pictures(1), 512))
    close(values["tokens"], last.flatten(2).mT)
    close(values["pooled"], small.model.forward_head(last, pre_logits=True))
    third = small.encoder(layer=3)
    assert third.size == 256 and third.fields[0].shape == (256, 24)
    map_of_third = small.model.stages[:3](
        small.model.stem(seen("convnext-b", pictures(1), third.size))
    )
    values = third.encode(pictures(1))
    close(values["tokens"], map_of_third.flatten(2).mT)
    close(values["pooled"], map_of_third.mean((2, 3)))


def test_the_raw_file_of_ijepa_is_read(folder):
    small = Small("ijepa-h", folder)
    state = {f"module.{key}": value for key, value in small.model.state_dict().items()}
    raw = small.encoder({"encoder": state, "predictor": {"module.x": torch.ones(1)}, "epoch": 300})
    want = small.encoder().encode(pictures(1))
    assert np.array_equal(raw.encode(pictures(1))["tokens"], want["tokens"])


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_each_card_says_what_timm_says(card):
    from reed.encoders.image.timm_models import create

    with torch.device("meta"):
        model = create(card)
    info, said = model.feature_info, model.pretrained_cfg
    assert (card.dim, card.patch) == (info[-1]["num_chs"], info[-1]["reduction"])
    assert card.pooled == (getattr(model, "cls_token", None) is None)
    if card.stages:
        assert card.stages == tuple((each["num_chs"], each["reduction"]) for each in info)
    if card.convert == "timm":
        assert card.origin.repo == (said.get("hf_hub_id") or "")
        assert (card.preprocess.mean, card.preprocess.std) == (said["mean"], said["std"])
        assert card.preprocess.interpolation == said["interpolation"]
    assert bool(card.origin.repo) != bool(card.origin.url)
    encoder = make(card.name)
    assert encoder.fields[0].shape == (256, card.dim) and encoder.fields[0].codec == "int8"
    assert encoder.licence and encoder.reads == ("image",)


@pytest.mark.parametrize("name", PUBLIC)
def test_preprocessing_equals_the_public_trainers(name):
    golden = np.load(GOLDEN)
    card = BY_NAME[PUBLIC[name]]
    image = torch.from_numpy(golden["in/image"])[None]
    have = card.preprocess(image, 16 * card.patch)[0].numpy()
    assert have.shape == tuple(golden[f"out/{name}/shape"])
    np.testing.assert_allclose(have[:, ::4, ::4], golden[f"out/{name}/strided"], atol=1e-5, rtol=0)
    rows = have[0].astype(np.float64).sum(1)
    np.testing.assert_allclose(rows, golden[f"f64/{name}/row_sum_ch0"], atol=5e-4, rtol=0)
    if f"out/{name}/border" in golden:
        edge = np.concatenate([have[:, :3], have[:, -3:]], axis=1)
        np.testing.assert_allclose(edge, golden[f"out/{name}/border"], atol=1e-5, rtol=0)


def test_timms_preprocessing_is_near_timms_own_transform():
    from PIL import Image

    image = pictures(1)[0]["image"].clip(70, 180)  # Pillow cuts overshoots off after each axis
    said = Preprocess((0.5,) * 3, (0.25,) * 3, "antialias-normalise")
    transform = timm.data.create_transform(
        (3, 224, 224), interpolation="bicubic", mean=said.mean, std=said.std, crop_pct=1.0
    )
    want = transform(Image.fromarray(image))
    have = said(torch.from_numpy(image).permute(2, 0, 1)[None], 224)[0]
    assert (have - want).abs().max() < 1.5 / 255 / 0.25  # Pillow rounds to whole levels, twice


def test_weights_of_another_model_are_refused_and_listed(dino, dino_file, folder):
    with pytest.raises(ReedError, match="dinov2-reg-s: .*1 missing .reg_token.*pos_embed"):
        loaded("dinov2-reg-s", dino_file)
    with pytest.raises(ReedError, match="384"):
        loaded("mocov3-b", dino_file)
    with pytest.raises(ReedError, match="convnext-b: .*missing .head.norm.bias"):
        Small("convnext-b", folder).encoder(dino.state_dict())
    state = dino.state_dict()
    state["blocks.0.extra"] = state.pop("blocks.0.norm1.weight")
    torch.save(state, folder / "wrong.pth")
    text = r"missing \(blocks.0.norm1.weight\).*unexpected \(blocks.0.extra\)"
    with pytest.raises(ReedError, match=text):
        loaded("dinov2-s", folder / "wrong.pth")
    (folder / "page.pth").write_text("<!doctype html><title>Dropbox</title>")
    with pytest.raises(ReedError, match="page.pth is a web page"):
        loaded("dinov2-s", folder / "page.pth")


def test_weights_of_another_patch_size_are_not_resampled(folder):
    model = random_model("vit_tiny_patch16_224.augreg_in21k", patch_size=32)
    torch.save(model.state_dict(), folder / "tiny.pth")
    with pytest.raises(ReedError, match=r"patch_embed.proj.weight \(192, 3, 32, 32\) instead of"):
        loaded("timm:vit_tiny_patch16_224.augreg_in21k", folder / "tiny.pth")


def test_options_are_checked(dino_file):
    with pytest.raises(ReedError, match="dinov2-s: grid 0 must be 1 or more"):
        make("dinov2-s", dino_file, grid=0)
    with pytest.raises(ReedError, match="convnext-b: .*layer 5 0 to 4"):
        make("convnext-b", layer=5)
    with pytest.raises(ReedError, match="dinov2-s.precision cannot be 'half'"):
        make("dinov2-s", dino_file, precision="half")
    with pytest.raises(ReedError, match="unknown setting 'dinov2-s.girth'.*grid"):
        make("dinov2-s", dino_file, girth=3)


# of timm's own resizing, with the oldest torch
@pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple sequence")
@pytest.mark.parametrize(
    ("name", "grid", "dim", "vector"),
    [
        ("vit_tiny_patch16_224.augreg_in21k", 16, 192, "cls"),
        ("resnet18.a1_in1k", 16, 512, "pooled"),
        ("swin_tiny_patch4_window7_224.ms_in1k", 7, 768, "pooled"),
    ],
)
def test_any_other_timm_model_goes_by_its_name(name, grid, dim, vector, folder):
    model = random_model(name)
    torch.save(model.state_dict(), folder / "other.pth")
    encoder = loaded(f"timm:{name}", folder / "other.pth", grid=grid)
    values = encoder.encode(pictures(1))
    pixels = torch.from_numpy(pictures(1)[0]["image"]).permute(2, 0, 1)[None]
    x = encoder.card.preprocess(pixels, encoder.size)
    if name.startswith("vit"):
        model.set_input_size((encoder.size, encoder.size))
    last = model.forward_features(x)
    want = {"vit": last[:, 1:], "res": last.flatten(2).mT, "swi": last.flatten(1, 2)}[name[:3]]
    assert want.shape == (1, grid * grid, dim) and encoder.fields[1].name == vector
    close(values["tokens"], want)
    vec = last[:, 0] if vector == "cls" else model.forward_head(last, pre_logits=True)
    close(values[vector], vec)


def test_a_timm_model_that_does_not_exist_is_named():
    with pytest.raises(ReedError, match="'vit_tiny_patch16_224.nothing'.*see .*augreg_in21k"):
        ENCODERS.get("timm:vit_tiny_patch16_224.nothing")
    with pytest.raises(ReedError, match="'nonsense'.*see timm.list_models"):
        ENCODERS.get("timm:nonsense")
    with pytest.raises(ReedError, match="cannot load encoder 'timn:x'"):
        ENCODERS.get("timn:x")


def test_a_grid_that_the_model_cannot_give_is_refused(folder):
    name = "resnet18.a1_in1k"
    torch.save(random_model(name).state_dict(), folder / "r.pth")
    encoder = make(f"timm:{name}", folder / "r.pth", grid=2)
    encoder.card = dataclasses.replace(encoder.card, patch=16, stages=())
    text = "32 pixels give 1 tokens of 512 channels and a vector of 512, expected 4 tokens of 512"
    with pytest.raises(ReedError, match=text):
        encoder.load("cpu")


def test_the_revision_follows_the_weights_and_every_option(dino_file, folder):
    base = make("dinov2-s", dino_file).revision()
    assert weights.weights_sha256(dino_file) in base and "normalise-resize bicubic" in base
    changed = [{"grid": 32}, {"layer": 3}, {"norm": False}, {"precision": "bf16"}]
    found = {base} | {make("dinov2-s", dino_file, **options).revision() for options in changed}
    (folder / "other.safetensors").write_bytes(b"other weights")
    found.add(make("dinov2-s", folder / "other.safetensors").revision())
    assert len(found) == 6
    assert make("dinov2-s", dino_file, batch_size=3).revision() == base


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


def test_a_cache_of_tokens_points_where_the_model_does(encoder, fakes, tmp_path):
    source, cache = Pictures(5), tmp_path / "cache"
    plan = fakes.freeze(cache, source, shard_size=3)
    job = column.open_job(cache, plan, "dinov2-s", encoder, source)
    engines.run(job, engines.Share(), progress=False)
    keys = []
    for shard in range(plan.shards):
        state = reader.load_state(cache, job.column)
        for key, values in reader.records(cache, job.column, shard, encoder.fields, state):
            direct = encoder.encode([source.read(key)])
            have, want = values["tokens"], direct["tokens"][0]
            cosine = (have * want).sum(-1) / np.linalg.norm(have, axis=-1)
            assert (cosine / np.linalg.norm(want, axis=-1)).min() > 0.999
            np.testing.assert_allclose(values["cls"], direct["cls"][0], rtol=0, atol=1e-5)
            keys.append(key)
    assert sorted(keys) == sorted(source.listing())


def test_importing_the_encoders_imports_no_model_library():
    code = (
        "import sys\nfrom reed.encoders import ENCODERS\n"
        "print([ENCODERS.get(n)().fields[0].shape for n in ('dinov2-l', 'sd-vae', 'convnext-b')])\n"
        "print([n for n in ('torch', 'timm', 'diffusers', 'transformers', 'safetensors',"
        " 'huggingface_hub', 'PIL') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(weights.__file__).parents[1],
    )
    assert done.stdout.splitlines() == ["[(256, 1024), (8, 32, 32), (256, 1024)]", "[]"]
