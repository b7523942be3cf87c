"""Absorbing-state diffusion: the masking law, and filling in by the reverse process."""

from __future__ import annotations

import pytest
import torch

from reed.errors import ReedError
from reed.flows.masked import mask_tokens, unmask

MASK = 9


def numbers(rows, length, letters, seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(rows, length, letters + 1, generator=generator, dtype=torch.float64)
    return u[..., 0], -(-u[..., 1:].log()).log()


class Counting:
    """Logits that are a fixed table, and how often they were asked for."""

    def __init__(self, table):
        self.table, self.seen = table, []

    def __call__(self, tokens):
        self.seen.append(tokens.clone())
        return self.table.expand(*tokens.shape, -1)


def fill(denoiser, rows, length, letters, **changes):
    tokens = torch.full((rows, length), MASK)
    u, gumbel = numbers(rows, length, letters, changes.pop("seed", 0))
    settings = {"steps": 50, "temperature": 1.0, "order": "random"} | changes
    masked = settings.pop("masked", torch.ones(rows, length, dtype=torch.bool))
    return unmask(denoiser, tokens, masked, u, gumbel, **settings)


def test_a_token_is_masked_with_probability_t():
    tokens = torch.zeros(3, 20_000, dtype=torch.long)
    u = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0))
    masked = mask_tokens(tokens, torch.tensor([0.0, 0.3, 1.0]), u, MASK) == MASK
    assert not masked[0].any() and masked[2].all()
    assert abs(float(masked[1].float().mean()) - 0.3) < 5 * (0.21 / 20_000) ** 0.5
    more = mask_tokens(tokens, torch.tensor([0.5, 0.5, 0.5]), u, MASK) == MASK
    assert (more[1] | ~masked[1]).all()  # what is masked at a time is masked at later ones


@pytest.mark.parametrize("order", ["random", "purity"])
def test_letters_follow_the_denoiser_at_temperature_one(order):
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = fill(Counting(p.log()), 40, 500, 4, order=order)
    share = torch.bincount(drawn.flatten(), minlength=4) / drawn.numel()
    assert ((share - p).abs() < 5 * (p * (1 - p) / drawn.numel()).sqrt()).all()


def test_a_joint_law_is_recovered_by_one_token_at_a_time():
    """Two equal tokens, each letter as likely: an exact denoiser, so fine steps are exact."""

    def denoiser(tokens):
        other = tokens.flip(1)
        known = (other.unsqueeze(-1) == torch.arange(2)).double()
        return torch.where((other == MASK).unsqueeze(-1), torch.tensor(0.5).double(), known).log()

    fine = fill(denoiser, 4000, 2, 2, steps=1000)
    assert (fine[:, 0] == fine[:, 1]).double().mean() > 0.99
    assert abs(float((fine[:, 0] == 0).double().mean()) - 0.5) < 5 * (0.25 / 4000) ** 0.5
    coarse = fill(denoiser, 4000, 2, 2, steps=1)  # both at once: independent
    assert abs(float((coarse[:, 0] == coarse[:, 1]).double().mean()) - 0.5) < 0.05


def test_the_answer_is_what_was_sampled_not_the_last_prediction():
    """A denoiser that changes its mind: the public code would return its last opinion."""
    calls = []

    def denoiser(tokens):
        calls.append(tokens)
        letter = len(calls) % 2
        return torch.nn.functional.one_hot(torch.full(tokens.shape, letter), 2) * 50.0

    drawn = fill(denoiser, 1, 40, 2, steps=40, temperature=0.1)
    assert 0.2 < float(drawn.double().mean()) < 0.8
    shown = calls[-1][0]
    assert torch.equal(drawn[0, shown != MASK], shown[shown != MASK])  # no letter is overwritten


def test_steps_that_reveal_nothing_cost_nothing():
    denoiser = Counting(torch.zeros(4))
    fill(denoiser, 1, 10, 4, steps=500)
    assert len(denoiser.seen) <= 10
    one = Counting(torch.zeros(4))
    fill(one, 3, 10, 4, steps=1)
    assert len(one.seen) == 1 and (one.seen[0] == MASK).all()


@pytest.mark.parametrize("order", ["random", "purity"])
def test_every_step_reveals_as_many_tokens_in_either_order(order):
    denoiser = Counting(torch.arange(4.0))
    fill(denoiser, 1, 60, 4, steps=7, order=order)
    left = [int((tokens == MASK).sum()) for tokens in denoiser.seen]
    u = numbers(1, 60, 4)[0]
    assert left == [int((u * 7 < step).sum()) for step in range(7, 0, -1)]


def test_purity_reveals_the_most_certain_first():
    certainty = torch.tensor([0.5, 3.0, 1.0, 2.0])

    def denoiser(tokens):
        seen.append((tokens != MASK)[0].tolist())
        return torch.stack([certainty, torch.zeros(4)], -1).unsqueeze(0)

    for seed in range(5):
        seen = []
        fill(denoiser, 1, 4, 2, steps=1000, order="purity", seed=seed)
        assert seen == [
            [False] * 4,
            [False, True, False, False],
            [False, True, False, True],
            [False, True, True, True],
        ]


def test_only_masked_tokens_are_filled_in_and_temperature_0_is_the_likeliest():
    masked = torch.tensor([[True, False, True], [False, False, False]])
    drawn = fill(Counting(torch.tensor([0.0, 1.0])), 2, 3, 2, masked=masked, temperature=0.0)
    assert drawn.tolist() == [[1, MASK, 1], [MASK, MASK, MASK]]


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"order": "purty"}, "order is 'purty', it must be one of purity"),
    ],
)
def test_settings_that_sample_nothing_are_refused(wrong, match):
    with pytest.raises(ReedError, match=match):
        fill(Counting(torch.zeros(2)), 1, 3, 2, **wrong)
