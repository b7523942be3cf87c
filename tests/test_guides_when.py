"""The law of the time at which a representation enters, against numbers and numpy's integrals."""

import math

import numpy as np
import pytest
import torch

from reed.errors import ReedError
from reed.guides.reading import Reading
from reed.guides.steer import Steer
from reed.guides.when import When
from tests import tiny_gaussian as toy

CUTOFF = {"kind": "cutoff", "low": 0.2, "high": 0.7}
# Law -> A(t) at TIMES, to four digits.
TIMES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
TABLE = {
    "constant": (1, 0.9, 0.75, 0.5, 0.25, 0.1, 0),
    "linear": (1, 0.81, 0.5625, 0.25, 0.0625, 0.01, 0),
    "cosine": (1, 0.8016, 0.5249, 0.1817, 0.0249, 0.0016, 0),
    "sigmoid": (1, 0.8023, 0.5144, 0.1373, 0.0144, 0.0023, 0),
    "loglinear": (1, 0.8449, 0.6398, 0.3616, 0.1516, 0.0541, 0),
    "cutoff": (1, 1, 0.9, 0.4, 0, 0, 0),
    "start": (1,) * 7,
    "never": (0,) * 7,
}
# The weights as formulas of numpy, so that nothing of the library integrates itself.
WEIGHTS = {
    "constant": np.ones_like,
    "linear": lambda t: 1 - t,
    "cosine": lambda t: (1 + np.cos(np.pi * t)) / 2,
    "sigmoid": lambda t: 1 / (1 + np.exp(10 * (t - 0.5))),
    "loglinear": lambda t: 1 - np.log(1 + t),
    "cutoff": lambda t: ((t >= 0.2) & (t <= 0.7)).astype(float),
}
GRID = np.linspace(0, 1, 200_001)


def law(name):
    return When.of(CUTOFF if name == "cutoff" else name, "guide.z.when")


def integrals(name):
    """Integrals of a weight from 0 to every point of GRID, by the trapezoidal rule."""
    weights = WEIGHTS[name](GRID)
    steps = (weights[1:] + weights[:-1]) / 2 * np.diff(GRID)
    return np.concatenate([[0], np.cumsum(steps)])


