"""SiT against the outputs, keys and embeddings of the public code."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reed.errors import ReedError
from reed.nets.layers import projector, sincos_2d, timestep_embedding
from reed.nets.sit import SIZES, SiT, SiTConfig, sit_config, sit_names

GOLDEN = Path(__file__).parent / "golden"
TINY = SiTConfig(
    input_size=8, patch_size=2, in_channels=4, hidden_size=64, depth=4, num_heads=4, num_classes=10
)
ORIGINAL_TINY = replace(TINY, hidden_size=32, depth=2)
KEYS = json.loads((GOLDEN / "state_dict_keys.json").read_text())


def load(name):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {k: torch.from_numpy(file[k]) for k in file.files if not k.endswith("json")}


def under(arrays, prefix):
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


@pytest.fixture(params=["sit_tiny", "sit_tiny_qknorm"])
def tiny(request):
    """A net with the recorded weights, and the recorded arrays."""
    golden = load(request.param)
    net = SiT(replace(TINY, qk_norm=request.param == "sit_tiny_qknorm"))
    weights = under(golden, "sd/")
    net.load_state_dict({k: v for k, v in weights.items() if not k.startswith("projectors.")})
    return net, golden


def close(ours, golden, atol=5e-6):
    torch.testing.assert_close(ours, golden, rtol=0, atol=atol)


@torch.no_grad()
def test_velocity_and_every_block(tiny):
    net, golden = tiny
    v, states = net(golden["in/x"], golden["in/t"], golden["in/y"], taps=(1, 2, 3, 4))
    close(v, golden["out/v"])
    assert list(states) == [1, 2, 3, 4]
    for tap, state in states.items():
        close(state, golden[f"dbg/block{tap - 1}_out"])


@torch.no_grad()
def test_every_branch(tiny):
    net, golden = tiny
    seen = {}

    def watch(name, module):
        module.register_forward_hook(lambda m, args, out: seen.update({name: out}))

    watch("patch_embed", net.x_embedder)
    watch("t_emb", net.t_embedder)
    watch("y_emb", net.y_embedder)
    watch("final_layer", net.final_layer)
    for i, block in enumerate(net.blocks):
        watch(f"block{i}_attn", block.attn)
        watch(f"block{i}_mlp", block.mlp)
    net(golden["in/x"], golden["in/t"], golden["in/y"])
    expected = {k: v for k, v in under(golden, "dbg/").items() if not k.endswith("_out")}
    assert seen.keys() == expected.keys()
    for name in expected:
        close(seen[name], expected[name])


@torch.no_grad()
def test_projectors_on_taps(tiny):
    net, golden = tiny
    heads = [projector(64, 96, 48), projector(64, 96, 32)]
    for i, head in enumerate(heads):
        head.load_state_dict(under(golden, f"sd/projectors.{i}."))
    _, states = net(golden["in/x"], golden["in/t"], golden["in/y"], taps=[2, 3])
    close(heads[0](states[2]), golden["out/zs0"])
    close(heads[1](states[3].mean(1)), golden["out/zs1"])
    close(heads[0](states[2]), golden["out_samedepth/zs0"])
    close(heads[1](states[2].mean(1)), golden["out_samedepth/zs1"])


@torch.no_grad()
def test_label_dropout_is_the_callers_and_training_changes_nothing(tiny):
    net, golden = tiny
    dropped = torch.where(golden["drop/u"] < 0.1, 10, golden["in/y"])
    assert torch.equal(dropped, golden["drop/y_after"])
    assert not torch.equal(dropped, golden["in/y"])
    v = net.train()(golden["in/x"], golden["in/t"], dropped)[0]
    close(v, golden["drop/v_train_mode"])
    assert torch.equal(v, net.eval()(golden["in/x"], golden["in/t"], dropped)[0])


@torch.no_grad()
def test_weights_of_the_original_sit():
    golden = load("sit_original_tiny")
    weights = under(golden, "orig/")
    for key in ("final_layer.linear.weight", "final_layer.linear.bias"):
        # rows are (patch pixel, channel) with 8 channels: velocity, then the unused sigma
        full = weights[key].view(4, 8, -1)
        weights[key] = full[:, :4].reshape(golden[f"conv/{key}"].shape)
        assert torch.equal(weights[key], golden[f"conv/{key}"])
    net = SiT(ORIGINAL_TINY)
    net.load_state_dict(weights)
    # one function, two readings: the original has t = 1 at the data and velocity = data - noise,
    # so sampling with these weights must call -net(x, 1 - t, y)
    close(net(golden["in/x"], golden["in/t"], golden["in/y"])[0], golden["out/v_original"])


def test_position_embedding():
    golden = load("embeddings")
    close(sincos_2d(4, 64), golden["pos/64_4"], atol=1e-6)
    big = sincos_2d(16, 1152)
    close(big[[0, 1, 16, -1]], golden["pos/1152_16/rows_0_1_16_last"], atol=1e-6)
    wide = big.double()
    close(wide.sum(1), golden["f64/pos_1152_16/row_sum"], atol=1e-4)
    close(wide.sum(0), golden["f64/pos_1152_16/col_sum"], atol=1e-4)
    stats = [wide.mean(), wide.std(correction=0), wide.abs().sum(), wide.min(), wide.max()]
    torch.testing.assert_close(
        torch.stack(stats), golden["f64/pos_1152_16/stats"], rtol=1e-6, atol=1e-6
    )


def test_timestep_embedding_is_float32_under_autocast():
    golden = load("embeddings")
    close(timestep_embedding(golden["t"], 256), golden["temb/256"], atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        close(timestep_embedding(golden["t"], 256), golden["temb/256"], atol=1e-6)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_autocast_gives_nearly_the_same(qk_norm):
    golden = load("sit_tiny_qknorm" if qk_norm else "sit_tiny")
    net = SiT(replace(TINY, qk_norm=qk_norm))
    weights = under(golden, "sd/")
    net.load_state_dict({k: v for k, v in weights.items() if "projectors" not in k})
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        v, states = net(golden["in/x"], golden["in/t"], golden["in/y"], taps=[2])
    assert states[2].dtype == torch.float32  # the residual stream
    torch.testing.assert_close(v.float(), golden["out/v"], rtol=0, atol=0.15)


PUBLISHED = {
    "repa_SiT-S_2_with_decoder_hidden_size_384": "SiT-S/2",
    "repa_SiT-B_2": "SiT-B/2",
    "repa_SiT-L_2": "SiT-L/2",
    "repa_SiT-XL_2": "SiT-XL/2",
    "reed_SiT-XL_2_dinov2b_qwen7b": "SiT-XL/2",
}


@pytest.mark.parametrize("entry", PUBLISHED)
def test_keys_and_shapes_of_the_public_checkpoints(entry):
    config, golden = sit_config(PUBLISHED[entry]), KEYS[entry]
    with torch.device("meta"):
        net = SiT(config)
        heads = [projector(config.hidden_size, 2048, dim) for dim in golden["kwargs"]["z_dims"]]
    ours = [[name, list(tensor.shape)] for name, tensor in net.state_dict().items()]
    theirs = [key for key in golden["keys"] if not key[0].startswith("projectors.")]
    assert ours == theirs  # order too
    head_keys = [
        [f"projectors.{i}.{name}", list(tensor.shape)]
        for i, head in enumerate(heads)
        for name, tensor in head.state_dict().items()
    ]
    assert head_keys == [key for key in golden["keys"] if key[0].startswith("projectors.")]
    total = sum(p.numel() for p in net.parameters())
    trainable = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert total == golden["params_without_projectors"]
    assert trainable == golden["params_trainable"] - golden["params_projectors"]
    assert golden["params_total"] - golden["params_trainable"] == net.pos_embed.numel()


@pytest.mark.parametrize("name", ["S", "B"])
def test_original_sit_differs_in_the_last_layer_only(name):
    hidden, depth, heads = SIZES[name]
    config = sit_config(f"SiT-{name}/2")
    assert (config.hidden_size, config.depth, config.num_heads) == (hidden, depth, heads)
    golden = dict(map(tuple_of, KEYS["sit_original_SiT-XL_2"]["keys"]))
    with torch.device("meta"):
        ours = {k: tuple(v.shape) for k, v in SiT(sit_config("SiT-XL/2")).state_dict().items()}
    assert golden.keys() == ours.keys()
    changed = {k for k in ours if ours[k] != golden[k]}
    assert changed == {"final_layer.linear.weight", "final_layer.linear.bias"}


def tuple_of(key):
    return key[0], tuple(key[1])


def test_initial_net_is_zero_and_gradients_reach_the_last_layer():
    torch.manual_seed(0)
    net = SiT(TINY)
    x, t, y = torch.randn(2, 4, 8, 8), torch.rand(2), torch.tensor([3, 10])
    v, states = net(x, t, y, taps=[4])
    assert torch.equal(v, torch.zeros_like(v))
    assert torch.equal(states[4], net.x_embedder(x) + net.pos_embed)  # blocks are the identity
    close(net.pos_embed[0], sincos_2d(4, 64), atol=0)
    for table in (net.y_embedder.embedding_table, net.t_embedder.mlp[0], net.t_embedder.mlp[2]):
        assert table.weight.std().item() == pytest.approx(0.02, rel=0.2)
    qkv = net.blocks[0].attn.qkv.weight
    assert qkv.std().item() == pytest.approx((2 / (64 + 192)) ** 0.5, rel=0.1)
    patch = net.x_embedder.proj.weight
    assert patch.std().item() == pytest.approx((2 / (16 + 64)) ** 0.5, rel=0.1)
    assert not net.t_embedder.mlp[0].bias.any() and not net.x_embedder.proj.bias.any()
    v.sum().backward()
    assert net.pos_embed.grad is None
    assert net.final_layer.linear.weight.grad.abs().sum() > 0


def test_without_null_class_there_is_no_null_row():
    net = SiT(replace(TINY, null_class=False))
    assert net.y_embedder.embedding_table.weight.shape == (10, 64)


@pytest.mark.parametrize("tap", [0, 5, -1])
def test_a_tap_outside_the_net(tap):
    x, t, y = torch.zeros(1, 4, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ReedError, match=f"tap {tap} .* depth is 4"):
        SiT(TINY)(x, t, y, taps=[tap])


def test_samples_of_another_shape():
    t, y = torch.zeros(1), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ReedError, match=r"\[4, 8, 8\] but got \[4, 16, 16\]"):
        SiT(TINY)(torch.zeros(1, 4, 16, 16), t, y)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": 9}, "input_size 9 is not a multiple of 2"),
        ({"hidden_size": 66}, "hidden_size 66 is not a multiple of 4 .num_heads"),
        ({"hidden_size": 66, "num_heads": 3}, "hidden_size 66 is not a multiple of 4"),
        ({"depth": 0}, "depth is 0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0"),
    ],
)
def test_sizes_that_do_not_divide(changes, message):
    with pytest.raises(ReedError, match=message):
        replace(TINY, **changes)


def test_names():
    assert len(sit_names()) == 12 and sit_config("SiT-XL/2") == SiTConfig()
    assert sit_config("SiT-B/4").patch_size == 4
    with pytest.raises(ReedError, match="SiT-XL2.*Did you mean 'SiT-XL/2'"):
        sit_config("SiT-XL2")
