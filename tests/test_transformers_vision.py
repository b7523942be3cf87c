"""Image models of transformers as encoders, on small random models in the files of the hub."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoModel

from reed.encoders.image import transformers_models as models
from reed.errors import ReedError

SWEEP = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("transformers_sweep.py"))))
PAGE = Path(__file__).parents[1] / "docs" / "encoders.md"

# One of each kind: a class token, nothing to be masked, registers, a tower of two, an average as
# the first token, and windows.
FEW = "vit vit_mae dinov2_with_registers clip dinov3_convnext swin".split()
REFUSED = {
    "siglip2_vision_model": "missing 2 required positional arguments",
    "timm_wrapper": "holds a model of timm; use --encoder timm:resnet50 with that folder",
    "yolos": "behind the tokens of its patches are 100 of detections",
}


vit, copy = SWEEP.vit, SWEEP.copy


@pytest.mark.parametrize("family", FEW)
def test_a_family_of_image_models_is_that_of_transformers(family, tmp_path):
    assert SWEEP.outcome(family, tmp_path / family) == ""


@pytest.mark.parametrize("family", REFUSED)
def test_a_model_without_patches_of_one_image_is_refused_in_one_line(family, tmp_path):
    assert REFUSED[family] in SWEEP.outcome(family, tmp_path / family)


@pytest.mark.parametrize("kind", ["ViTImageProcessor", "CLIPImageProcessor", "BitImageProcessor"])
@pytest.mark.parametrize("resample", [1, 2, 3])
def test_a_photograph_is_what_the_processor_of_the_model_makes_of_it(kind, resample, copy):
    """In bytes, with antialiasing: a resize in floats is up to several levels away."""
    side = {"shortest_edge": 32} if kind != "ViTImageProcessor" else {"height": 32, "width": 32}
    own = getattr(transformers, kind)(size=side, crop_size=32, resample=resample)
    own.save_pretrained(copy)
    image = SWEEP.photograph(256)
    want = own(images=Image.fromarray(image), return_tensors="pt")["pixel_values"]
    encoder = SWEEP.encoder_of(copy, grid=4)
    assert encoder._of_files[0].size == 32
    have = encoder._preprocessed(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert torch.equal(have, want)

    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), (32, 32), mode="bicubic"
    )
    mean, std = (torch.tensor(v)[:, None, None] for v in (own.image_mean, own.image_std))
    assert ((have * std + mean) * 255 - smooth).abs().max() > 8  # without antialiasing


def test_other_grids_are_the_models_own_interpolation(vit):
    encoder = SWEEP.loaded(vit)
    assert encoder.fields[0].shape == (256, 32) and encoder._of_files[0].size == 128
    x = encoder._preprocessed(torch.from_numpy(SWEEP.photograph(128)).permute(2, 0, 1)[None])
    model = AutoModel.from_pretrained(vit).eval()
    want = model(pixel_values=x, interpolate_pos_encoding=True).last_hidden_state
    values = encoder.encode([{"image": SWEEP.photograph(128)}])
    SWEEP.close(values["tokens"], want[:, 1:].detach())
    SWEEP.close(values["cls"], want[:, 0].detach())


def test_the_batch_does_not_matter(vit):
    encoder = SWEEP.loaded(vit)
    samples = [{"image": SWEEP.photograph(96)[::step, ::step]} for step in (1, 1, 1)]
    samples[1]["image"] = samples[1]["image"][::-1].copy()
    together = encoder.encode(samples)
    for name, values in together.items():
        alone = encoder.encode(samples[1:2])[name]
        np.testing.assert_allclose(values[1], alone[0], rtol=0, atol=1e-5)


def stub(**config):
    """A vision tower that only states its settings."""
    one = SimpleNamespace(config=SimpleNamespace(**config), forward=lambda pixel_values: None)
    one.named_parameters = list
    return one


def test_a_model_of_one_size_keeps_its_grid(monkeypatch):
    def shape(model, size, own):
        if size != 32:
            raise ValueError("one size alone")
        return (1, 16, 32)

    monkeypatch.setattr(models, "_raw_shape", shape)
    assert models.layout_of(stub(patch_size=8), 32, 0) == models.Layout(32, 0, 4, 32)
    text = "it takes images of 32 pixels alone, which give a grid of 4, not 5; set grid=4"
    with pytest.raises(ReedError, match=text):
        models.layout_of(stub(patch_size=(8, 8)), 32, 5)


def test_what_is_no_encoder_is_told():
    with pytest.raises(ReedError, match="it has a decoder, whose states are no patches"):
        models.layout_of(stub(is_encoder_decoder=True), 32, 0)

    class Backbone:
        def forward(self, pixel_values):
            return ()

        __call__ = forward

    with pytest.raises(ReedError, match="its tuple has no last_hidden_state"):
        models.outputs(Backbone(), torch.zeros(1, 3, 8, 8), 8)


@pytest.mark.parametrize(
    ("shape", "names", "found"),
    [
        ((1, 17, 32), ["cls_token"], (4, 1)),
        ((1, 16, 32), [], (4, 0)),
        ((1, 17, 32), [], None),
        ((1, 8, 4, 4), [], (4, 0)),
        ((1, 4, 4, 8), [], (4, 0)),
        ((1, 4, 4, 4), [], None),
        ((1, 4), [], None),
    ],
)
def test_a_grid_without_stated_patches_is_told_by_squares_or_refused(
    shape, names, found, monkeypatch
):
    one = stub()
    one.named_parameters = lambda: [(name, torch.zeros(1, 1, 32)) for name in names]
    monkeypatch.setattr(models, "_by_two_sizes", lambda model, side, own: None)
    monkeypatch.setattr(models, "_raw_shape", lambda model, size, own: shape)
    if found is None:
        with pytest.raises(ReedError, match="where no square of patches is"):
            models.layout_of(one, 32, 0)
    else:
        layout = models.layout_of(one, 32, 0)
        assert (layout.grid, layout.prefix) == found


def test_a_grid_that_the_model_does_not_take_is_refused(vit):
    with pytest.raises(ReedError, match="grid -1 must be 1 or more"):
        SWEEP.encoder_of(vit, grid=-1)
    model = models.on_meta(vit)

    def fail(model, layout):
        return ((), 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "shape_at", fail)
        text = "40 pixels give no grid of 5; choose another grid"
        with pytest.raises(ReedError, match=text):
            models.layout_of(model, 32, 5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_family_of_image_models_is_that_of_transformers_or_refused(tmp_path):
    found, wrong = {}, {}
    for family in SWEEP.families():
        try:
            found[family] = SWEEP.outcome(family, tmp_path / family)
        except Exception as error:  # so that one family does not hide the rest
            wrong[family] = f"{type(error).__name__}: {error}"[:300]
    assert not wrong

    text = r"(\d+) of the (\d+) families\s+of\s+image\s+models\s+in\s+transformers (\S+)\s.*?"
    said = re.search(text + r"(\d+)\s+are\s+refused", PAGE.read_text(), re.DOTALL)
    if said[3].rstrip(",:;.") == transformers.__version__:
        equal = sum(line == "" for line in found.values())
        refused = sum(bool(line) for line in found.values())
        assert [int(said[i]) for i in (1, 2, 4)] == [equal, len(found), refused]
