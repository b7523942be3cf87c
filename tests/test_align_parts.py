"""Parts of an alignment target: heads, grids, norms, Gram matrices, weights of tokens and times."""

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from reed import config
from reed.cache.schema import Field
from reed.domains.base import Batch, Noised
from reed.errors import ReedError
from reed.flows.time_weight import TimeWeight
from reed.guides.when import When
from reed.nets import Tap
from reed.nets.layers import GridConv
from reed.train import checkpoint, grids, match
from reed.train.align import AlignConfig, AlignedNet, check_target
from reed.train.targets import NormalizeConfig

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make  # fixtures
WIDTH, CLOSE = 8, {"rtol": 0, "atol": 2e-6}


class Net(nn.Module):
    """One layer over tokens, which is a tap."""

    def __init__(self, tokens=16):
        super().__init__()
        self.layer, self.tokens = nn.Linear(WIDTH, WIDTH), tokens

    def taps(self):
        return [Tap(WIDTH, self.tokens)]

    def forward(self, x, taps=()):
        x = self.layer(x).tanh()
        return x, dict.fromkeys(taps, x)


def on(**settings):
    norm = NormalizeConfig(**settings.pop("normalize", {}))
    return AlignConfig("column/field", 1, hidden=16, normalize=norm, **settings)


def tokens(count):
    return Field("f", "token", (count, 5))


def test_a_convolution_sees_the_neighbours_of_each_token():
    torch.manual_seed(0)
    head, x = GridConv(3, 2), torch.randn(2, 12 + 4, 3)
    wanted = torch.zeros(2, 4, 4, 2)
    for row, column, down, right in np.ndindex(4, 4, 3, 3):
        y, z = row + down - 1, column + right - 1
        if 0 <= y < 4 and 0 <= z < 4:
            wanted[:, row, column] += x[:, 4 * y + z] @ head.weight[:, :, down, right].mT
    torch.testing.assert_close(head(x), wanted.flatten(1, 2) + head.bias, **CLOSE)
    assert list(head.state_dict()) == ["weight", "bias"]


def test_spatial_norm_by_hand():
    z = torch.tensor([[[1.0, 2.0], [3.0, 2.0], [5.0, 8.0]]])  # means 3 and 4
    deviations = torch.tensor([math.sqrt(8 / 3), math.sqrt(8)])
    for gamma in (1.0, 0.6):
        wanted = (z - gamma * torch.tensor([3.0, 4.0])) / deviations
        torch.testing.assert_close(grids.spatial_norm(z, gamma, None), wanted, **CLOSE)
    mask = torch.tensor([[True, True, False]])  # means 2 and 2, deviations 1 and 0
    found = grids.spatial_norm(z, 1.0, mask)[:, :2]
    torch.testing.assert_close(found, torch.tensor([[[-1.0, 0.0], [1.0, 0.0]]]), **CLOSE)


def test_an_area_is_the_mean_of_what_it_covers():
    z = torch.arange(16.0).view(1, 16, 1)
    assert grids.resized(z, 2, "area").flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    small = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    large = [1.0, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]
    assert grids.resized(small, 4, "area").flatten().tolist() == large


@pytest.mark.parametrize("side", [3, 4, 10])
def test_bicubic_is_that_of_pillow(side):
    z = np.random.default_rng(0).standard_normal((6, 6), np.float32)
    found = grids.resized(torch.from_numpy(z).view(1, 36, 1), side, "bicubic")
    wanted = np.asarray(Image.fromarray(z).resize((side, side), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(found.view(side, side).numpy(), wanted, atol=1e-5)


def test_gram_matrices_by_hand():
    ours = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])  # orthogonal
    theirs = torch.tensor([[[3.0, 4.0], [3.0, 0.0]]])  # the cosine is 0.6
    pair = match.Pair(ours, theirs, None)
    assert match.gram(pair).tolist() == [pytest.approx(2 * 0.36 / 4)]
    turned = theirs @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    assert match.gram(match.Pair(theirs, 5 * turned, None)).item() == pytest.approx(0, abs=1e-12)

    # A third token that does not count changes nothing.
    more = [torch.cat([x, torch.full((1, 1, 2), 7.0)], 1) for x in (ours, theirs)]
    masked = match.Pair(*more, torch.tensor([[True, True, False]]))
    assert match.gram(masked).tolist() == [pytest.approx(2 * 0.36 / 4)]


