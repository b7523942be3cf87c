"""Semla: public names and sizes, symmetries, padding, self-conditioning, taps."""

from __future__ import annotations

import pytest
import torch

from reed.errors import ReedError
from reed.nets.semla import Semla, probable
from reed.nets.semla_drawing import mirrored, upper
from reed.nets.semla_layers import CoordAttention, EquivariantMLP, SemlaConfig, attention
from reed.train import public
from reed.train.align import AlignedNet

SMALL = {
    "width": 32,
    "layers": 3,
    "heads": 4,
    "sets": 6,
    "message": 8,
    "hidden": 12,
    "edge": 10,
    "size_emb": 5,
    "max_atoms": 32,
}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Semla(SemlaConfig(**SMALL)).double().eval()


def batch(sizes=(7, 4, 1), length=9, seed=0):
    """Inputs of the net, with rubbish where there is no atom."""
    draw = torch.Generator().manual_seed(seed)
    rows = len(sizes)
    mask = torch.arange(length) < torch.tensor(sizes)[:, None]
    bonds = torch.randint(0, 5, (rows, length, length), generator=draw).triu(1)
    return {
        "coords": torch.randn(rows, length, 3, generator=draw, dtype=torch.float64),
        "atoms": torch.randint(0, 18, (rows, length), generator=draw),
        "bonds": bonds + bonds.mT,
        "time": torch.rand(rows, generator=draw, dtype=torch.float64),
        "mask": mask,
    }


def test_the_published_net_has_the_published_entries():
    with torch.device("meta"):
        state = Semla(SemlaConfig()).state_dict()
    assert len(state) == 428
    assert sum(v.numel() for v in state.values()) == pytest.approx(23.301e6, abs=500)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    for name, shape in {
        "edge_in_proj.0.weight": (128, 10),
        "edge_out_proj.2.weight": (5, 128),
        "size_emb.weight": (256, 64),
        "feat_proj.0.weight": (384, 101),
        "dynamics.layers.5.node_ff.coord_norm.set_weights": (1, 64, 1, 1),
        "dynamics.layers.5.node_ff.invariant_mlp.node_ff.0.weight": (1536, 448),
        "dynamics.layers.5.node_ff.equivariant_mlp.coord_proj.weight": (128, 64),
        "dynamics.layers.5.node_ff.equivariant_mlp.node_proj.2.weight": (128, 128),
        "dynamics.layers.0.message_ff.message_mlp.0.weight": (96, 448),
        "dynamics.layers.0.edge_feat_norm.weight": (128,),
        "dynamics.layers.4.message_ff.message_mlp.0.weight": (128, 320),
        "dynamics.layers.4.message_ff.message_mlp.2.weight": (96, 128),
        "dynamics.layers.11.message_ff.message_mlp.2.weight": (224, 224),
        "dynamics.layers.3.coord_attn.attn_proj.weight": (64, 64),
        "dynamics.layers.3.node_attn.in_proj.weight": (384, 384),
        "dynamics.refine_layer.message_mlp.0.weight": (128, 386),
        "dynamics.coord_proj.weight": (64, 2),
        "dynamics.coord_head.weight": (1, 64),
        "dynamics.bond_norm.bias": (128,),
        "atom_classifier_head.2.weight": (18, 384),
        "charge_classifier_head.2.bias": (7,),
    }.items():
        assert shapes[name] == shape, name


@pytest.mark.parametrize("reflect", [1.0, -1.0])
def test_turning_and_moving_carry_over(net, reflect):
    given = batch()
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    turn = turn * torch.linalg.det(turn) * reflect
    found, states = net(**given, taps=(1, 3))
    shifted = given["coords"] @ turn + torch.tensor([3.0, -1.0, 2.0])
    again, moved = net(**given | {"coords": shifted}, taps=(1, 3))
    keep = given["mask"]
    torch.testing.assert_close((found["coords"] @ turn)[keep], again["coords"][keep])
    for name in ("atoms", "charges"):
        torch.testing.assert_close(found[name][keep], again[name][keep])
    both = keep[:, :, None] & keep[:, None]
    torch.testing.assert_close(found["bonds"][both], again["bonds"][both])
    torch.testing.assert_close(states[3][keep], moved[3][keep])
    assert torch.linalg.vector_norm(found["coords"][0, 0]) > 1e-3


