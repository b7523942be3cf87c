"""Edges of a net's graph against pair representations that are stored on another graph."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from reed.cache.schema import Field
from reed.domains.base import Batch, Noised
from reed.errors import ReedError
from reed.nets import GraphState
from reed.nets.mpnn import MPNN, MPNNConfig
from reed.nets.sit import SiT, SiTConfig
from reed.train.align import AlignConfig, AlignedNet, check_target

PAIR = Field("pair", "pair", (None, 5, 3))
TOKEN = Field("single", "token", (None, 6))
B, T, K, N, C = 2, 7, 4, 5, 3


class Fixed(torch.nn.Module):
    """A net whose states are given."""

    def __init__(self, state):
        super().__init__()
        self.state = state

    def taps(self):
        return MPNN(MPNNConfig(hidden=8, neighbours=K)).taps()

    def repeated(self):
        return []

    def forward(self, taps=()):
        return None, dict.fromkeys(taps, self.state)


@pytest.fixture
def case():
    """States, teachers and two graphs, all random; some edges of the net are not stored."""
    generator = torch.Generator().manual_seed(0)

    def distinct(k):
        return torch.rand(B, T, T, generator=generator).argsort(-1)[..., :k]

    state = GraphState(
        torch.randn(B, T, 8, generator=generator),
        torch.randn(B, T, K, 8, generator=generator),
        distinct(K),
        torch.rand(B, T, K, generator=generator) < 0.9,
    )
    neighbours = distinct(N)
    neighbours[:, :, -1][torch.rand(B, T, generator=generator) < 0.4] = -1
    target = torch.randn(B, T, N, C, generator=generator)
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[0, 5:], mask[1, 2] = False, False
    return state, Batch({}, {"pair": target}, mask, neighbours)


def model(state, field=PAIR, name="pair", **over):
    net = Fixed(state)
    target = check_target(name, AlignConfig(f"teacher/{name}", 1, hidden=8, **over), field, net)
    torch.manual_seed(1)
    return AlignedNet(net, {name: target})


def by_hand(model, state, batch):
    """Every edge by itself, by the definition."""
    projected, losses = model.heads["pair"](state.edges), []
    for b in range(B):
        found = []
        for i in range(T):
            for k in range(K):
                j = int(state.index[b, i, k])
                place = (batch.neighbours[b, i] == j).nonzero()
                if state.real[b, i, k] and batch.mask[b, i] and batch.mask[b, j] and len(place):
                    teacher = batch.targets["pair"][b, i, int(place[0])]
                    found.append(F.cosine_similarity(projected[b, i, k], teacher, dim=0))
        losses.append(-torch.stack(found).mean())
    return torch.stack(losses)


def noised():
    return Noised({}, torch.tensor([0.2, 0.8]), torch.empty(0))


def test_an_edge_is_compared_with_the_pair_of_its_two_tokens(case):
    state, batch = case
    aligned = model(state)
    losses = aligned(noised(), batch)[1].losses["pair"]
    torch.testing.assert_close(losses, by_hand(aligned, state, batch))


def test_the_order_of_either_graph_does_not_matter(case):
    state, batch = case
    aligned = model(state)
    before = aligned(noised(), batch)[1].losses["pair"]
    order = torch.tensor([3, 0, 4, 1, 2])
    stored = Batch(
        {}, {"pair": batch.targets["pair"][:, :, order]}, batch.mask, batch.neighbours[:, :, order]
    )
    torch.testing.assert_close(aligned(noised(), stored)[1].losses["pair"], before)
    turn = torch.tensor([2, 3, 1, 0])
    other = GraphState(
        state.nodes, *(x[:, :, turn] for x in (state.edges, state.index, state.real))
    )
    aligned.net.state = other
    torch.testing.assert_close(aligned(noised(), batch)[1].losses["pair"], before)


@pytest.mark.parametrize("what", ["masked token", "edge that is not real", "edge not in the cache"])
def test_what_does_not_count_changes_nothing(case, what):
    state, batch = case
    before = model(state)(noised(), batch)[1].losses["pair"]
    edges = state.edges.clone()
    cached = (state.index.unsqueeze(-1) == batch.neighbours.unsqueeze(-2)).any(-1)
    left_out = {
        "masked token": ~batch.mask.unsqueeze(-1).expand(-1, -1, K),
        "edge that is not real": ~state.real,
        "edge not in the cache": ~cached,
    }[what]
    assert left_out.any()
    edges[left_out] = 100 * torch.randn(int(left_out.sum()), 8)
    changed = GraphState(state.nodes, edges, state.index, state.real)
    torch.testing.assert_close(model(changed)(noised(), batch)[1].losses["pair"], before)


def test_a_sample_without_edges_that_count_has_loss_zero(case):
    state, batch = case
    nothing = Batch({}, batch.targets, torch.zeros(B, T, dtype=torch.bool), batch.neighbours)
    assert model(state)(noised(), nothing)[1].losses["pair"].tolist() == [0.0, 0.0]


def test_nodes_of_a_graph_are_tokens(case):
    state, batch = case
    aligned = model(state, TOKEN, "single")
    teacher = torch.randn(B, T, 6, generator=torch.Generator().manual_seed(2))
    losses = aligned(noised(), Batch({}, {"single": teacher}, batch.mask))[1].losses["single"]
    cosine = F.cosine_similarity(aligned.heads["single"](state.nodes), teacher, dim=-1)
    wanted = [-cosine[b][batch.mask[b]].mean() for b in range(B)]
    torch.testing.assert_close(losses, torch.stack(wanted))


def test_a_probe_sends_no_gradient_into_edges(case):
    state, batch = case
    for probe in (False, True):
        edges = state.edges.clone().requires_grad_()
        aligned = model(GraphState(state.nodes, edges, state.index, state.real), probe=probe)
        aligned(noised(), batch)[1].losses["pair"].sum().backward()
        assert (edges.grad is None) == probe
        assert aligned.heads["pair"][0].weight.grad.abs().max() > 0


def test_pairs_need_edges():
    config = AlignConfig("af3/pair", 6, hidden=8)
    said = r"align\.pair: .* of kind 'pair', .* no edges at tap 6; it has them at 1, 2, 3, 4, 5"
    with pytest.raises(ReedError, match=said):
        check_target("pair", config, PAIR, MPNN(MPNNConfig(hidden=8)))
    sit = SiT(SiTConfig(input_size=4, hidden_size=8, depth=1, num_heads=2, num_classes=2))
    with pytest.raises(ReedError, match="no edges at tap 1; it has them at none"):
        check_target("pair", AlignConfig("af3/pair", 1, hidden=8), PAIR, sit)


def test_pairs_of_another_graph_are_refused(case):
    state, batch = case
    other = Batch({}, batch.targets, batch.mask, batch.neighbours[..., :4])
    with pytest.raises(
        ReedError, match="stored for 5 neighbours of a token, but the cache lists 4"
    ):
        model(state)(noised(), other)


def test_the_mean_of_a_whole_graph_is_a_known_cosine():
    """All edges at one angle to the teacher, which the head leaves as it is."""
    angle = 0.7
    edges = torch.tensor([math.cos(angle), math.sin(angle), 0.0]).expand(1, 3, 2, 3)
    index = torch.tensor([[[0, 1], [1, 2], [2, 0]]])
    state = GraphState(torch.zeros(1, 3, 8), edges, index, torch.ones(1, 3, 2, dtype=torch.bool))
    aligned = model(GraphState(torch.zeros(1, 3, 8), edges, index, state.real))
    aligned.heads["pair"] = torch.nn.Identity()
    target = torch.tensor([2.0, 0.0, 0.0]).expand(1, 3, 2, 3)
    batch = Batch({}, {"pair": target}, torch.ones(1, 3, dtype=torch.bool), index)
    cosine = aligned(Noised({}, torch.zeros(1), torch.empty(0)), batch)[1].cosines["pair"]
    torch.testing.assert_close(cosine, torch.tensor([math.cos(angle)]))