def test_weights_of_tokens_by_hand():
    """eta = 0, 1/4, 1; by their mean 5/12: 0, 0.6, 2.4; clipped: 1/4, 0.6, 2.4 of mean 13/12."""
    cos = torch.tensor([[1.0, 0.5, -1.0]], requires_grad=True)
    pair = match.Pair(cos, cos, None)
    weights = match.token_weights(cos, pair)
    wanted = torch.tensor([[0.25, 0.6, 2.4]]) * 12 / 13
    torch.testing.assert_close(weights, wanted, **CLOSE)
    match.over_entries(weights * cos, pair).sum().backward()
    torch.testing.assert_close(cos.grad, wanted / 3, **CLOSE)  # none through the weights

    far = torch.tensor([[-1.0] + [1.0] * 15])  # 16 times the mean
    weights = match.token_weights(far, match.Pair(far, far, None))
    assert weights[0, 0] / weights[0, 1] == pytest.approx(16)
    masked = match.Pair(cos, cos, torch.tensor([[True, False, True]]))
    found = match.token_weights(cos, masked)[0, ::2]  # eta 0 and 1, mean 1/2
    torch.testing.assert_close(found, torch.tensor([0.25, 2.0]) / 1.125, **CLOSE)
    equal = torch.ones(1, 3)
    assert match.token_weights(equal, match.Pair(equal, equal, None)).tolist() == [[1, 1, 1]]


def test_a_sigmoid_of_the_time_by_hand():
    spec = {"kind": "sigmoid", "tau": 0.7, "k": 20}
    weight, t = TimeWeight.of(spec, "w"), torch.tensor([0.7, 0.5, 1.0])
    wanted = [0.5, 1 / (1 + math.exp(-4)), 1 / (1 + math.exp(6))]
    assert weight(t).tolist() == pytest.approx(wanted)
    assert TimeWeight.of({"kind": "sigmoid"}, "w") == TimeWeight.of("sigmoid", "w")

    # As a law of the time at which a guide enters, its integral is A(t).
    law = When.of(spec, "when")
    fine = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    middle = (fine[1:] + fine[:-1]) / 2
    parts = torch.sigmoid(20 * (0.7 - middle))
    for at in (0, 5000, 14_000, 18_000):
        share = parts[at:].sum() / parts.sum()
        assert law.share(fine[at]).item() == pytest.approx(share.item(), abs=1e-7)
    assert law.density(middle).mean().item() == pytest.approx(1, abs=1e-7)


def test_all_parts_together():
    """Area, norm, convolution, weights of tokens and of times, and a Gram loss at the same tap."""
    field = tokens(64)
    wide = {"resize": "area", "normalize": {"kind": "spatial", "gamma": 0.6}, "head": "conv"}
    weight = {"kind": "sigmoid", "tau": 0.7, "k": 20}
    configs = {
        "a": on(**wide, token_weight=True, time_weight=weight),
        "b": on(loss="gram", resize="bicubic", time_weight="linear"),
    }
    net = Net()
    checked = {name: check_target(name, each, field, net) for name, each in configs.items()}
    assert [each.resized_from for each in checked.values()] == [8, 8]
    model = AlignedNet(net, checked)
    torch.manual_seed(0)
    x, z, t = torch.randn(3, 16, WIDTH), torch.randn(3, 64, 5), torch.tensor([0.1, 0.6, 0.9])
    found = model(Noised({"x": x}, t, x), Batch({}, {"a": z, "b": z}))[1]

    hidden = net(x)[0]
    small = F.avg_pool2d(z.mT.unflatten(2, (8, 8)), 2).flatten(2).mT
    small = (small - 0.6 * small.mean(1, keepdim=True)) / small.std(1, correction=0, keepdim=True)
    ours = F.conv2d(hidden.mT.unflatten(2, (4, 4)), *model.heads["a"].parameters(), padding=1)
    cos = F.cosine_similarity(ours.flatten(2).mT, small, dim=-1)
    eta = (1 - cos) / 2
    w = (eta / eta.mean(1, keepdim=True)).clamp(0.25, 4)
    w = w / w.mean(1, keepdim=True)
    loss = -torch.sigmoid(20 * (0.7 - t)) * (w * cos).mean(1)
    torch.testing.assert_close(found.losses["a"], loss, **CLOSE)
    torch.testing.assert_close(found.cosines["a"], cos.mean(1), **CLOSE)

    other = grids.resized(z, 4, "bicubic")
    projected = model.heads["b"](hidden)
    grams = [F.cosine_similarity(v[:, :, None], v[:, None], dim=-1) for v in (projected, other)]
    differs = (grams[0] - grams[1]).square().mean((1, 2))
    torch.testing.assert_close(found.grams["b"], differs, **CLOSE)
    torch.testing.assert_close(found.losses["b"], (1 - t) * differs, **CLOSE)
    assert list(found.logged()) == ["cos/a", "gram/b"]