def share_of_numpy(name, t):
    """A(t) by numerical integration."""
    below = integrals(name)
    return 1 - np.interp(t, GRID, below / below[-1])


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_shares(name):
    found = law(name).share(torch.tensor(TIMES, dtype=torch.float64)).tolist()
    assert found == pytest.approx(TABLE[name], abs=5.1e-5)
    assert all(0 <= share <= 1 for share in found)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_share_is_the_integral_of_the_weight(name, dtype):
    t = torch.rand(5_000, generator=torch.Generator().manual_seed(0), dtype=dtype)
    share = law(name).share(t)
    assert share.dtype == dtype and share.min() >= 0 and share.max() <= 1
    tolerance = 1e-6 if dtype == torch.float32 else 1e-9
    tolerance = 2e-5 if name == "cutoff" else tolerance  # the rule blurs a jump by one step
    wanted = torch.from_numpy(share_of_numpy(name, t.double().numpy()))
    torch.testing.assert_close(share.double(), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_density_integrates_to_one_and_is_the_slope_of_the_share(name):
    when = law(name)
    density = when.density(torch.from_numpy(GRID)).numpy()
    total = float(np.sum((density[1:] + density[:-1]) / 2 * np.diff(GRID)))
    assert total == pytest.approx(1, abs=2e-5 if name == "cutoff" else 1e-9)

    # The edges of a window have no slope.
    t = torch.linspace(0.003, 0.997, 317, dtype=torch.float64)
    t = t[((t - 0.2).abs() > 1e-3) & ((t - 0.7).abs() > 1e-3)] if name == "cutoff" else t
    h = 1e-5
    slope = (when.share(t - h) - when.share(t + h)) / (2 * h)
    torch.testing.assert_close(when.density(t), slope, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["start", "never"])
def test_start_and_never_have_no_density_and_one_time(name):
    when, u = law(name), torch.tensor([0.0, 0.3, 0.999])
    assert when.density(u).tolist() == [0, 0, 0]
    assert when.times(u).tolist() == ([1, 1, 1] if name == "start" else [-1, -1, -1])
    assert (when.is_start, when.is_never) == (name == "start", name == "never")


@pytest.mark.parametrize("name", WEIGHTS)
def test_times_invert_shares(name):
    when = law(name)
    u = torch.linspace(1e-6, 1 - 1e-6, 4_001, dtype=torch.float64)
    t = when.times(u)
    torch.testing.assert_close(when.share(t), u, rtol=0, atol=1e-12)
    assert (t[1:] < t[:-1]).all() and t.min() >= 0 and t.max() <= 1


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_smallest_number_gives_the_latest_time_of_the_law(name):
    """Zero is a number in [0, 1), and alpha has nothing beyond its window."""
    last = 0.7 if name == "cutoff" else 1.0
    found = law(name).times(torch.zeros(1, dtype=torch.float64)).item()
    assert found == pytest.approx(last, abs=1e-5) and found <= 1


def distance(times, name):
    """The Kolmogorov-Smirnov distance of times from the law, with numpy's integrals."""
    times = np.sort(times)
    cdf, n = 1 - share_of_numpy(name, times), len(times)
    rank = np.arange(n + 1) / n
    return float(max((rank[1:] - cdf).max(), (cdf - rank[:-1]).max()))


def bound(n, chance=1e-6):
    """The distance that n true draws exceed with at most this chance (Massart's inequality)."""
    return math.sqrt(math.log(2 / chance) / (2 * n))


@pytest.mark.parametrize("name", WEIGHTS)
def test_times_of_uniform_numbers_have_the_law(name):
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times = law(name).times(u).numpy()
    assert distance(times, name) < bound(len(times))
    other = "linear" if name == "constant" else "constant"
    assert distance(times, other) > bound(len(times))  # else the test could not fail


@pytest.mark.parametrize("name", ["constant", "cosine", "cutoff"])
def test_the_times_of_samples_have_the_law_but_for_the_last_step(name):
    _, guides = toy.toy(CUTOFF if name == "cutoff" else name)

    def times(samples, last=0.0, seed=3):
        return Reading(guides, seed, samples, last, Steer())._parts["z"].times

    # Ten times stand for the law, each for a tenth of it: the distance is half a tenth.
    whole = times(range(4_000))
    assert abs(distance(whole.numpy(), name) - 0.05) < bound(4_000)
    middles = (torch.arange(10, dtype=torch.float64) + 0.5) / 10
    assert torch.equal(whole.unique(), law(name).times(middles).flip(0))
    assert torch.equal(times(range(40, 47)), whole[40:47])
    assert torch.equal(times(range(4_000), last=0.3), whole.clamp(min=0.3))
    assert not torch.equal(times(range(40, 47), seed=4), whole[40:47])


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        (CUTOFF | {"low": 0.7}, ["guide.z.when", "from 0.7 to 0.7 has no width", "start or never"]),
        (CUTOFF | {"low": 0.8}, ["guide.z.when", "low is 0.8", "high is 0.7"]),
        ("cosin", ["guide.z.when", "'cosin'", "Did you mean 'cosine'"]),
        ({"kind": "start", "low": 0.1}, ["guide.z.when", "'start'"]),
        ({"kind": "linear", "low": 0.1}, ["guide.z.when", "'linear' has no key 'low'"]),
        ("strat", ["guide.z.when", "'strat'", "Did you mean 'start'"]),
        ("now", ["guide.z.when", "'now'", "cosine", "linear", "never", "start", "'cutoff'"]),
        (None, ["guide.z.when", "None", "start"]),
        (0.5, ["guide.z.when", "0.5", "never"]),
    ],
)
def test_a_law_that_makes_no_sense_is_refused(setting, parts):
    with pytest.raises(ReedError) as caught:
        When.of(setting, "guide.z.when")
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)


def test_a_list_for_a_law_is_refused():
    with pytest.raises(ReedError, match=r"guide\.z\.when"):
        When.of(["start"], "guide.z.when")
