"""Parts of later nets in SiT: against one written out again, and with all that runs do to nets."""

import runpy
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from reed.errors import ReedError
from reed.nets import FINAL, Extra
from reed.nets.layers import Mlp, SwiGlu, rotated, rotation_2d
from reed.nets.sit import SiT, SiTConfig
from reed.sample.sampler import Sampler
from reed.train import checkpoint, export

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make  # fixtures
PLAIN = SiTConfig(8, 2, 4, hidden_size=32, depth=3, num_heads=2, num_classes=5)
PARTS = {"norm": "rms", "mlp": "swiglu", "rope": True, "class_tokens": 3, "class_tokens_after": 1}
ALL = replace(PLAIN, qk_norm=True, **PARTS)


def net_of(config):
    """A net whose output depends on everything."""
    torch.manual_seed(0)
    net = SiT(config)
    for parameter in net.parameters():
        parameter.data.normal_(std=0.3)
    return net


def inputs(rows=2):
    torch.manual_seed(1)
    return torch.randn(rows, 4, 8, 8), torch.rand(rows), torch.arange(rows) % 5


def rms(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def turned(x, first):
    """RoPE in complex numbers, [B, heads, T, 16]; tokens from `first` on are a grid of 4 x 4."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], 8, 2).contiguous())
    angles = torch.zeros(x.shape[2], 8)
    for token in range(16):
        for i in range(4):
            angles[first + token, i] = token // 4 * 10_000 ** (-i / 4)
            angles[first + token, 4 + i] = token % 4 * 10_000 ** (-i / 4)
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def written_out(net, x, t, y):
    """The forward pass of ALL, from the weights and the definitions alone."""
    w = {name: value.detach() for name, value in net.named_parameters()}

    def linear(name, value):
        return F.linear(value, w[f"{name}.weight"], w[f"{name}.bias"])

    patches = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=2)
    h = patches.flatten(2).mT + w["pos_embed"]
    label = w["y_embedder.embedding_table.weight"][y]
    c = F.silu(net.t_embedder(t).detach() + label)
    for i in range(3):
        name, front = f"blocks.{i}", 3 if i >= 1 else 0
        if i == 1:
            h = torch.cat([label[:, None] + w["class_places"], h], 1)
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            part[:, None] for part in linear(f"{name}.adaLN_modulation.1", c).chunk(6, 1)
        )
        inner = rms(h, w[f"{name}.norm1.weight"]) * (1 + scale1) + shift1
        qkv = linear(f"{name}.attn.qkv", inner).reshape(len(x), -1, 3, 2, 16)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q = turned(rms(q, w[f"{name}.attn.q_norm.weight"]), front)
        k = turned(rms(k, w[f"{name}.attn.k_norm.weight"]), front)
        mixed = ((q @ k.mT) / 4).softmax(-1) @ v
        h = h + gate1 * linear(f"{name}.attn.proj", mixed.transpose(1, 2).flatten(2))
        inner = rms(h, w[f"{name}.norm2.weight"]) * (1 + scale2) + shift2
        a, b = linear(f"{name}.mlp.w12", inner).chunk(2, -1)
        h = h + gate2 * linear(f"{name}.mlp.w3", a * torch.sigmoid(a) * b)
    shift, scale = (
        part[:, None] for part in linear("final_layer.adaLN_modulation.1", c).chunk(2, 1)
    )
    inner = rms(h[:, 3:], w["final_layer.norm_final.weight"]) * (1 + scale) + shift
    out = linear("final_layer.linear", inner).reshape(-1, 4, 4, 2, 2, 4)
    return out.permute(0, 5, 1, 3, 2, 4).reshape(-1, 4, 8, 8)


def test_all_parts_together_are_those_of_the_definitions():
    net, given = net_of(ALL), inputs()
    v, states = net(*given, taps=(1, 2, FINAL))
    torch.testing.assert_close(v, written_out(net, *given), rtol=1e-4, atol=1e-4)
    assert [states[tap].shape for tap in (1, 2, FINAL)] == [(2, 16, 32)] * 3
    assert v.abs().max() > 0.1


@pytest.mark.parametrize("name", PARTS)
def test_each_part_changes_the_net_alone(name):
    config = replace(
        PLAIN, **{name: PARTS[name]} | ({"class_tokens": 3} if "after" in name else {})
    )
    v = net_of(config)(*inputs())[0]
    assert v.shape == (2, 4, 8, 8) and v.isfinite().all()
    assert not torch.allclose(v, net_of(PLAIN)(*inputs())[0])


def test_a_turned_product_depends_on_the_offset_alone():
    rotation = rotation_2d(5, 8)
    torch.manual_seed(0)
    q, k = torch.randn(2, 8)

    def product(a, b):
        at = lambda x, place: rotated(x[None], rotation[:, place[0] * 5 + place[1]][:, None])  # noqa: E731
        return (at(q, a) * at(k, b)).sum().item()

    assert product((0, 1), (2, 4)) == pytest.approx(product((2, 0), (4, 3)), rel=1e-5)
    assert product((0, 1), (2, 4)) != pytest.approx(product((0, 1), (2, 3)), rel=1e-2)
    assert torch.equal(rotated(q[None], rotation[:, :1]), q[None])  # the first token


def test_swiglu_has_as_many_parameters():
    sizes = [sum(p.numel() for p in cls(1152, 4608).parameters()) for cls in (Mlp, SwiGlu)]
    assert sizes[1] / sizes[0] == pytest.approx(1, rel=1e-3)
    assert SwiGlu(12, 40).w3.in_features == 32  # 26.7, rounded up to a multiple of 8


def test_tokens_of_guides_are_beside_class_tokens():
    net = net_of(ALL)
    x, t, y = inputs()
    extra = Extra(token=torch.randn(2, 2, 32))
    v, states = net(x, t, y, taps=(1, 3, FINAL), extra=extra)
    assert [states[tap].shape[1] for tap in (1, 3, FINAL)] == [16, 16, 18]
    assert v.shape == x.shape and not torch.allclose(v, net(x, t, y)[0])


def test_checkpointed_blocks_have_the_same_gradients_and_keep_less():
    def gradients(config):
        net, kept = net_of(config), []
        hooks = saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x)
        with hooks:
            v, states = net(*inputs(8), taps=(2,))
        (v.square().mean() + states[2].square().mean()).backward()
        grads = {n: p.grad for n, p in net.named_parameters() if p.requires_grad}
        return v.detach(), grads, sum(kept)

    v, plain, much = gradients(ALL)
    again, ours, little = gradients(replace(ALL, checkpoint_blocks=True))
    assert torch.equal(v, again) and little < much / 5, (little, much)
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-6)


def test_autocast_gives_nearly_the_same():
    net, given = net_of(ALL), inputs()
    for parameter in net.parameters():
        parameter.data.mul_(0.3)
    with torch.no_grad():
        exact = net(*given)[0]
        with torch.autocast("cpu", torch.bfloat16):
            v, states = net(*given, taps=[2])
    assert states[2].dtype == torch.float32
    torch.testing.assert_close(v.float(), exact, rtol=0, atol=0.05)
    double = net.double()(given[0].double(), given[1].double(), given[2])[0]
    torch.testing.assert_close(double.float(), exact, rtol=0, atol=1e-5)


def test_a_run_with_all_parts_goes_on_and_draws(make):
    settings = PARTS | {"checkpoint_blocks": True, "qk_norm": True}
    table = {"domain": {"net_settings": settings}}
    whole = TINY.trained(make("whole", steps=4, every={"save": 2}, **table))
    split = TINY.trained(make("split", steps=2, **table))
    TINY.trained(make("split", steps=4, **table))
    TINY.same(checkpoint.load(split), checkpoint.load(whole))
    sampler = Sampler.of_run(whole, precision="fp32")
    options = sampler.domain.sampling(steps=2)
    assert sampler.draw(2, options, batch=2, progress=False)["x"].shape[0] == 2
    with pytest.raises(ReedError, match="no net with norm, mlp, rope, class_tokens; start another"):
        export.write(whole, whole / "x.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "batch"}, r"norm is 'batch', not one of \('layer', 'rms'\)"),
        ({"mlp": "relu"}, "mlp is 'relu', not one of"),
        (
            {"rope": True, "hidden_size": 36, "num_heads": 6},
            "6 heads of .* have 6 channels",
        ),
        ({"class_tokens": -1}, "class_tokens is -1"),
        ({"class_tokens_after": 1}, "class_tokens_after is 1, with 0 class_tokens"),
        ({"class_tokens": 1, "class_tokens_after": 3}, "class_tokens_after is 3, .*3 blocks"),
    ],
)
def test_parts_that_do_not_fit(changes, message):
    with pytest.raises(ReedError, match=message):
        replace(PLAIN, **changes)


def test_the_documentation_has_every_setting():
    page = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()
    derived = ("input_size", "in_channels", "num_classes", "null_class")
    names = [field.name for field in fields(SiTConfig) if field.name not in derived]
    assert all(f"`{name}`" in page for name in names)