def test_renumbering_carries_over(net):
    given = batch(sizes=(9, 9, 9))
    order = torch.randperm(9)
    moved = {
        "coords": given["coords"][:, order],
        "atoms": given["atoms"][:, order],
        "bonds": given["bonds"][:, order][:, :, order],
        "time": given["time"],
        "mask": given["mask"],
    }
    found, again = net(**given)[0], net(**moved)[0]
    for name in ("coords", "atoms", "charges"):
        torch.testing.assert_close(found[name][:, order], again[name])
    torch.testing.assert_close(found["bonds"][:, order][:, :, order], again["bonds"])


@pytest.mark.parametrize("twice", [None, True])
def test_padding_and_company_change_nothing(net, twice):
    given = batch(sizes=(7, 4, 1))
    rows = {} if twice is None else {"twice": torch.tensor([True, False, True])}
    found, states = net(**given, **rows, taps=(2,))
    for row, size in enumerate((7, 4, 1)):
        alone = {n: v[row : row + 1] for n, v in (given | rows).items()}
        for name in ("coords", "atoms", "mask"):
            alone[name] = alone[name][:, :size]
        alone["bonds"] = alone["bonds"][:, :size, :size]
        one, state = net(**alone, taps=(2,))
        for name in ("coords", "atoms", "charges"):
            torch.testing.assert_close(one[name][0], found[name][row, :size])
        torch.testing.assert_close(one["bonds"][0], found["bonds"][row, :size, :size])
        torch.testing.assert_close(state[2][0], states[2][row, :size])


def test_predictions_are_centred_and_symmetric(net):
    found = net(**batch())[0]
    torch.testing.assert_close(found["bonds"], found["bonds"].transpose(1, 2))
    mean = found["coords"].sum(1)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-9, rtol=0)
    assert not found["coords"][1, 4:].any()


def test_self_conditioning_is_a_second_look(net):
    given = batch()
    first = probable(net(**given)[0])
    second = net(**given, past={name: first[name] for name in ("coords", "atoms", "bonds")})[0]
    twice = net(**given, twice=torch.ones(3, dtype=torch.bool))[0]
    for name in twice:
        torch.testing.assert_close(twice[name], second[name])
    never = net(**given, twice=torch.zeros(3, dtype=torch.bool))[0]
    torch.testing.assert_close(never["atoms"], net(**given)[0]["atoms"])
    assert (twice["atoms"] - never["atoms"]).abs().max() > 1e-4


@pytest.mark.parametrize("bf16", [False, True])
def test_gradients_reach_every_weight_that_takes_part(bf16):
    torch.manual_seed(0)
    net = Semla(SemlaConfig(**SMALL))
    given = batch()
    given |= {name: given[name].float() for name in ("coords", "time")}
    given["coords"][0, 1] = given["coords"][0, 0]  # two atoms at one place
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = net(**given, twice=torch.tensor([True, False, True]))[0]
    sum(value.float().square().sum() for value in found.values()).backward()
    for name, weight in net.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None and weight.grad.isfinite().all(), name
    idle = [name for name, weight in net.named_parameters() if not weight.requires_grad]
    assert idle == [f"dynamics.layers.0.edge_feat_norm.{part}" for part in ("weight", "bias")]


def test_attention_to_coordinates_is_its_definition():
    """The sum over others of a_ij (x_i - x_j) / |x_i - x_j|, times the length of a_i."""
    torch.manual_seed(0)
    layer = CoordAttention(4).double()
    mask = torch.tensor([[True] * 5 + [False]])
    x, messages = torch.randn(1, 4, 6, 3).double(), torch.randn(1, 6, 6, 4).double()
    pairs = mask[:, :, None] & mask[:, None] & ~torch.eye(6, dtype=torch.bool)
    found = layer(x, messages, pairs, mask)
    normed = layer.coord_proj(layer.coord_norm(x, mask).transpose(1, -1))
    lines = normed.unsqueeze(3) - normed.unsqueeze(2)
    units = lines / (torch.linalg.vector_norm(lines, dim=1, keepdim=True) + 1e-6)
    weight = attention(messages, pairs)
    summed = (units * weight.unsqueeze(1)).sum(3) * weight.square().sum(2).sqrt().unsqueeze(1)
    torch.testing.assert_close(found[:, :, :5], layer.attn_proj(summed).transpose(1, -1)[:, :, :5])