SAMPLE = Field("f", "sample", (7,))


@pytest.mark.parametrize(
    ("field", "count", "settings", "parts"),
    [
        (tokens(16), 16, {"head": "conf"}, ["align.z.head is 'conf'", "mean 'conv'"]),
        (tokens(16), 16, {"loss": "grams"}, ["align.z.loss is 'grams'", "mean 'gram'"]),
        (tokens(16), 16, {"resize": "bilinear"}, ["align.z.resize is 'bilinear'", "bicubic"]),
        (tokens(16), 16, {"normalize": {"kind": "spacial"}}, ["normalize.kind is 'spacial'"]),
        (tokens(16), 16, {"normalize": {"gamma": 0.5}}, ["normalize.gamma is 0.5", "'spatial'"]),
        (
            tokens(16),
            16,
            {"normalize": {"kind": "spatial", "gamma": -1.0}},
            ["align.z.normalize.gamma is -1"],
        ),
        (tokens(16), 16, {"loss": "gram", "token_weight": True}, ["token_weight", "'gram'"]),
        (tokens(12), 12, {"head": "conv"}, ["'conv'", "square grid", "12 tokens at tap 1"]),
        (tokens(None), None, {"head": "conv"}, ["'conv'", "number of tokens that varies"]),
        (tokens(12), 16, {"resize": "area"}, ["'area'", "column/field has 12 tokens", "net 16"]),
        (tokens(64), 16, {}, ["64 tokens, the net 16 at tap 1; set align.z.resize to 'area'"]),
        (SAMPLE, 16, {"head": "conv"}, ["head = 'conv'", "kind 'sample'"]),
        (SAMPLE, 16, {"loss": "gram"}, ["loss = 'gram'", "kind 'sample'"]),
        (SAMPLE, 16, {"resize": "area"}, ["resize = 'area'", "kind 'sample'"]),
        (SAMPLE, 16, {"token_weight": True}, ["token_weight = true", "kind 'sample'"]),
        (SAMPLE, 16, {"normalize": {"kind": "spatial"}}, ["normalize.kind", "kind 'sample'"]),
    ],
)
def test_settings_that_do_not_go_together_are_refused(field, count, settings, parts):
    with pytest.raises(ReedError) as caught:
        check_target("z", on(**settings), field, Net(count))
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "sigmoid", "tau": 1.5}, "tau is 1.5 and k is 10"),
        ({"kind": "sigmoid", "k": 0}, "tau is 0.5 and k is 0"),
        ({"kind": "sigmoid", "low": 0}, "'sigmoid' has no key 'low'"),
    ],
)
def test_bad_sigmoids_of_the_time(spec, message):
    with pytest.raises(ReedError, match=message):
        TimeWeight.of(spec, "align.a")


def test_a_run_with_all_parts_goes_on_as_if_it_had_not_stopped(make):
    """On a net of 4 tokens and a target of 16, which the recipe interpolates."""
    parts = {"head": "conv", "normalize": {"kind": "spatial"}, "resize": "area"}
    more = {
        "domain": {"net_settings": {"patch_size": 4}},
        "align": {"digits-vit": parts | {"token_weight": True}},
    }
    whole = TINY.trained(make("whole", steps=6, every={"log": 1}, **more))
    TINY.trained(make("split", steps=3, every={"log": 1}, **more))
    split = TINY.trained(make("split", steps=6, every={"log": 1}, **more))
    TINY.same(checkpoint.load(split), checkpoint.load(whole))
    shapes = {n: tuple(v.shape) for n, v in checkpoint.load(whole).model.items() if "heads.d" in n}
    assert shapes == {
        "heads.digits-vit.weight": (24, 32, 3, 3),
        "heads.digits-vit.bias": (24,),
    }
    recorded = config.read(whole / "config.json")["align"]["digits-vit"]
    assert recorded["resize"] == "area" and recorded["normalize"]["gamma"] == 1.0
    grown = [line["cos/digits-vit"] for line in TINY.lines(whole)]
    assert grown[-1] > grown[0]
