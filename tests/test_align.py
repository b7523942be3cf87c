"""Alignment: matches, masks, time weights, probes, and the checks of a target."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reed.cache.schema import Field
from reed.domains.base import Batch, Noised
from reed.errors import ReedError
from reed.nets import Tap
from reed.nets.layers import masked_mean
from reed.nets.sit import SiT, SiTConfig
from reed.train.align import AlignConfig, AlignedNet, check_target

GOLDEN = Path(__file__).parent / "golden"
TOKENS, WIDTH = 6, 8
TOKEN = Field("tokens", "token", (TOKENS, 5))
SAMPLE = Field("embedding", "sample", (7,))


class Net(nn.Module):
    """Three layers over tokens, every one a tap; remembers which taps it was asked for."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def taps(self):
        return [Tap(WIDTH, TOKENS)] * 3

    def forward(self, x, taps=()):
        self.asked, states = list(taps), {}
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x).tanh()
            if number in taps:
                states[number] = x
        return x, states


def aligned(net=None, **targets):
    """An AlignedNet with targets given as name = (field, AlignConfig)."""
    net = net or Net()
    checked = {name: check_target(name, c, field, net) for name, (field, c) in targets.items()}
    torch.manual_seed(1)
    return AlignedNet(net, checked)


def on(tap, **settings):
    return AlignConfig("column/field", tap, hidden=16, **settings)


def inputs(fields, rows=4, mask=None, t=None):
    """Random inputs and representations for some targets, as forward takes them."""
    torch.manual_seed(0)
    t = torch.linspace(0.1, 0.9, rows) if t is None else t
    x = torch.randn(rows, TOKENS, WIDTH)
    targets = {name: torch.randn(rows, *field.shape) for name, field in fields.items()}
    return Noised({"x": x}, t, x), Batch({}, targets, mask)


def cosine(a, b):
    return F.cosine_similarity(a.double(), b.double(), dim=-1)


def test_token_targets_are_compared_token_by_token():
    model = aligned(dino=(TOKEN, on(2)))
    noised, batch = inputs({"dino": TOKEN})
    _, found = model(noised, batch)
    hidden = model.net(noised.inputs["x"], taps=[2])[1][2]
    wanted = cosine(model.heads["dino"](hidden), batch.targets["dino"]).mean(1)
    torch.testing.assert_close(found.cosines["dino"].double(), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.losses["dino"], -found.cosines["dino"])
    assert found.losses["dino"].shape == (4,)


def test_sample_targets_are_pooled_and_then_projected():
    model = aligned(text=(SAMPLE, on(3)))
    noised, batch = inputs({"text": SAMPLE})
    hidden = model.net(noised.inputs["x"], taps=[3])[1][3]
    head, z = model.heads["text"], batch.targets["text"]
    cosines = model(noised, batch)[1].cosines["text"].double()
    torch.testing.assert_close(cosines, cosine(head(hidden.mean(1)), z), rtol=0, atol=1e-6)
    assert not torch.allclose(cosines, cosine(head(hidden).mean(1), z), atol=1e-3)


