"""Feature spaces: the real loading code on random weights in the forms of the public files."""

from __future__ import annotations

import re
import sys
import urllib.error
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch_fidelity
from safetensors.torch import save_file
from torch import hub

from reed.errors import ReedError
from reed.extras import pip_install
from reed.metrics import FEATURES, rgb
from reed.metrics.timm_space import TimmSpace, hub_positions

SMALL = "test_vit.r160_in1k"


def pictures(count=3, side=40, channels=3):
    draws = np.random.default_rng(1)
    coarse = draws.integers(0, 200, (count, 5, 5, channels)).repeat(side // 5, 1)
    coarse = coarse.repeat(side // 5, 2)
    return (coarse + draws.integers(0, 56, coarse.shape)).astype(np.uint8)


class Bare(torch_fidelity.FeatureExtractorInceptionV3):
    """The network as it is before its weights are loaded."""

    def load_state_dict(self, state):
        pass


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Random weights under the keys and in the file format of torch-fidelity's."""
    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "none.pth")
    torch.manual_seed(0)
    state = Bare("inception-v3-compat", ["2048"], str(folder / "none.pth")).state_dict()
    for name, value in state.items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        if name.endswith("running_var"):
            value.uniform_(0.1, 0.25)  # so that activations neither fade nor grow
    path = folder / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def inception(inception_file):
    space = FEATURES.get("inception")(str(inception_file))
    space.load("cpu", None)
    return space


def test_inception_is_that_of_torch_fidelity(inception, inception_file):
    images = pictures()
    found = inception(images)
    assert {n: v.shape for n, v in found.items()} == {
        "pool": (3, 2048),
        "spatial": (3, 2023),
        "logits": (3, 1008),
    }
    theirs = torch_fidelity.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], str(inception_file)
    )
    pool, logits = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))
    np.testing.assert_allclose(found["pool"], pool.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["logits"], logits.numpy(), rtol=1e-4, atol=1e-5)
    assert len(np.unique(found["spatial"])) > 1000 and found["pool"].std(0).mean() > 1e-3


def test_the_spatial_features_lie_as_in_the_adm_suite(inception):
    """mixed_6/conv, [17, 17, 192] in TensorFlow, cut to 7 channels and flattened as it lies."""
    images = pictures()
    found = inception(images)["spatial"]
    seen = []
    handle = inception._net.Mixed_6c.register_forward_hook(lambda *call: seen.append(call[2]))
    inception(images)
    handle.remove()
    branch = inception._net.Mixed_6d.branch1x1
    with torch.no_grad():
        conv = branch.bn(branch.conv(seen[0])).clamp(min=0)  # [B, 192, 17, 17]
    assert conv.shape == (3, 192, 17, 17)
    for image, y, x, channel in ((0, 0, 0, 6), (1, 3, 16, 0), (2, 16, 5, 4)):
        place = (y * 17 + x) * 7 + channel
        assert found[image, place] == pytest.approx(float(conv[image, channel, y, x]), rel=1e-5)
    tensorflow = np.moveaxis(conv.numpy(), 1, -1)[..., :7].reshape(3, -1)
    np.testing.assert_allclose(found, tensorflow, rtol=1e-4, atol=1e-5)


def test_features_of_an_image_do_not_depend_on_its_batch(inception):
    images = pictures()
    whole, alone = inception(images), inception(images[1:2])
    for name in inception.outputs:
        np.testing.assert_allclose(whole[name][1:2], alone[name], rtol=1e-4, atol=1e-5)


def test_one_channel_is_repeated():
    grey = pictures(channels=1)
    assert np.array_equal(rgb(grey), rgb(grey.repeat(3, -1)))
    planes = grey.repeat(3, -1).transpose(0, 3, 1, 2).copy()  # as samples are drawn
    assert rgb(planes.transpose(0, 2, 3, 1)).flags.writeable, "torch warns of what it may not write"
    with pytest.raises(ReedError, match="images have 4 channels; .* takes 1 or 3"):
        rgb(pictures(channels=4))


def test_a_revision_names_what_features_depend_on(inception_file):
    said = FEATURES.get("inception")(str(inception_file), "bf16").revision()
    for part in ("sha256:", "299px", "bf16", f"torch-fidelity-{torch_fidelity.__version__}"):
        assert part in said


def refused(match, make, *given, **more):
    with pytest.raises(ReedError, match=match):
        make(*given, **more).load("cpu", None)


