"""Moving averages against the public code and against their closed forms."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reed.errors import ReedError
from reed.train.ema import Ema, clean_names, constant_decay, gamma_of, power_decay

GOLDEN = Path(__file__).parent / "golden"
NAMES = ["pos_embed", "lin.weight", "lin.bias", "emb.weight"]


class Net(nn.Module):
    """The layout of the recorded model: a frozen parameter, a buffer and two layers."""

    def __init__(self):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 3, 6), requires_grad=False)
        self.register_buffer("buf", torch.zeros(3))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.lin = nn.Linear(7, 5)
        self.emb = nn.Embedding(4, 6)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "ema.npz", allow_pickle=False) as file:
        return {k: torch.from_numpy(file[k]) for k in file.files}


def state(golden, prefix):
    return {
        k.removeprefix(f"{prefix}/"): v for k, v in golden.items() if k.startswith(f"{prefix}/")
    }


def averaged(golden, decay, updates=1):
    net = Net()
    ema = Ema(net, decay)
    ema.load_state_dict(state(golden, "ema_before"))
    net.load_state_dict(state(golden, "model"))
    for step in range(1, updates + 1):
        ema.update(step)
    return ema.state_dict()


@pytest.mark.parametrize(
    ("after", "decay", "updates", "atol"),
    [
        ("ema_after_0.9999", constant_decay(0.9999), 1, 1e-6),
        ("ema_after_0.5", constant_decay(0.5), 1, 1e-6),
        ("ema_after_0", constant_decay(0.0), 1, 0),
        ("ema_after_default", constant_decay(), 1, 1e-6),
        ("ema_after_100x_default", constant_decay(), 100, 1e-4),
    ],
)
def test_recorded_updates(golden, after, decay, updates, atol):
    ours, theirs = averaged(golden, decay, updates), state(golden, after)
    for name in NAMES:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=atol)
        if name != "pos_embed":  # frozen, so its average is itself
            assert decay(1) == 0 or not torch.equal(ours[name], golden[f"model/{name}"])
    # the public code leaves buffers as they were; ours follow the model
    assert torch.equal(theirs["buf"], golden["ema_before/buf"])
    assert torch.equal(ours["buf"], golden["model/buf"])
    assert not torch.equal(ours["buf"], theirs["buf"])


def test_100_updates_against_float64(golden):
    ours = averaged(golden, constant_decay(0.9), 100)
    for name in NAMES:
        before, model = golden[f"ema_before/{name}"].double(), golden[f"model/{name}"].double()
        exact = model + 0.9**100 * (before - model)
        torch.testing.assert_close(ours[name].double(), exact, rtol=0, atol=1e-5)


def test_names_are_those_of_the_bare_net():
    net = Net()
    ema = Ema(net, constant_decay())
    assert list(ema.state_dict()) == list(net.state_dict())  # without the scratch buffer
    net.load_state_dict(ema.state_dict())
    compiled = torch.compile(net)  # compiles on the first call only
    wrapped = nn.ModuleDict({"module": compiled})
    for module in (compiled, wrapped):
        assert list(Ema(module, constant_decay()).state_dict()) == list(net.state_dict())


@pytest.mark.parametrize(
    ("names", "clean"),
    [
        (["module._orig_mod.a.b", "module._orig_mod.c"], ["a.b", "c"]),
        (["_orig_mod.module.a", "_orig_mod.module.b"], ["a", "b"]),
        (["blocks.0._orig_mod.attn", "head"], ["blocks.0.attn", "head"]),
        (
            ["my_module.a", "a.module.b", "submodule.c"],
            ["my_module.a", "a.module.b", "submodule.c"],
        ),
        (["module.a", "other.b"], ["module.a", "other.b"]),
    ],
)
def test_clean_names(names, clean):
    assert clean_names(names) == clean


def test_power_average_has_a_power_law_profile():
    """After T updates the weights at step s count (s/T)^(g+1) - ((s-1)/T)^(g+1)."""
    net, total = nn.Linear(64, 1, bias=False), 64
    decay = power_decay(0.10)
    ema = Ema(net, decay)
    for step in range(1, total + 1):
        with torch.no_grad():  # the weights at step s are the unit vector s, so ema = the profile
            net.weight.zero_()
            net.weight[0, step - 1] = 1
        ema.update(step)
    power = gamma_of(0.10) + 1
    edges = (torch.arange(total + 1, dtype=torch.float64) / total) ** power
    profile = ema.state_dict()["weight"][0].double()
    torch.testing.assert_close(profile, edges.diff(), rtol=0, atol=1e-6)
    assert profile.sum().item() == pytest.approx(1, abs=1e-5)  # nothing of the start is left


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94), (12**-0.5, 0.0)])
def test_gamma(sigma_rel, gamma):
    ours = gamma_of(sigma_rel)
    assert ours == pytest.approx(gamma, abs=0.01)
    variance = (ours + 1) / ((ours + 2) ** 2 * (ours + 3))
    assert math.sqrt(variance) == pytest.approx(sigma_rel, rel=1e-6)


def test_weights_in_gives_the_average_and_then_the_weights_back(golden):
    net = Net()
    net.load_state_dict(state(golden, "model"))
    ema = Ema(net, constant_decay())
    ema.load_state_dict(state(golden, "ema_before"))
    with ema.weights_in(net):
        for name, value in net.state_dict().items():
            assert torch.equal(value, golden[f"ema_before/{name}"])
    with pytest.raises(RuntimeError, match="in the middle"), ema.weights_in(net):
        raise RuntimeError("in the middle of sampling")
    for name, value in net.state_dict().items():
        assert torch.equal(value, golden[f"model/{name}"])
    ema.update(1)  # still averages the net's own tensors
    expected = 0.9999 * golden["ema_before/lin.bias"] + 0.0001 * golden["model/lin.bias"]
    torch.testing.assert_close(ema.state_dict()["lin.bias"], expected, rtol=0, atol=1e-6)


def test_averaging_does_not_touch_training():
    net = nn.Linear(3, 2)
    ema = Ema(net, constant_decay(0.5))
    loss = net(torch.ones(1, 3)).sum()
    ema.update(1)
    loss.backward()
    assert net.weight.grad is not None
    assert not any(value.requires_grad for value in ema.state_dict().values())


def test_load_is_strict():
    ema = Ema(nn.Linear(3, 2), constant_decay())
    weight, bias = torch.zeros(2, 3), torch.zeros(2)
    with pytest.raises(ReedError, match=r"ema: .*another model: 1 missing \(bias\)$"):
        ema.load_state_dict({"weight": weight})
    with pytest.raises(ReedError, match=r"4 unexpected \(a, b, c, d\)"):
        extra = dict.fromkeys("dcba", bias)
        ema.load_state_dict({"weight": weight, "bias": bias, **extra})
    with pytest.raises(ReedError, match=r"weight \(3, 2\) instead of \(2, 3\)"):
        ema.load_state_dict({"weight": weight.T, "bias": bias})
    with pytest.raises(ReedError, match="another model"), ema.weights_in(nn.Linear(4, 2)):
        pass


def test_bad_decays():
    for decay in (1.0, -0.1, float("nan")):
        with pytest.raises(ReedError, match=f"decay is {decay}"):
            constant_decay(decay)
    for width in (0.0, 0.3):
        with pytest.raises(ReedError, match=f"sigma_rel is {width}"):
            power_decay(width)


def test_half_precision_parameters_are_our_own_bug():
    with pytest.raises(AssertionError, match="bfloat16"):
        Ema(nn.Linear(3, 2).bfloat16(), constant_decay())


def test_several_averages_are_each_what_one_alone_is():
    """One fused call for all of them gives the bits of one call for each."""
    decays = {"0.9": constant_decay(0.9), "0.5": constant_decay(0.5), "power": power_decay(0.1)}
    net = Net()
    together = Ema(net, decays["0.9"], {name: decays[name] for name in ("0.5", "power")})
    alone = {name: Ema(net, decay) for name, decay in decays.items()}
    for step in range(1, 6):
        with torch.no_grad():
            for tensor in (*net.parameters(), net.buf):
                tensor.normal_()
        for each in (together, *alone.values()):
            each.update(step)

    ours = {"0.9": together.state_dict()} | together.others()
    assert list(ours) == list(decays)
    for name, state in ours.items():
        theirs = alone[name].state_dict()
        assert list(state) == list(theirs)
        assert all(torch.equal(state[key], theirs[key]) for key in state), name
    assert not torch.equal(ours["0.9"]["lin.bias"], ours["0.5"]["lin.bias"])

    other = Ema(Net(), decays["0.9"], {name: decays[name] for name in ("0.5", "power")})
    other.load_state_dict(together.state_dict(), together.others())
    assert all(torch.equal(other.others()["power"][k], v) for k, v in ours["power"].items())
    with pytest.raises(ReedError, match="ema: .*another model"):
        other.load_state_dict(together.state_dict(), {"0.5": {}, "power": {}})


def test_an_update_for_several_steps_has_their_decays():
    """The weights of step 4, 8, ... count as those of the four steps up to it do."""
    power = gamma_of(0.1) + 1
    for decay, exact in (
        (constant_decay(0.9), lambda s: 0.9 ** (12 - s) * (1 - 0.9**4)),
        (power_decay(0.1), lambda s: (s / 12) ** power - ((s - 4) / 12) ** power),
    ):
        net = nn.Linear(3, 1, bias=False)
        nn.init.zeros_(net.weight)
        ema = Ema(net, decay, every=4)
        for step in range(1, 13):
            with torch.no_grad():
                net.weight.fill_(float("nan") if step % 4 else 0)
                net.weight[0, step // 4 - 1] = 1
            ema.update(step)
        profile = ema.state_dict()["weight"][0]
        wanted = torch.tensor([exact(step) for step in (4, 8, 12)])
        torch.testing.assert_close(profile, wanted, rtol=1e-5, atol=1e-7)
