"""Families of timm as encoders: equal to timm's own output, or refused in one line."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch

from reed import config
from reed.encoders import ENCODERS
from reed.encoders.image import timm_models
from reed.errors import ReedError

SWEEP = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("timm_sweep.py"))))
PAGE = Path(__file__).parents[1] / "docs" / "encoders.md"
HERE = [name for name in SWEEP.FAMILIES if name in timm.list_models()]  # timm may be older

# One of each kind of output: wider than the last stage, with a class token that is not announced,
# with a pooling of another width, without any pooling, of a classifier in parts, of one size alone.
KINDS = (
    "test_efficientnet",
    "coat_lite_tiny",
    "mobilenetv3_small_050",
    "samvit_base_patch16",
    "levit_128s",
    "repvit_m0_9",
    "resmlp_12_224",
    "inception_v3",
)

# The sentence of the documentation with the counts.
LINE = re.compile(
    r"(?P<encoders>\d+) of the (?P<all>\d+)\s+architectures\s+of\s+timm (?P<version>\S+)\s+are"
    r"\s+encoders.*?(?P<refused>\d+)\s+are\s+refused.*?which\s+there\s+are\s+(?P<ran>\d+)",
    re.DOTALL,
)


def made(name: str, **options):
    item = ENCODERS.get(f"timm:{name}")
    return config.build(item.func, {**item.keywords, **options}, name)


FAMILIES: dict[str, list[str]] = {}  # module of timm -> its architectures
for _name in timm.list_models():
    FAMILIES.setdefault(SWEEP.family(_name), []).append(_name)


@pytest.fixture
def kept(request):
    """What pytest keeps between runs, so that the families need not run in one."""
    return request.config.cache


@pytest.mark.parametrize("name", KINDS)
def test_a_model_of_timm_gives_its_own_tokens_whatever_its_output_is(name):
    result = SWEEP.check(name, most=30e6)
    assert (result.error, result.refused) == ("", "")
    assert result.ran == (name != "samvit_base_patch16")  # too large to run here


def test_several_arrays_are_refused():
    result = SWEEP.check("crossvit_tiny_240")
    assert result.refused == (
        "timm:crossvit_tiny_240 cannot be an encoder: it returns 2 arrays of features, of which "
        "none is the last; choose another model"
    )


def test_a_model_of_one_size_runs_at_that_size_and_refuses_others():
    encoder = made("resmlp_12_224")
    assert (encoder.size, encoder.grid) == (224, 14) and encoder.fields[0].shape == (196, 384)
    text = "resmlp_12_224 takes images of 224 pixels alone, which give a grid of 14, not 16"
    with pytest.raises(ReedError, match=f"{text}; set grid=14"):
        made("resmlp_12_224", grid=16)
    third = made("hiera_tiny_224", layer=3, grid=14)
    assert third.size == 224 and third.fields[0].shape == (14**2, 384)


def test_the_last_stage_and_the_output_of_an_efficientnet_are_both_at_hand(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=0).eval().requires_grad_(False)
    torch.save(model.state_dict(), tmp_path / "e.pth")
    stages = [stage["num_chs"] for stage in model.feature_info]
    widths = {"output": model.num_features, "stage": stages[-1]}
    assert widths["output"] != widths["stage"]
    for options, width in (
        ({}, "output"),
        ({"layer": len(stages)}, "stage"),
        ({"norm": False}, "stage"),
    ):
        encoder = made("test_efficientnet", weights=str(tmp_path / "e.pth"), grid=2, **options)
        encoder.load("cpu")  # compares with what the model returns
        assert encoder.fields[0].shape == (4, widths[width])


def test_a_size_that_does_not_fit_is_one_line_when_the_model_is_loaded(tmp_path, monkeypatch):
    model = timm.create_model("test_vit", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "v.pth")

    encoder = made("test_vit", weights=str(tmp_path / "v.pth"), grid=3)

    def fail(self, img_size):
        raise AssertionError(f"{img_size} is odd\nand more")

    monkeypatch.setattr(type(model), "set_input_size", fail)
    size = encoder.size
    text = rf"test_vit cannot run at {size} pixels \(grid=3\): \({size}, {size}\) is odd; choose"
    with pytest.raises(ReedError, match=text) as error:
        encoder.load("cpu")
    assert "\n" not in str(error.value)


class Stub:
    """A model of timm that returns one array, and gives no access to its layers."""

    pretrained_cfg = {
        "input_size": (3, 32, 32),
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bicubic",
    }
    feature_info = ()
    num_prefix_tokens = 0

    def __init__(self, shape) -> None:
        self.shape = shape

    def forward_features(self, x):
        return torch.zeros(self.shape)

    def forward_head(self, x, pre_logits):
        return x.flatten(1)


def test_an_encoder_that_refuses_to_pool_has_the_mean_of_its_tokens(monkeypatch):
    def refuse(self, x, pre_logits):
        raise NotImplementedError("no classification")

    monkeypatch.setattr(Stub, "forward_head", refuse)
    monkeypatch.setattr(Stub, "forward_features", lambda self, x: torch.arange(8.0).view(1, 4, 2))
    tokens, vector = timm_models.final(Stub(()), None, pooled=True)
    assert tokens.shape == (1, 4, 2) and vector.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize(
    ("shape", "text"),
    [((1, 6, 8), "it makes 6 tokens of 32 pixels"), ((1, 8), r"its features are \[1, 8\]")],
)
def test_what_is_no_grid_of_tokens_is_refused(shape, text, monkeypatch):
    timm_models.card_of.cache_clear()
    monkeypatch.setattr(timm_models, "_on_meta", lambda name: Stub(shape))
    with pytest.raises(ReedError, match=f"timm:stub cannot be an encoder: {text}"):
        timm_models.card_of("stub")


def test_a_model_without_access_to_its_layers_says_what_to_set():
    with pytest.raises(ReedError, match="no access to its inner layers; use layer=0 and norm=true"):
        timm_models.inner(Stub((1, 4, 8)), None, 0, norm=True, pooled=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", HERE)
def test_a_small_model_of_every_family_runs_and_equals_timm(name):
    result = SWEEP.check(name, most=500e6)
    assert result.error == "" and (result.ran or result.refused)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_of_a_family_equals_timm_or_is_refused_in_one_line(family, kept):
    """Shapes and files of all, on the device "meta", and numbers of the small ones."""
    results = [SWEEP.check(name) for name in FAMILIES[family]]
    assert [result for result in results if result.error] == []
    refused, ran = (sum(bool(getattr(r, what)) for r in results) for what in ("refused", "ran"))
    kept.set(
        f"timm/{timm.__version__}/{family}", [len(results) - refused, len(results), refused, ran]
    )


@pytest.mark.slow
def test_the_page_has_the_counts_of_all_families(kept):
    """After the families, which may have run one by one: `pytest -m slow -k NAME`."""
    counts = {family: kept.get(f"timm/{timm.__version__}/{family}", None) for family in FAMILIES}
    if missing := [family for family, count in counts.items() if count is None]:
        pytest.skip(f"{len(missing)} families have not run yet, such as {missing[0]}")
    said = re.search(LINE, PAGE.read_text())
    if said["version"] == timm.__version__:
        sums = [sum(count) for count in zip(*counts.values(), strict=True)]
        assert [int(said[n]) for n in ("encoders", "all", "refused", "ran")] == sums