def test_what_are_no_weights_of_inception_is_refused(tmp_path, monkeypatch):
    inception = FEATURES.get("inception")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "torch_fidelity", None)
        command = re.escape(pip_install("eval"))
        refused(f"inception space needs torch_fidelity.*{command}", inception)
    refused("no weights at nowhere.pth; download .*6726825d.pth", inception, "nowhere.pth")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    refused("other.pth holds another model .*Missing key", inception, str(tmp_path / "other.pth"))
    torch.save(SimpleNamespace(a=1), tmp_path / "code.pth")
    refused("code.pth is not plain weights", inception, str(tmp_path / "code.pth"))
    monkeypatch.setattr(hub, "get_dir", lambda: str(tmp_path))

    def offline(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(hub, "download_url_to_file", offline)
    refused("cannot be fetched .*no network.*--weights inception=FILE", inception)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A random timm model with its classifier, and its file."""
    torch.manual_seed(1)
    model = timm.create_model(SMALL, pretrained=False).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    path = tmp_path_factory.mktemp("timm") / "small.safetensors"
    save_file(model.state_dict(), path)
    return model, path


def test_a_timm_space_is_the_embedding_before_the_classifier(small):
    model, path = small
    space = FEATURES.get(f"timm:{SMALL}")(str(path))
    space.load("cpu", None)
    images = pictures(side=160)  # the model's own size, so that nothing is resized
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    said = model.pretrained_cfg
    x = (x - torch.tensor(said["mean"])[:, None, None]) / torch.tensor(said["std"])[:, None, None]
    want = model.forward_head(model.forward_features(x), pre_logits=True)
    np.testing.assert_allclose(space(images)["embedding"], want, rtol=1e-4, atol=1e-5)
    kept = TimmSpace("x", SMALL, str(path), head=True)
    kept.load("cpu", None)
    np.testing.assert_allclose(kept(images)["embedding"], model(x), rtol=1e-4, atol=1e-5)


def test_images_are_resized_with_antialiasing(small):
    """As Pillow does it, which is what FD-DINOv2 and CMMD were defined with, up to rounding."""
    from PIL import Image

    space = TimmSpace("x", SMALL, str(small[1]))
    images = pictures(side=400)
    found = space._preprocess(torch.from_numpy(rgb(images))).permute(0, 2, 3, 1).numpy()
    pillow = [
        Image.fromarray(image).resize((160, 160), Image.Resampling.BICUBIC) for image in images
    ]
    mean, std = (np.array(space._mean), np.array(space._std))
    levels = (found * std + mean) * 255
    assert np.abs(levels.clip(0, 255) - np.stack(pillow)).max() <= 1.01


def test_dinov2_is_measured_at_224_pixels(tmp_path):
    name = "vit_small_patch14_dinov2.lvd142m"
    torch.manual_seed(0)
    save_file(timm.create_model(name, pretrained=False).state_dict(), tmp_path / "s.safetensors")
    space = TimmSpace("dinov2-s", name, str(tmp_path / "s.safetensors"), size=224)
    space.load("cpu", None)
    assert space(pictures(1, 250))["embedding"].shape == (1, 384)
    assert space._model.patch_embed.img_size == (224, 224)
    assert "224px bicubic-antialias fp32" in space.revision()


def cubic(distance, a=-0.75):
    """Keys' cubic convolution kernel (1981), with the coefficient of torch."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resampled(square, scale, side):
    """Bicubic values of [M, M, C] at `side` places per axis, 1 / scale apart, borders repeated."""
    trained = len(square)
    places = (np.arange(side) + 0.5) / scale - 0.5
    weights = np.zeros((side, trained))
    for row, place in enumerate(places):
        for tap in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            weights[row, min(max(tap, 0), trained - 1)] += cubic(place - tap)
    return np.einsum("iy,jx,yxc->ijc", weights, weights, square)


@pytest.fixture(scope="module")
def dinov2_small(tmp_path_factory):
    """A random DINOv2-S with a position embedding of low and high frequencies, and its file."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch14_dinov2.lvd142m", num_classes=0)
    model.requires_grad_(False).eval()
    smooth = np.cos(np.arange(37) / 6)[:, None, None] * np.sin(np.arange(37) / 5)[:, None]
    noise = np.random.default_rng(3).normal(size=(37, 37, 384))
    square = torch.from_numpy(smooth + noise).float()
    model.pos_embed.data[:, 1:] = square.reshape(1, -1, 384)
    path = tmp_path_factory.mktemp("dinov2") / "s.safetensors"
    save_file(model.state_dict(), path)
    return model, path


def like_fd_dinov2(model, path):
    """The space of fd-dinov2 with a smaller model."""
    settings = FEATURES.get("dinov2-l").keywords
    space = TimmSpace("dinov2-s", model.default_cfg["architecture"], str(path), **settings)
    space.load("cpu", None)
    return space


def test_fd_dinov2_resamples_positions_as_the_code_on_torch_hub(dinov2_small):
    """Bicubic without antialiasing, scale 16.1 / 37 (dinov2/models/vision_transformer.py)."""
    model, path = dinov2_small
    space = like_fd_dinov2(model, path)
    trained = model.pos_embed.detach()[0].numpy().astype(np.float64)
    want = resampled(trained[1:].reshape(37, 37, 384), 16.1 / 37, 16)
    have = space._model.pos_embed.detach().numpy()[0]
    np.testing.assert_allclose(have[1:].reshape(16, 16, 384), want, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(have[0], trained[0].astype(np.float32))

    # Neither timm's antialiasing nor the plain ratio of the sides would pass.
    ratio = resampled(trained[1:].reshape(37, 37, 384), 16 / 37, 16)
    antialiased = TimmSpace("x", "vit_small_patch14_dinov2", str(path), size=224)
    antialiased.load("cpu", None)
    timms = antialiased._model.pos_embed.detach().numpy()[0, 1:].reshape(16, 16, 384)
    assert np.abs(ratio - want).mean() > 0.05 and np.abs(timms - want).mean() > 0.3


def test_the_features_of_fd_dinov2_are_those_of_the_resampled_positions(dinov2_small):
    model, path = dinov2_small
    space, images = like_fd_dinov2(model, path), pictures(2, 250)
    square = model.pos_embed.detach()[0, 1:].numpy().reshape(37, 37, 384).astype(np.float64)
    positions = torch.from_numpy(resampled(square, 16.1 / 37, 16)).float().reshape(1, 256, 384)
    direct = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=224).eval()
    prefix = model.pos_embed[:, :1]
    direct.load_state_dict(model.state_dict() | {"pos_embed": torch.cat([prefix, positions], 1)})
    with torch.no_grad():
        want = direct(space._preprocess(torch.from_numpy(rgb(images)))).numpy()
    np.testing.assert_allclose(space(images)["embedding"], want, rtol=0, atol=1e-4)


def test_positions_stay_as_trained_at_the_trained_size():
    positions = torch.randn(1, 1 + 37 * 37, 4)
    assert torch.equal(hub_positions(positions, 37), positions)


def test_the_revision_of_fd_dinov2_says_how_positions_are_resampled(dinov2_small):
    """Numbers and statistics of features with timm's positions are not taken for these."""
    model, path = dinov2_small
    other = TimmSpace("dinov2-s", model.default_cfg["architecture"], str(path), size=224)
    revision = like_fd_dinov2(model, path).revision()
    assert revision == other.revision().replace("antialias ", "antialias hub_positions ")


@pytest.mark.parametrize(
    ("name", "size", "width"), [("dinov2-l", 224, 1024), ("clip-l-336", 336, 768)]
)
def test_the_named_spaces_have_the_size_and_width_of_their_papers(name, size, width):
    space = FEATURES.get(name)()
    assert space._size == size
    with torch.device("meta"):
        model = space._create()
        assert model(torch.zeros(1, 3, *model.patch_embed.img_size)).shape == (1, width)


def test_what_is_no_timm_model_or_weights_is_refused(small, tmp_path, monkeypatch):
    refused("cannot make the timm model 'resnet1'.*see", FEATURES.get("timm:resnet1"))
    space = FEATURES.get("timm:test_resnet.r160_in1k")
    refused("the weights are of another model: .*missing", space, str(small[1]))
    refused("no weights at nowhere.*--weights timm:test_resnet.*=FILE", space, "nowhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    refused("cannot be fetched.*--weights timm:test_resnet.*=FILE", space)


@pytest.mark.slow  # four roots of 2048 x 2048 matrices
def test_fid_kid_and_is_of_folders_are_those_of_torch_fidelity(inception_file, tmp_path):
    from PIL import Image

    from reed.evaluate.base import Task
    from reed.evaluate.image import ImageEvaluator

    for name, images in (("real", pictures(12)), ("drawn", pictures(12) // 2 + 40)):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{i:02}.png")
    drawn, real = tmp_path / "drawn", tmp_path / "real"
    theirs = torch_fidelity.calculate_metrics(
        input1=str(drawn),
        input2=str(real),
        cuda=False,
        fid=True,
        kid=True,
        isc=True,
        verbose=False,
        kid_subsets=1,
        kid_subset_size=12,
        isc_splits=1,
        save_cpu_ram=True,
        cache=False,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_file),
    )

    def measured(place, metrics):
        measure = ImageEvaluator(metrics, weights=(f"inception={inception_file}",)).measure
        return measure(Task("image", place, real, tmp_path / f"{place.name}.eval.json")).metrics

    found = measured(drawn, "fid,sfid,is,kid")
    fid, score = theirs["frechet_inception_distance"], theirs["inception_score_mean"]
    assert found["fid"]["value"] == pytest.approx(fid, rel=1e-3) and fid > 0.1
    assert found["is"]["value"] == pytest.approx(score, rel=1e-3)
    mean = theirs["kernel_inception_distance_mean"]
    assert found["kid"]["value"] == pytest.approx(mean, rel=1e-3)
    assert found["sfid"]["value"] > 0.01
    itself = measured(real, "fid,sfid")
    assert itself["fid"]["value"] < 1e-3 * fid
    assert itself["sfid"]["value"] < 1e-3 * found["sfid"]["value"]
