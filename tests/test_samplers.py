"""Samplers against every recorded run of the public code, and against exact flows."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reed.errors import ReedError
from reed.flows.paths import get_path
from reed.flows.samplers import Guidance, guided_velocity, ode, sde, starts
from reed.nets.sit import SiT, SiTConfig

GOLDEN = Path(__file__).parent / "golden"
NULL = 10


def load(name):
    with np.load(GOLDEN / name, allow_pickle=False) as file:
        return {k: torch.from_numpy(file[k]) for k in file.files if not k.endswith("json")}


with np.load(GOLDEN / "samplers.npz", allow_pickle=False) as file:
    VARIANTS = json.loads(str(file["cfg_json"]))


@pytest.fixture(scope="module")
def golden():
    return load("samplers.npz")


@pytest.fixture(scope="module")
def net():
    net = SiT(SiTConfig(8, 2, 4, 64, 4, 4, num_classes=NULL))
    weights = {k[3:]: v for k, v in load("sit_tiny.npz").items() if k.startswith("sd/")}
    net.load_state_dict({k: v for k, v in weights.items() if "projectors" not in k})
    return net.eval()


class Watched:
    """A net that remembers its calls."""

    def __init__(self, net, batch):
        self.net, self.batch, self.calls = net, batch, []

    def __call__(self, x, t, y):
        assert x.dtype == t.dtype == torch.float32
        self.calls.append((x[: self.batch].clone(), t.clone(), y.clone()))
        return self.net(x, t, y)


@pytest.mark.parametrize("name", VARIANTS)
def test_recorded_runs(name, net, golden):
    spec, y = VARIANTS[name], golden["in/y"]
    watched = Watched(net, len(y))
    guidance = Guidance(spec["cfg"], spec["lo"], spec["hi"])
    velocity = guided_velocity(watched, y, NULL, guidance)
    times = []

    def timed(x, t, step_start):
        times.append(t)
        assert x.dtype == torch.float64
        return velocity(x, t, step_start)

    if spec["kind"] == "ode":
        out = ode(timed, golden["in/z"], spec["steps"], spec["heun"])
    else:
        noise = golden["in/sde_noise"]
        out = sde(timed, golden["in/z"], spec["steps"], get_path(spec["path"]), noise.__getitem__)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out.float(), golden[f"out/{name}"], rtol=0, atol=1e-5)
    assert times == golden[f"f64/{name}/call_t"].tolist()  # to the last bit
    guided = [int(len(labels) == 2 * len(y)) for _, _, labels in watched.calls]
    assert guided == golden[f"calls/{name}/guided"].tolist()
    for _, _, labels in watched.calls:
        assert torch.equal(labels[: len(y)], y) and (labels[len(y) :] == NULL).all()
    if spec["traj"]:
        states = torch.stack([x for x, _, _ in watched.calls])
        torch.testing.assert_close(states, golden[f"traj/{name}"], rtol=0, atol=1e-5)


def test_time_grids(golden):
    seen = []

    def still(x, t, step_start):
        seen.append(t)
        return torch.zeros_like(x)

    x = torch.ones(1, 1)
    ode(still, x, 10)
    assert [*seen, 0.0] == golden["f64/linspace_1_0_11"].tolist()
    seen.clear()
    sde(still, x, 10, get_path("linear"), lambda i: torch.zeros(1, 1))
    assert [*seen, 0.0] == golden["f64/linspace_1_0.04_10_then_0"].tolist()


def test_shifted_grids():
    """t / (1 - t) is four times that of the plain grid; the last step of the SDE stays."""
    assert starts(4, shift=4) == pytest.approx([1, 12 / 13, 0.8, 4 / 7])
    grid = starts(5, 0.04, shift=4)
    assert (grid[0], grid[-1]) == (1, pytest.approx(0.04, abs=1e-15))
    plain = [t / (4 - 3 * t) for t in grid]  # equal steps again
    assert np.diff(plain) == pytest.approx([(plain[-1] - 1) / 4] * 4)
    seen = []

    def still(x, t, step_start):
        seen.append(t)
        return torch.zeros_like(x)

    ode(still, torch.ones(1, 1), 4, shift=4)
    sde(still, torch.ones(1, 1), 5, get_path("linear"), lambda i: torch.zeros(1, 1), shift=4)
    assert seen == starts(4, shift=4) + grid


def test_ode_orders_of_convergence():
    """dx/dt = x from 1 to 0 is x/e: halving the step halves Euler's error, quarters Heun's."""
    x, exact = torch.ones(1, 1), np.exp(-1)

    def error(steps, heun):
        return abs(ode(lambda x, t, s: x, x, steps, heun).item() - exact)

    assert error(200, False) / error(400, False) == pytest.approx(2, rel=0.02)
    assert error(200, True) / error(400, True) == pytest.approx(4, rel=0.02)


def gaussian_velocity(path, spread):
    """E[d x_t / dt | x_t] when the data are N(0, spread^2)."""

    def velocity(x, t, step_start):
        c = path.at(torch.tensor(t, dtype=torch.float64))
        variance = (c.alpha * spread) ** 2 + c.sigma**2
        return (c.d_alpha * c.alpha * spread**2 + c.d_sigma * c.sigma) / variance * x

    return velocity


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_both_samplers_reach_a_gaussian(name):
    path, spread = get_path(name), 0.5
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20_000, 1, generator=generator)
    velocity = gaussian_velocity(path, spread)
    assert ode(velocity, z, 200, heun=True).std().item() == pytest.approx(spread, rel=0.02)

    def noise(i):
        seeded = torch.Generator().manual_seed(1 + i)
        return torch.randn(z.shape, generator=seeded)

    samples = sde(velocity, z, 400, path, noise)
    assert samples.std().item() == pytest.approx(spread, rel=0.03)
    memory = torch.corrcoef(torch.cat([z.double(), samples], 1).T)[0, 1]
    assert abs(memory) < 0.6  # the ODE's is 1: new noise was mixed in
    assert torch.equal(samples, sde(velocity, z, 400, path, noise))


def test_sde_asks_for_noise_by_step():
    asked = []

    def noise(i):
        asked.append(i)
        return torch.zeros(2, 1)

    sde(gaussian_velocity(get_path("linear"), 1.0), torch.ones(2, 1), 5, get_path("linear"), noise)
    assert asked == [0, 1, 2, 3]


def test_guidance_mixes_the_two_halves():
    def net(x, t, y):
        return y.float().view(-1, 1).expand_as(x), {}

    velocity = guided_velocity(net, torch.tensor([3]), NULL, Guidance(2.0, 0.2, 0.6))
    x = torch.zeros(1, 1, dtype=torch.float64)
    assert velocity(x, 0.5, 0.5).item() == 10 + 2.0 * (3 - 10)
    assert velocity(x, 0.5, 0.7).item() == 3  # the step's start decides
    assert velocity(x, 0.7, 0.6).item() == -4
    assert guided_velocity(net, torch.tensor([3]), None, Guidance())(x, 0.5, 0.5).item() == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.5,), "scale is 0.5"),
        ((float("nan"),), "scale is nan"),
        ((float("inf"),), "scale is inf, it must be a finite number"),
        ((2.0, 0.7, 0.1), r"\[0.7, 0.1\]"),
        ((2.0, 0.0, 1.5), r"\[0.0, 1.5\]"),
    ],
)
def test_bad_guidance(arguments, message):
    with pytest.raises(ReedError, match=message):
        Guidance(*arguments)


def test_guidance_without_a_null_class():
    with pytest.raises(ReedError, match="scale 1.5 needs a net trained with a null class"):
        guided_velocity(lambda x, t, y: (x, {}), torch.tensor([0]), None, Guidance(1.5))


def test_bad_steps():
    x, path = torch.zeros(1, 1), get_path("linear")
    with pytest.raises(ReedError, match="steps is 0"):
        ode(lambda x, t, s: x, x, 0)
    with pytest.raises(ReedError, match="steps is -1"):
        sde(lambda x, t, s: x, x, -1, path, lambda i: x)
    with pytest.raises(ReedError, match="last_step is 0"):
        sde(lambda x, t, s: x, x, 2, path, lambda i: x, last_step=0.0)
