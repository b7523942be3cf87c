"""Paths, laws of times and the denoising target against the public code, and analytically."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from reed.errors import ReedError
from reed.flows.paths import (
    PATHS,
    get_path,
    get_time_law,
    interpolate,
    shifted,
    steepness,
    velocity_to,
)

GOLDEN = Path(__file__).parent / "golden"
CASES = [(law, path) for law in ("uniform", "lognormal") for path in PATHS]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "loss.npz", allow_pickle=False) as file:
        return {k: torch.from_numpy(file[k]) for k in file.files if not k.endswith("json")}


def times(golden, law_name, path_name):
    law = get_time_law(law_name)
    numbers = golden[{"uniform": "in/u_uniform", "normal": "in/n_lognormal"}[law.draws]]
    return law.times(numbers.flatten(), get_path(path_name))


@pytest.mark.parametrize(("law", "path"), CASES)
def test_times_inputs_and_losses(golden, law, path):
    t = times(golden, law, path)
    x_t, velocity = interpolate(get_path(path), golden["in/x"], golden["in/noise"], t)
    loss = (golden["in/v_out"] - velocity).square().mean((1, 2, 3))
    ours = {
        "t": t,
        "model_input": x_t,
        "denoising_loss": loss,
        "denoising_loss_v0": velocity.square().mean((1, 2, 3)),
    }
    for name, value in ours.items():
        torch.testing.assert_close(value, golden[f"{law}.{path}.{name}"], rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", PATHS)
def test_ends_and_derivatives(name):
    at = get_path(name).at
    ends = at(torch.tensor([0.0, 1.0], dtype=torch.float64))
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(ends.alpha, torch.tensor([1.0, 0.0]).double(), **close)
    torch.testing.assert_close(ends.sigma, torch.tensor([0.0, 1.0]).double(), **close)
    t = torch.linspace(0.01, 0.99, 21, dtype=torch.float64)
    h = 1e-6
    after, before, here = at(t + h), at(t - h), at(t)
    for value, slope in (("alpha", "d_alpha"), ("sigma", "d_sigma")):
        rate = (getattr(after, value) - getattr(before, value)) / (2 * h)
        torch.testing.assert_close(getattr(here, slope), rate, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", PATHS)
def test_time_at_inverts_the_ratio(name):
    path = get_path(name)
    t = torch.linspace(0.01, 0.99, 21, dtype=torch.float64)
    c = path.at(t)
    torch.testing.assert_close(path.time_at(c.sigma / c.alpha), t, rtol=0, atol=1e-12)


def test_known_values():
    t = torch.tensor([0.25])
    x, noise = torch.tensor([[2.0]]), torch.tensor([[10.0]])
    x_t, velocity = interpolate(get_path("linear"), x, noise, t)
    assert x_t.item() == 4.0 and velocity.item() == 8.0
    x_t, _ = interpolate(get_path("cosine"), x, noise, t)
    expected = 2 * math.cos(math.pi / 8) + 10 * math.sin(math.pi / 8)
    assert x_t.item() == pytest.approx(expected, rel=1e-6)
    assert get_time_law("lognormal").times(torch.zeros(1), get_path("cosine")).item() == 0.5


def test_logit_normal_and_shifted_times():
    numbers, linear = torch.tensor([-1.0, 0.0, 2.0]), get_path("linear")
    logit = get_time_law("logit-normal")
    assert logit.draws == "normal"
    expected = 1 / (1 + torch.exp(-numbers))
    for path in PATHS:
        torch.testing.assert_close(logit.times(numbers, get_path(path)), expected)
    torch.testing.assert_close(get_time_law("lognormal").times(numbers, linear), expected)

    # s t / (1 + (s - 1) t): 4 * 0.2 / 1.6 = 0.5, which multiplies t / (1 - t) by 4.
    law = get_time_law("shift:4")
    assert (law.draws, law.shift) == ("uniform", 4.0)
    assert law.times(torch.tensor([0.0, 0.2, 0.5, 1.0]), linear).tolist() == pytest.approx(
        [0, 0.5, 0.8, 1]
    )
    both = get_time_law("logit-normal shift:4.9")
    assert (both.draws, both.shift) == ("normal", 4.9)
    torch.testing.assert_close(both.times(numbers, linear), (numbers + math.log(4.9)).sigmoid())
    assert get_time_law("uniform shift:1").times(numbers, linear).tolist() == numbers.tolist()
    assert shifted(shifted(0.3, 4.9), 1 / 4.9) == pytest.approx(0.3, abs=1e-15)


@pytest.mark.parametrize("name", PATHS)
def test_the_true_data_give_the_true_velocity(name):
    torch.manual_seed(0)
    x, noise, t = torch.randn(9, 3, 2), torch.randn(9, 3, 2), torch.linspace(0.1, 1, 9)
    x_t, velocity = interpolate(get_path(name), x, noise, t)
    ours = velocity_to(get_path(name), x, x_t, t, 0.05)
    torch.testing.assert_close(ours, velocity, rtol=0, atol=1e-5)
    error = torch.randn_like(x)
    changed = velocity_to(get_path(name), x + error, x_t, t, 0.05) - ours
    factor = steepness(get_path(name), t, 0.05, 3)
    torch.testing.assert_close(changed, -factor * error, rtol=0, atol=1e-5)


def test_the_divisor_has_a_floor():
    x, x_t = torch.tensor([[1.0], [1.0]], dtype=torch.float64), torch.tensor([[2.0], [2.0]])
    t = torch.tensor([0.02, 0.5], dtype=torch.float64)
    v = velocity_to(get_path("linear"), x, x_t.double(), t, 0.05)
    assert v.flatten().tolist() == pytest.approx([1 / 0.05, 1 / 0.5])
    assert steepness(get_path("linear"), t, 0.05, 2).flatten().tolist() == pytest.approx([20, 2])


@pytest.mark.parametrize("shift", ["0", "-1", "inf", "nan", "", "x"])
def test_a_shift_is_a_positive_number(shift):
    with pytest.raises(ReedError, match=f"shift of times is '{shift}', it must be a positive"):
        get_time_law(f"shift:{shift}")


def test_unknown_names():
    with pytest.raises(ReedError, match="unknown path 'linaer'.*Did you mean 'linear'"):
        get_path("linaer")
    with pytest.raises(ReedError, match="time law 'log-normal'.*Did you mean 'log"):
        get_time_law("log-normal")
