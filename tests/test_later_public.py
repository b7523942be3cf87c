"""Checkpoints of LightningDiT and RiT: the numbers of the authors' nets, and what is refused."""

import argparse
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reed.errors import ReedError
from reed.nets import later_public
from reed.nets.layers import timestep_embedding
from reed.nets.sit import SiT, SiTConfig
from reed.sample.sampler import Sampler
from reed.train import checkpoint, export, public
from reed.train.align import AlignedNet

TINY_RUN = Path(__file__).with_name("tiny_cache.py")
TINY = SimpleNamespace(**runpy.run_path(str(TINY_RUN)))
cache, make = TINY.cache, TINY.make  # fixtures
GOLDEN = Path(__file__).parent / "golden"
PARTS = {"norm": "rms", "mlp": "swiglu", "rope": True, "qk_norm": True}
SMALL = {"hidden_size": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
CONFIGS = {
    "lightningdit": SiTConfig(6, 2, 3, **SMALL, **PARTS),
    "rit": SiTConfig(3, 1, 6, **SMALL, **PARTS, class_tokens=3, class_tokens_after=1),
}
BUFFERS = {f"feat_rope.freqs_{name}" for name in ("cos", "sin")}


@pytest.fixture(params=list(CONFIGS))
def kind(request) -> str:
    return request.param


@pytest.fixture
def recorded(kind):
    with np.load(GOLDEN / f"{kind}_tiny.npz") as file:
        return {name: torch.from_numpy(file[name]).float() for name in file.files}


@pytest.fixture
def state(recorded):
    return {k.removeprefix("sd/"): v for k, v in recorded.items() if k.startswith("sd/")}


@pytest.fixture
def saved(kind, state, tmp_path):
    """Save a checkpoint as the authors' trainer does; `change` acts on every state dict."""

    def save(change=dict, **more):
        other = {name: torch.zeros_like(value) for name, value in state.items()}
        if kind == "lightningdit":
            content = {"model": change(other), "ema": change(state)}
            content["config"] = {"model": {"model_type": "LightningDiT-B/1"}, "train": {"ckpt": 1}}
        else:
            first, second = (
                {f"net.{k}": v for k, v in change(each).items()} for each in (state, other)
            )
            content = {"model": second, "model_ema1": first, "model_ema2": second, "epoch": 3}
            content["args"] = argparse.Namespace(**({"model": "RiT-XL/16"} | more))
        torch.save(content, tmp_path / "theirs.pth")
        return tmp_path / "theirs.pth"

    return save


def started(kind, path, **over):
    net = SiT(SiTConfig(**{**vars(CONFIGS[kind]), **over}))
    return net, public.start_from(AlignedNet(net, {}), path)


@torch.no_grad()
@pytest.mark.parametrize("predicts", ["theirs", "v"])
def test_a_net_that_starts_from_a_file_gives_the_authors_numbers(kind, recorded, saved, predicts):
    net, said = started(kind, saved(**({"pred_type": "v"} if predicts == "v" else {})))
    x, t, y = recorded["in/x"], recorded["in/t"], recorded["in/y"].long()
    is_velocity = kind == "lightningdit" or predicts == "v"
    wanted = -recorded["out/x"] if is_velocity else recorded["out/x"]
    scale = wanted.std().item()
    torch.testing.assert_close(net(x, 1 - t, y)[0], wanted, rtol=0, atol=5e-6 * scale)
    assert any("turned round to ours" in line for line in said)

    # The file's own time and sign would be another function.
    assert (net(x, t, y)[0] - wanted).abs().max() > 0.01 * scale


def test_the_units_that_fill_up_a_layer_stay_nothing(kind, saved):
    net, _ = started(kind, saved())
    mlp = net.blocks[1].mlp
    assert mlp.w3.weight.shape == (16, 48)  # theirs has 42
    x = torch.randn(2, net.config.in_channels, *[net.config.input_size] * 2)
    net(x, torch.rand(2), torch.tensor([0, 5]))[0].square().mean().backward()
    for grad in (mlp.w12.weight.grad, mlp.w12.bias.grad):
        assert grad.unflatten(0, (2, 48))[:, 42:].abs().max() == 0
    assert mlp.w3.weight.grad[:, 42:].abs().max() == 0 and mlp.w3.weight.grad.abs().max() > 0


def test_what_was_taken_over_is_given_back_as_it_was(kind, state):
    taken, _ = later_public.ours(state, kind, {}, Path("x"))
    back = later_public.theirs(taken, kind, heads=2, ratio=4.0)
    assert back.keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(back[name], value, rtol=0, atol=1e-6)

    # A net that was trained here uses the units that theirs has not.
    taken["blocks.1.mlp.w3.weight"][:, 47] = 1.0
    with pytest.raises(ReedError, match=r"blocks.1.mlp.w3.weight: SwiGLU has 48 units, and 42"):
        later_public.theirs(taken, kind, heads=2, ratio=4.0)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_a_run_is_exported_in_the_layout_of_its_net(kind, make, state, tmp_path, name):
    # Two thirds of 4 * 48 are a multiple of 8.
    parts = PARTS | {"hidden_size": 48, "num_heads": 2}
    domain = {"net_settings": parts}
    if kind == "rit":
        domain = {"net_settings": parts | {"class_tokens": 3}, "predict": "x"}
    run = TINY.trained(make("later", steps=2, domain=domain))
    export.write(run, tmp_path / name)

    if name == "x.pt":
        content = torch.load(tmp_path / name, weights_only=True)
        groups = {"lightningdit": {"model", "ema"}, "rit": {"model", "model_ema1", "model_ema2"}}
        assert content.keys() == groups[kind] | {"steps", "args"}
        names = {name.removeprefix("net.") for name in content["model"]}
        alike = [k for k in state if not k.startswith("blocks.") or k.startswith("blocks.0.")]
        assert names >= set(alike) and {k for k in names if "blocks." not in k} <= set(alike)
        assert all(k.startswith("net.") for k in content["model"]) == (kind == "rit")
    read, stored = public.read(tmp_path / name), checkpoint.load(run)
    assert read.origin == kind and read.args["rope"] is True
    assert read.net.keys() == stored.ema.keys()
    for key, value in stored.ema.items():
        torch.testing.assert_close(read.net[key], value, rtol=0, atol=1e-6)


def test_time_is_turned_round_in_the_layer_that_reads_it():
    weight = torch.randn(7, 256, dtype=torch.float64)
    t = torch.rand(5)
    turned = later_public.turned_round(weight)
    both = [timestep_embedding(time, 256).double() for time in (1 - t, t)]
    torch.testing.assert_close(both[0] @ weight.T, both[1] @ turned.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(later_public.turned_round(turned), weight, rtol=0, atol=1e-12)


def test_weights_of_16_bits_are_turned_round_without_rounding(kind, saved):
    """The same values in 32 bits give the same net."""
    half, _ = started(kind, saved(lambda state: {k: v.bfloat16() for k, v in state.items()}))
    whole, _ = started(
        kind, saved(lambda state: {k: v.bfloat16().float() for k, v in state.items()})
    )
    for name, value in whole.state_dict().items():
        assert torch.equal(half.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("blocks.0.mlp.w12.weight", None),
        ("blocks.0.mlp.w12.bias", None),
        ("blocks.0.mlp.w12.weight", torch.ones(83, 16)),
        ("blocks.0.mlp.w3.weight", torch.ones(16)),
        ("blocks.0.mlp.w3.weight", torch.tensor(1.0)),
        ("blocks.0.adaLN_modulation.1.weight", torch.ones(16)),
        ("t_embedder.mlp.0.weight", torch.ones(16)),
    ],
)
def test_a_layer_that_is_absent_or_of_another_shape_is_named(kind, saved, name, value):
    def change(state):
        state = {k: v for k, v in state.items() if k != name}
        return state if value is None else state | {name: value}

    with pytest.raises(ReedError, match=f"weights are of another model: .*{name}"):
        started(kind, saved(change))


def test_a_layer_that_needs_no_filling_is_as_it_was():
    net = {"blocks.0.mlp.w3.weight": torch.ones(4, 16), "blocks.0.mlp.w3.bias": torch.ones(4)}
    found, stated = later_public.ours(net, "lightningdit", {}, Path("x"))
    assert found.keys() == net.keys() and stated == {"rope": False}
    assert found["blocks.0.mlp.w3.weight"] is net["blocks.0.mlp.w3.weight"]


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("cls_projectors.weight", torch.ones(16, 6), "class token that is denoised beside"),
        ("x_embedder.proj1.weight", torch.ones(2, 3, 1, 1), "through a bottleneck"),
        ("blocks.0.adaLN_modulation.1.weight", torch.ones(64, 16), "without a shift"),
    ],
)
def test_a_part_that_ours_has_not_is_one_line(kind, saved, name, value, part):
    with pytest.raises(ReedError, match=part) as raised:
        public.read(saved(lambda state: state | {name: value}))
    assert "\n" not in str(raised.value)


def test_a_net_with_other_settings_is_refused(kind, saved):
    with pytest.raises(ReedError, match="turns queries and keys .*set it to true"):
        started(kind, saved(), rope=False)
    with pytest.raises(ReedError, match=r"q_norm\.weight"):
        started(kind, saved(), qk_norm=False)
    if kind == "lightningdit":
        plain = saved(lambda state: {k: v for k, v in state.items() if k not in BUFFERS})
        with pytest.raises(ReedError, match="does not turn queries and keys"):
            started(kind, plain)


def test_no_samples_are_drawn_from_the_file_itself(kind, saved):
    with pytest.raises(ReedError, match=f"a net of {kind}.*--init"):
        Sampler.of_weights(public.read(saved()))
