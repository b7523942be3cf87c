"""Paths, laws of times and the denoising target against the public code, and analytically."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from reed.errors import ReedError
from reed.flows.paths import PATHS, TIME_LAWS, get_path, get_time_law, interpolate

GOLDEN = Path(__file__).parent / "golden"
CASES = [(law, path) for law in TIME_LAWS for path in PATHS]


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


def test_unknown_names():
    with pytest.raises(ReedError, match="unknown path 'linaer'.*Did you mean 'linear'"):
        get_path("linaer")
    with pytest.raises(ReedError, match="time law 'log-normal'.*Did you mean 'lognormal'"):
        get_time_law("log-normal")
