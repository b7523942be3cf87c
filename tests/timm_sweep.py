"""Architectures of the installed timm as encoders: equal to timm's own, or refused in one line.

Test modules run this file with runpy. `python tests/timm_sweep.py [NAME ...]` prints one line of
JSON for each architecture, by default for all of them.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from reed import config
from reed.encoders import ENCODERS
from reed.errors import ReedError
from reed.state_dict import for_timm

SMALL = 6_000_000  # parameters of the models that really run in the sweep over all


@dataclass
class Result:
    """What became of one architecture.

    Attributes:
        name: The architecture.
        refused: The line that refuses it; empty for an encoder.
        ran: Whether it ran on numbers, and not only on shapes.
        error: What is wrong with it.
    """

    name: str
    refused: str = ""
    ran: bool = False
    error: str = ""


# A small architecture of each module of timm 1.0.31, which defines a family.
FAMILIES = """
beit_base_patch16_224 halonet_h1 test_byobnet cait_xxs24_224 coat_tiny convit_tiny
convmixer_768_32 test_convnext cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s
cspnext_tiny davit_tiny deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla46x_c dpn48b
edgenext_xx_small efficientformer_l1 efficientformerv2_s0 test_efficientnet efficientvim_m1
efficientvit_b0 efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8
focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m ghostnet_050 hardcorenas_a hgnetv2_b0
hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2
inception_v3 inception_v4 lcnetv2_small levit_128s lowformer_b0 test_mambaout test_maxvit
caformer_s18 gmixer_12_224 mobilenetv4_conv_small_035 mobilenetv5_base mobilevit_xxs mvitv2_tiny
naflexvit_base_patch16_gap nasnetalarge nest_tiny nextvit_small test_nfnet pit_ti_224
pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 repghostnet_050 repvit_m0_9
res2next50 resnest14d test_resnet resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18
sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m
twins_pcpvt_small vgg11 visformer_tiny test_vit vit_tiny_r_s16_p8_224 test_vit_relpos
samvit_base_patch16 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41
xcit_nano_12_p16_224
""".split()


def family(name: str) -> str:
    """The module of timm that defines an architecture."""
    return timm.models.model_entrypoint(name).__module__.rpartition(".")[2]


def check(name: str, most: float = SMALL) -> Result:
    """Compare the encoder of an architecture with timm, on numbers up to so many parameters."""
    with warnings.catch_warnings(), without_fills():
        warnings.simplefilter("ignore")  # timm's own, of models that have another name now
        return _check(name, most)


@contextmanager
def without_fills() -> Generator[None]:
    """Fill no tensors on the device "meta", where that takes most of the time of making a model."""
    fills = ("normal_", "uniform_", "fill_", "zero_", "erfinv_", "clamp_")
    old = {name: getattr(torch.Tensor, name) for name in fills}

    def fill(name: str) -> Any:
        return lambda x, *more, **how: x if x.is_meta else old[name](x, *more, **how)

    for name in fills:
        setattr(torch.Tensor, name, fill(name))
    try:
        yield
    finally:
        for name, method in old.items():
            setattr(torch.Tensor, name, method)


def _check(name: str, most: float) -> Result:
    try:
        made = ENCODERS.get(f"timm:{name}")
    except ReedError as error:
        line = str(error)
        return Result(name, line, error="" if "\n" not in line and name in line else "no one line")
    try:
        whole = on_meta(name)
        accepts_file(name, whole)
        shapes_are_timms(made, whole)
        is_small = sum(p.numel() for p in whole.parameters()) <= most
        if is_small:
            numbers_are_timms(made, name)
    except Exception as error:  # so that one architecture does not hide the rest
        return Result(name, error=f"{type(error).__name__}: {error}"[:500])
    return Result(name, ran=is_small)


def on_meta(name: str, **settings: Any) -> Any:
    """A model without memory."""
    with torch.device("meta"):
        return timm.create_model(name, **settings).eval()


def accepts_file(name: str, whole: Any) -> None:
    """timm's own file, which has the classifier, must fill the model that has none."""
    bare = on_meta(name, num_classes=0)
    kept = for_timm(bare, whole.state_dict()).keys()
    want = bare.state_dict().keys()
    assert kept == want, f"the file differs in {sorted(kept ^ want)[:5]}"