@torch.no_grad()
def test_heads_give_what_the_public_code_gives():
    with np.load(GOLDEN / "sit_tiny.npz", allow_pickle=False) as file:
        golden = {k: torch.from_numpy(file[k]) for k in file.files if not k.endswith("json")}
    net = SiT(SiTConfig(8, 2, 4, 64, 4, 4, num_classes=10))
    fields = {"z0": Field("z", "token", (16, 48)), "z1": Field("z", "sample", (32,))}
    model = aligned(
        net,
        z0=(fields["z0"], replace(on(2), hidden=96)),
        z1=(fields["z1"], replace(on(3), hidden=96)),
    )
    recorded = {k.removeprefix("sd/"): v for k, v in golden.items() if k.startswith("sd/")}
    net.load_state_dict({k: v for k, v in recorded.items() if "projectors" not in k})
    names = {k: k.replace("projectors.", "z") for k in recorded if "projectors" in k}
    model.heads.load_state_dict({ours: recorded[theirs] for theirs, ours in names.items()})
    x, t, y = (golden[f"in/{name}"] for name in "xty")
    zs = {name: golden[f"out/zs{name[1]}"] for name in fields}
    v, found = model(Noised({"x": x, "t": t, "y": y}, t, x), Batch({}, zs))
    torch.testing.assert_close(v, golden["out/v"], rtol=0, atol=5e-6)
    for name in fields:  # the same vectors, so every cosine is one
        torch.testing.assert_close(found.cosines[name], torch.ones(5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("field", [TOKEN, SAMPLE], ids=["token", "sample"])
def test_padding_changes_nothing(field):
    model = aligned(z=(field, on(2)))
    mask = torch.arange(TOKENS) < torch.tensor([6, 3, 1, 5])[:, None]
    noised, batch = inputs({"z": field}, mask=mask)
    before = model(noised, batch)[1].losses["z"]
    noised.inputs["x"][~mask] = 100.0
    if field is TOKEN:
        batch.targets["z"][~mask] = -100.0
    torch.testing.assert_close(model(noised, batch)[1].losses["z"], before)
    noised.inputs["x"][1, 0] += 1.0
    changed = model(noised, batch)[1].losses["z"] != before
    assert changed.tolist() == [False, True, False, False]


def test_masked_mean_by_hand():
    values = torch.tensor([[1.0, 2.0, 90.0], [4.0, 80.0, 70.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    assert masked_mean(values, mask).tolist() == [1.5, 4.0, 0.0]
    assert masked_mean(values, None).tolist() == [31.0, pytest.approx(154 / 3), 1.0]
    wide = values[..., None].repeat(1, 1, 2)
    assert masked_mean(wide, mask).tolist() == [[1.5, 1.5], [4.0, 4.0], [0.0, 0.0]]


def test_the_cosine_is_float32_under_autocast():
    model = aligned(z=(TOKEN, on(2)))
    noised, batch = inputs({"z": TOKEN})
    heads = []
    model.heads["z"].register_forward_hook(lambda *call: heads.append(call[-1].detach()))
    with torch.autocast("cpu", torch.bfloat16):
        _, found = model(noised, batch)
    assert heads[0].dtype == torch.bfloat16 and found.losses["z"].dtype == torch.float32
    exact = cosine(heads[0], batch.targets["z"]).mean(1)
    torch.testing.assert_close(found.cosines["z"].double(), exact, rtol=0, atol=1e-6)


class Fixed(nn.Module):
    """A head that answers what it was given."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, hidden):
        return self.answer


def test_time_weights_are_per_sample():
    """Cosines 1 and 0.6 at times 0.1 and 0.9: the product of the means would be 0.4."""
    model = aligned(z=(Field("e", "sample", (2,)), on(1, time_weight="linear")))
    model.heads["z"] = Fixed(torch.tensor([[2.0, 0.0], [0.6, 0.8]]))
    noised, _ = inputs({}, rows=2, t=torch.tensor([0.1, 0.9]))
    batch = Batch({}, {"z": torch.tensor([[3.0, 0.0], [5.0, 0.0]])})
    found = model(noised, batch)[1]
    torch.testing.assert_close(found.cosines["z"], torch.tensor([1.0, 0.6]))
    torch.testing.assert_close(found.losses["z"], torch.tensor([-0.9, -0.06]))
    assert found.losses["z"].mean().item() == pytest.approx(-0.48)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "sigmoid", "cutoff", "loglinear"])
def test_the_weighted_loss_is_what_the_public_code_means(kind):
    with np.load(GOLDEN / "loss.npz", allow_pickle=False) as file:
        golden = {k: torch.from_numpy(file[k]) for k in file.files if not k.endswith("json")}
    weight = {"kind": kind, "low": 0.2, "high": 0.7} if kind == "cutoff" else kind
    z = {"z0": golden["in/z0"], "z1": golden["in/z1"]}
    kinds = {"z0": "token", "z1": "sample"}
    targets = {
        n: (Field(n, kinds[n], tuple(v.shape[1:])), on(1, time_weight=weight)) for n, v in z.items()
    }
    net = Net()
    net.taps = lambda: [Tap(WIDTH, 16)]
    model = aligned(net, **targets)
    for name in z:
        model.heads[name] = Fixed(golden[f"in/ztilde{name[1]}"])
    noised, _ = inputs({}, rows=6, t=golden["uniform.linear.t"])
    found = model(noised, Batch({}, z))[1]
    for name in z:
        theirs = -golden[f"align_per_sample/{name}"]
        torch.testing.assert_close(found.cosines[name], theirs, rtol=0, atol=1e-6)
    total = found.losses["z0"].mean() + 0.5 * found.losses["z1"].mean()
    wanted = golden[f"uniform.linear.{kind}.proj_loss_meant"]
    torch.testing.assert_close(total, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("probe", [False, True])
def test_a_probe_trains_its_head_and_leaves_the_trunk(probe):
    model = aligned(z=(TOKEN, on(2, probe=probe)))
    model(*inputs({"z": TOKEN}))[1].losses["z"].mean().backward()
    trunk = [p.grad for p in model.net.layers[:2].parameters()]
    if probe:
        assert all(grad is None for grad in trunk)
    else:
        assert all(grad.abs().max() > 0 for grad in trunk)
    assert all(p.grad.abs().max() > 0 for p in model.heads.parameters())


def test_a_probe_leaves_other_targets_alone():
    fields = {"a": TOKEN, "b": TOKEN}
    both = aligned(a=(TOKEN, on(1)), b=(TOKEN, on(2, probe=True)))
    losses = both(*inputs(fields))[1].losses
    sum(loss.mean() for loss in losses.values()).backward()
    grads = [p.grad for p in both.net.layers[0].parameters()]
    losses = both(*inputs(fields))[1].losses
    alone = torch.autograd.grad(losses["a"].mean(), list(both.net.layers[0].parameters()))
    assert all(torch.equal(a, b) for a, b in zip(grads, alone, strict=True))
    assert all(p.grad is None for p in both.net.layers[1].parameters())


def test_targets_at_different_taps_and_the_same_tap():
    """More than two targets, one field twice, and a name with dots."""
    targets = {
        "dino": (TOKEN, on(1)),
        "dino-late": (TOKEN, on(3)),
        "qwen2.5-vl": (SAMPLE, on(3)),
        "esm": (SAMPLE, on(2)),
    }
    model = aligned(**targets)
    noised, batch = inputs({name: field for name, (field, _) in targets.items()})
    batch.targets["dino-late"] = batch.targets["dino"]
    found = model(noised, batch)[1]
    assert model.net.asked == [1, 2, 3]
    assert list(found.losses) == list(targets) == list(found.cosines)
    states = model.net(noised.inputs["x"], taps=[1, 2, 3])[1]
    for name, head in zip(targets, model.heads.values(), strict=True):
        field, config = targets[name]
        hidden = states[config.tap] if field is TOKEN else states[config.tap].mean(1)
        wanted = cosine(head(hidden), batch.targets[name])
        wanted = wanted.mean(1) if field is TOKEN else wanted
        torch.testing.assert_close(found.cosines[name].double(), wanted, rtol=0, atol=1e-6)
    assert not torch.allclose(found.cosines["dino"], found.cosines["dino-late"])


def test_a_net_without_targets_is_asked_for_no_tap():
    model = aligned()
    prediction, found = model(*inputs({}))
    assert model.net.asked == [] and prediction.shape == (4, TOKENS, WIDTH)
    assert found.losses == {} and list(model.heads.parameters()) == []


@pytest.mark.parametrize(
    ("field", "config", "parts"),
    [
        (TOKEN, on(0), ["align.z.tap is 0", "taps 1 to 3"]),
        (TOKEN, on(4), ["align.z.tap is 4", "taps 1 to 3"]),
        (Field("f", "token", (9, 5)), on(2), ["column/field has 9 tokens", "the net 6 at tap 2"]),
        (Field("f", "text", (), "utf8"), on(2), ["column/field", "'text'", "'token', 'sample'"]),
        (Field("f", "label", (), "int64"), on(2), ["'label'", "'token', 'sample'"]),
        (TOKEN, AlignConfig("c/f", 1, hidden=0), ["align.z.hidden is 0"]),
        (TOKEN, on(2, time_weight="liner"), ["align.z.time_weight", "'liner'", "mean 'linear'"]),
    ],
)
def test_a_target_that_does_not_fit_is_refused(field, config, parts):
    with pytest.raises(ReedError) as caught:
        check_target("z", config, field, Net())
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_target_of_varying_length_fits_any_net():
    check_target("z", on(2), Field("f", "token", (None, 5)), Net())


@pytest.mark.parametrize("name", ["", "type", "values", "training"])
def test_a_name_that_torch_refuses_is_refused(name):
    with pytest.raises(ReedError, match=f"align.{name}: '{name}' cannot name a head"):
        check_target(name, on(1), SAMPLE, Net())
