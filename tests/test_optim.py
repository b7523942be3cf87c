"""Groups of parameters, and Muon beside AdamW: against the definitions, and runs that go on."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from reed import config
from reed.errors import ReedError
from reed.train import checkpoint, groups, recipe
from reed.train.adamw import AdamW
from reed.train.muon import Together, optimizer_of
from reed.train.settings import OptimConfig
from reed.view.pages import run_folder

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache, make = TINY.cache, TINY.make  # fixtures
same, trained = TINY.same, TINY.trained
BLOCKS = {"match": ["net.blocks.*"], "kind": "muon", "weight_decay": 0.5}
HEADS = {"match": ["heads.*"], "lr": 2.0}
needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")


def net_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.SiLU(), nn.Linear(7, 3))


def optim(**tables):
    return config.build(OptimConfig, tables)


def stepped(net, optimizer, steps=1):
    for number in range(steps):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(number))
        net(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [weight.detach() for weight in net.parameters()]


def test_without_groups_the_optimizer_is_what_it_was():
    optimizer = optimizer_of(net_of(), optim(lr=0.1))
    assert type(optimizer) is AdamW and len(optimizer.param_groups) == 1
    assert "factor" not in optimizer.param_groups[0]


def test_groups_are_those_of_torch_bit_for_bit():
    table = {"last": {"match": ["2.*"], "lr": 0.5, "weight_decay": 0.0}}
    net, other = net_of(), net_of()
    ours = optimizer_of(net, optim(lr=0.1, weight_decay=0.3, betas=[0.8, 0.9], groups=table))
    parts = [
        {"params": list(other[0].parameters())},
        {"params": list(other[2].parameters()), "lr": 0.05, "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(parts, lr=0.1, weight_decay=0.3, betas=(0.8, 0.9), fused=True)
    for a, b in zip(stepped(net, ours, 3), stepped(other, theirs, 3), strict=True):
        assert torch.equal(a, b)


def orthogonalised(gradient):
    """Muon's polynomial on the singular values, in float64 (K. Jordan's post on Muon)."""
    u, s, v = torch.linalg.svd(gradient.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ v


@needs_muon
def test_one_step_of_muon_by_its_definition():
    net = net_of()
    table = {"mats": {"match": ["0.*"], "kind": "muon", "lr": 0.5, "weight_decay": 0.2}}
    optimizer = optimizer_of(net, optim(lr=0.1, groups=table))
    assert isinstance(optimizer, Together)
    before = [weight.detach().clone() for weight in net.parameters()]
    net(torch.randn(4, 5)).square().mean().backward()
    # Of near singular values, few bits are lost in bfloat16, in which torch computes.
    u, _, v = torch.linalg.svd(net[0].weight.grad, full_matrices=False)
    net[0].weight.grad.copy_(u @ torch.diag(torch.linspace(1, 1.5, 5)) @ v)
    gradients = [weight.grad.clone() for weight in net.parameters()]
    optimizer.step()
    after = [weight.detach() for weight in net.parameters()]

    # lr 0.05 for the matrix of shape [7, 5], whose update is 0.2 sqrt(7) as large.
    size = 0.05 * 0.2 * 7**0.5
    expected = before[0] * (1 - 0.05 * 0.2) - size * orthogonalised(gradients[0])
    torch.testing.assert_close(after[0].double(), expected, rtol=0, atol=size * 0.03)
    # AdamW's first step is lr times the sign of the gradient, after the decay.
    for i, lr, decay in ((1, 0.05, 0.2), (2, 0.1, 0.0), (3, 0.1, 0.0)):
        expected = before[i] * (1 - lr * decay) - lr * gradients[i].sign()
        torch.testing.assert_close(after[i], expected, rtol=0, atol=1e-4)


@needs_muon
def test_a_step_is_skipped_where_an_infinity_was_found():
    net = net_of()
    optimizer = optimizer_of(net, optim(groups={"a": {"match": ["0.*"], "kind": "muon"}}))
    before = [weight.detach().clone() for weight in net.parameters()]
    optimizer.found_inf = torch.ones(())
    assert all(map(torch.equal, stepped(net, optimizer), before))
    optimizer.found_inf = torch.zeros(())
    assert not any(map(torch.equal, stepped(net, optimizer), before))
    loss = net(torch.ones(1, 5)).sum()
    assert optimizer.step(lambda: loss) is loss


@needs_muon
def test_muon_alone():
    net = nn.Linear(3, 2, bias=False)
    optimizer = optimizer_of(net, optim(groups={"a": {"match": ["*"], "kind": "muon"}}))
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


@needs_muon
def test_a_run_with_muon_and_groups_goes_on_bit_for_bit(make):
    tables = {"groups": {"blocks": BLOCKS, "heads": HEADS}, "schedule": 0.5}
    whole = trained(make("whole", optim=tables, steps=6, every={"save": 3}))
    split = trained(make("split", optim=tables, steps=3))
    trained(make("split", optim=tables, steps=6))
    same(checkpoint.load(split), checkpoint.load(whole))

    # The page counts the parameters of both optimizers.
    state = checkpoint.load(whole)
    kinds = {name.partition("/")[0] for name in state.optim}
    assert kinds == {"exp_avg", "exp_avg_sq", "step", "momentum_buffer"}
    both = [v for name, v in state.model.items() if name != "net.pos_embed"]
    assert sum(run_folder.parameters(run_folder.read(whole, "whole"))) == sum(
        v.numel() for v in both
    )
    plain = checkpoint.load(trained(make("plain", steps=3)))
    assert not torch.equal(
        plain.model["net.blocks.0.mlp.fc1.weight"],
        checkpoint.load(whole, 3).model["net.blocks.0.mlp.fc1.weight"],
    )


def test_one_group_of_all_is_no_group(make):
    everything = {"groups": {"all": {"match": ["*"]}}}
    run = trained(make("all", optim=everything, steps=3))
    same(checkpoint.load(run), checkpoint.load(trained(make("none", steps=3))))


@pytest.mark.parametrize(
    ("tables", "parts"),
    [
        (
            {"a": {"match": ["net.blcks.*"]}},
            ["groups.a: no parameter is called 'net.blcks.*'. Did you mean 'net.blocks.*'?"],
        ),
        ({"a": {"match": []}}, ['groups.a.match is empty; give patterns such as "net.blocks.*"']),
        ({"a": {"match": ["net.*"]}, "b": {"match": ["net.blocks.*"]}}, ["groups.b is empty"]),
        (
            {"a": {"match": ["net.blocks.*.bias"], "kind": "muon"}},
            ["groups.a", "muon is for matrices", "net.blocks.0.attn.qkv.bias of shape [", "adamw"],
        ),
        ({"a": {"match": ["*"], "kind": "moun"}}, ["groups.a.kind is 'moun'", "mean 'muon'"]),
        ({"a": {"match": ["*"], "lr": -1}}, ["optim.groups.a.lr is -1"]),
    ],
)
def test_groups_that_do_not_fit_are_refused_before_a_step(make, tables, parts):
    with pytest.raises(ReedError) as caught:
        recipe.check(make(optim={"groups": tables}))
    said = str(caught.value)
    assert all(part in said for part in parts) and "\n" not in said, said
    assert len(said) < 300, said  # a net has hundreds of names


def test_an_old_torch_has_no_muon(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    table = {"a": groups.GroupConfig(("*",), kind="muon")}
    with pytest.raises(ReedError, match=r"groups.a: torch .* has no Muon; use torch 2.9 or newer"):
        groups.assign(groups.trainable(net_of()), table)