def encoder_of(made: Any, **options: Any) -> Any:
    return config.build(made.func, {**made.keywords, **options}, "timm")


def shapes_are_timms(made: Any, whole: Any) -> None:
    """The fields of the encoder must be what timm returns for images of its size."""
    encoder = encoder_of(made)
    if hasattr(whole, "set_input_size"):
        whole.set_input_size(img_size=(encoder.size, encoder.size))
    with torch.device("meta"), torch.no_grad():
        last = whole.forward_features(torch.zeros(1, 3, encoder.size, encoder.size))
    tokens, dim = encoder.fields[0].shape
    first, *places = last.shape
    places.pop(-1 if last.ndim == 3 or is_channels_last(whole) else 0)
    assert first == 1 and dim in last.shape[1:], (list(last.shape), dim)
    assert int(np.prod(places)) - prefix_of(whole, last, tokens) == tokens, (places, tokens)


def is_channels_last(model: Any) -> bool:
    return getattr(model, "output_fmt", "NCHW") == "NHWC"


def prefix_of(model: Any, last: torch.Tensor, tokens: int) -> int:
    """How many class and register tokens precede the others."""
    if last.ndim == 4:
        return 0
    return getattr(model, "num_prefix_tokens", last.shape[1] - tokens)


def numbers_are_timms(made: Any, name: str) -> None:
    """Tokens and vector of an image must be those of timm, with random weights from a file."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval().requires_grad_(False)
    for parameter in model.parameters():  # also those that start at zero
        parameter.add_(torch.randn_like(parameter) * 0.02)

    # At the model's own size where that fits its grid, because it is quick.
    own = model.pretrained_cfg["input_size"][-1]
    preset = encoder_of(made)
    grid = preset.grid if preset.card.native else max(own // preset.card.patch, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        torch.save(model.state_dict(), path)
        encoder = encoder_of(made, weights=str(path), grid=grid)
        encoder.load("cpu")
    image = np.random.default_rng(0).integers(0, 256, (encoder.size, encoder.size, 3), np.uint8)
    values = encoder.encode([{"image": image}])

    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=(encoder.size, encoder.size))
    said = model.pretrained_cfg
    mean, std = (torch.tensor(said[key])[:, None, None] for key in ("mean", "std"))
    x = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std
    last = model.forward_features(x[None])
    tokens, dim = encoder.fields[0].shape
    if last.ndim == 4:
        last = last if is_channels_last(model) else last.permute(0, 2, 3, 1)
        assert last.shape[1] == last.shape[2] == grid, (last.shape, grid)
    rows = last.reshape(1, -1, dim)
    close(values["tokens"], rows[:, prefix_of(model, last, tokens) :])
    vector = encoder.fields[1].name
    if vector == "cls":
        close(values["cls"], rows[:, 0])
    else:
        close(values["pooled"], pooling(model, x[None], rows))


def pooling(model: Any, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """timm's own pooling; the mean of the tokens if it has none."""
    try:
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    except (NotImplementedError, TypeError):
        return rows.mean(1)
    return pooled if pooled.ndim == 2 else rows.mean(1)


def close(have: np.ndarray, want: torch.Tensor) -> None:
    want = want.numpy()
    assert np.isfinite(want).all() and want.std() > 0, "these numbers prove nothing"
    np.testing.assert_allclose(have, want, rtol=0, atol=1e-4 * np.abs(want).max())


if __name__ == "__main__":
    for architecture in sys.argv[1:] or timm.list_models():
        print(json.dumps(asdict(check(architecture))), flush=True)
