"""Random numbers by place: nothing but the place decides them."""

from __future__ import annotations

import itertools

import pytest
import torch

from reed.seeding import Draws, seed_for

TOTAL = 12


def draws(seed=0, step=0, rows=slice(None)):
    return Draws(seed, step, TOTAL, rows)


def test_a_seed_depends_on_every_part_in_order_and_type():
    scopes = [(), (1,), (2,), ("1",), (1, 2), (2, 1), (12,), (1, "a"), ("1", "2"), ("12",)]
    seeds = [seed_for(*scope) for scope in scopes]
    assert len(set(seeds)) == len(scopes)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_in_every_version():
    assert seed_for(0, "noise", 7) == 5191861466599845309


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("method", ["uniform", "normal"])
def test_rows_of_a_slice_are_rows_of_the_whole(world, method):
    size = TOTAL // world
    parts = [slice(r * size, (r + 1) * size) for r in range(world)]
    for shape in ((), (3,), (2, 4)):
        whole = getattr(draws(), method)(*shape)
        cut = torch.cat([getattr(draws(rows=part), method)(*shape) for part in parts])
        assert whole.shape == (TOTAL, *shape)
        assert torch.equal(cut, whole)


def test_rows_agree_for_every_draw_of_a_sequence():
    whole, part = draws(), draws(rows=slice(5, 7))
    for method, shape in [("normal", (3,)), ("uniform", ()), ("normal", (2, 2)), ("uniform", (1,))]:
        assert torch.equal(getattr(whole, method)(*shape)[5:7], getattr(part, method)(*shape))


def test_steps_seeds_rows_and_draws_differ():
    first = draws()
    found = [first.normal(4), first.normal(4), draws(step=1).normal(4), draws(seed=1).normal(4)]
    for one, other in itertools.combinations([row for block in found for row in block], 2):
        assert not torch.equal(one, other)


def test_a_place_gives_the_same_numbers_whatever_was_drawn_before():
    torch.rand(5)
    one = draws(3, 9).uniform(2)
    torch.manual_seed(0)
    assert torch.equal(one, draws(3, 9).uniform(2))


def test_uniform_and_normal_are_what_they_say():
    wide = Draws(0, 0, 20_000, slice(None))
    uniform, normal = wide.uniform(), wide.normal()
    assert 0 <= uniform.min() and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.01 and abs(uniform.var() - 1 / 12) < 0.005
    assert abs(normal.mean()) < 0.03 and abs(normal.var() - 1) < 0.05