def test_the_mixing_of_coordinates_is_its_definition():
    torch.manual_seed(0)
    layer = EquivariantMLP(8, 4, 5)
    x, h = torch.randn(2, 4, 6, 3), torch.randn(2, 6, 8)
    scale = layer.node_proj(h).unsqueeze(1)
    outer = scale.unsqueeze(-1) * layer.coord_proj(x.transpose(1, -1)).unsqueeze(-2)
    torch.testing.assert_close(layer(x, h), layer.attn_proj(outer.sum(-1)).transpose(1, -1))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"heads": 5}, "heads 5 must divide width 384"),
        ({"layers": 2}, "layers is 2"),
        ({"sets": 0}, "is 0, it must be at least 1"),
    ],
)
def test_sizes_that_cannot_be(settings, reason):
    with pytest.raises(ReedError, match=reason):
        SemlaConfig(**settings)


def test_without_self_conditioning_nothing_is_remembered():
    net = Semla(SemlaConfig(**SMALL, self_cond=False)).double()
    assert net.dynamics.coord_proj.weight.shape == (6, 1)
    assert net(**batch())[0]["coords"].shape == (3, 9, 3) and len(net.taps()) == 3
    assert net.repeated() == list(net.dynamics.layers)


@pytest.mark.parametrize("group", ["ema", "model"])
def test_a_public_checkpoint_is_read(tmp_path, group):
    """Lightning's layout, compiled or not, with what only REED's net has."""
    torch.manual_seed(0)
    ours = {name: Semla(SemlaConfig(**SMALL)).state_dict() for name in ("ema", "model")}
    table = {f"gen._orig_mod.{k}": v for k, v in ours["model"].items()}
    table |= {f"ema_gen.module.{k}": v for k, v in ours["ema"].items()}
    table |= {
        "ema_gen.n_averaged": torch.tensor(3),
        "gen.dynamics.time_embedder.mlp.0.bias": torch.zeros(2),
        "gen.dynamics.projectors.0.4.bias": torch.zeros(4),
    }
    path = tmp_path / "geom-drugs.ckpt"
    torch.save({"state_dict": table, "epoch": 3, "hyper_parameters": {"lr": 3e-4}}, path)
    found = public.read(path, group)
    assert found.origin == "semlaflow" and found.group == group
    assert list(found.projectors) == ([0] if group == "model" else [])
    net = Semla(SemlaConfig(**SMALL))
    net.load_state_dict(found.net, strict=True)
    for name, value in ours[group].items():
        torch.testing.assert_close(net.state_dict()[name], value)
    if group == "ema":
        model = AlignedNet(Semla(SemlaConfig(**SMALL)), {})
        public.start_from(model, path)
        for name, value in ours["ema"].items():
            torch.testing.assert_close(model.net.state_dict()[name], value)


@pytest.mark.parametrize("length", [9, 17])  # a softmax of few numbers is another one
@pytest.mark.parametrize("seen", [False, True])
def test_sampling_computes_what_training_does(net, seen, length):
    given = batch(length=length)
    if seen:
        first = probable(net(**given)[0])
        given["past"] = {name: value.detach() for name, value in first.items()}
    with torch.no_grad():
        trained, states = net(**given, taps=(1, 3))
    with torch.inference_mode():
        found, again = net(**given, taps=(1, 3))
        chances = probable(found)
    keep = given["mask"]
    both = keep[:, :, None] & keep[:, None]
    for name, value in trained.items():
        rows = both if name == "bonds" else keep
        torch.testing.assert_close(found[name][rows], value[rows], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(chances[name][rows], probable(trained)[name][rows])
    torch.testing.assert_close(again[3][keep], states[3][keep], rtol=1e-9, atol=1e-9)


def test_the_upper_triangle_says_all_of_a_symmetric_matrix():
    values = torch.rand(2, 5, 5, 3)
    values = values + values.transpose(1, 2)
    assert upper(values).shape == (2, 15, 3)
    assert torch.equal(mirrored(upper(values), 5), values)
