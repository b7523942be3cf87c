"""Guides on a Gaussian pair whose joint distribution is known: which samplers reproduce it."""

from types import SimpleNamespace

import pytest
import torch

from reed.domains.image_guided import Request, drawn_with_guides
from reed.flows.paths import get_path
from reed.flows.samplers import Guidance
from reed.guides.steer import Steer
from tests import tiny_gaussian as toy

N, STEPS = 5_000, 40


def drawn(net, guides, *, num=N, steps=STEPS, seed=0, steer=None, sampler="heun", first=0):
    """Draw (x, z) pairs, [num, 6], through the sampler of images."""
    options = SimpleNamespace(
        sampler=sampler, steps=steps, guidance=Guidance(), z=steer or Steer(), seed=seed
    )
    labels = torch.zeros(num, dtype=torch.int64)
    request = Request(labels, None, options, range(first, first + num), get_path("linear"))
    x0 = torch.randn(num, toy.D, 1, 1, dtype=torch.float64, generator=generator(seed))
    with torch.inference_mode():
        x, z = drawn_with_guides(net, guides, request, lambda step: x0)
    return torch.cat([x.flatten(1), torch.from_numpy(z["z/z"]).double()], 1)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def error(pairs, want=toy.JOINT):
    """Relative Frobenius error of the covariance."""
    return float(torch.linalg.norm(pairs.T @ pairs / len(pairs) - want) / torch.linalg.norm(want))


@pytest.fixture(scope="module")
def sampling_error():
    """The error of exact draws: mean over twenty sets."""
    root = torch.linalg.cholesky(toy.JOINT)
    size = len(toy.JOINT)
    sets = [torch.randn(N, size, dtype=torch.float64, generator=generator(i)) for i in range(20)]
    return sum(error(noise @ root.T) for noise in sets) / len(sets)


WHENS = {
    "start": "start",
    "constant": "constant",
    "cosine": "cosine",
    "cutoff": {"kind": "cutoff", "low": 0.2, "high": 0.7},
}


@pytest.mark.parametrize("when", WHENS)
def test_every_law_reproduces_the_joint_distribution(when, sampling_error):
    pairs = drawn(*toy.toy(WHENS[when]))
    assert error(pairs) < 3 * sampling_error


def test_without_z_the_marginal_of_x_is_right(sampling_error):
    # A prior that is due at the very end leaves x to the velocity without z.
    late = {"kind": "cutoff", "low": 0.0, "high": 1e-6}
    pairs = drawn(*toy.toy(late))
    x = pairs[:, : toy.D]
    assert error(x, toy.S) < 3 * sampling_error


@pytest.mark.parametrize("when", ["start", "constant"])
def test_the_mean_of_z_in_its_place_is_far_off(when, sampling_error):
    pairs = drawn(*toy.toy(when, mean_only=True))
    assert error(pairs) > 0.25 > 3 * sampling_error


def test_the_geometric_mixture_is_biased(sampling_error):
    # Exact where A = 1; else the covariance of x is wrong, as the docs say.
    exact = drawn(*toy.toy("start"), steer=Steer(mixture=True))
    assert error(exact) < 3 * sampling_error
    biased = drawn(*toy.toy("constant"), steer=Steer(mixture=True))
    assert error(biased) > 0.15 > 3 * sampling_error


def test_the_velocity_given_the_mean_of_z_is_the_velocity_without_z():
    x = torch.randn(64, toy.D, dtype=torch.float64, generator=generator(0))
    for t in (0.05, 0.3, 0.5, 0.8, 0.99):
        both = toy.velocity_given(x, toy.mean_z(x, t), t), toy.velocity(x, t)
        torch.testing.assert_close(*both, rtol=0, atol=1e-12)


def test_reading_the_mean_anew_at_every_step_converges_as_one_over_steps():
    x0 = torch.randn(2_000, toy.D, dtype=torch.float64, generator=generator(1))
    errors = []
    for steps in (20, 40, 80, 160):
        net, guides = toy.toy("start", read="mean", loss="mse")
        (guide,) = guides.all()
        forward = net.forward

        def timed(x, t, y, taps=(), extra=None, forward=forward, guide=guide):
            guide.head.time = float(t[0])
            return forward(x, t, y, taps, extra)

        net.forward = timed
        options = SimpleNamespace(
            sampler="euler", steps=steps, guidance=Guidance(), z=Steer(), seed=0
        )
        labels = torch.zeros(len(x0), dtype=torch.int64)
        request = Request(labels, None, options, range(len(x0)), get_path("linear"))
        with torch.inference_mode():
            x, _ = drawn_with_guides(net, guides, request, lambda step: x0.view(*x0.shape, 1, 1))
        # Against the exact flow map of these very numbers: no sampling error.
        root = torch.linalg.eigh(toy.S)
        exact = x0 @ (root.eigenvectors * root.eigenvalues.sqrt()) @ root.eigenvectors.T
        errors.append(float((x.flatten(1) - exact).norm() / exact.norm()))
    ratios = [a / b for a, b in zip(errors[:-1], errors[1:], strict=True)]
    assert all(1.6 < ratio < 2.6 for ratio in ratios), (errors, ratios)


@pytest.mark.parametrize("when", ["start", "constant", "cosine"])
def test_a_sample_depends_on_its_number_alone(when):
    whole = drawn_one_by_one(when, 64)
    for size in (1, 7):
        torch.testing.assert_close(drawn_one_by_one(when, size), whole, rtol=0, atol=1e-12)


def drawn_one_by_one(when, size):
    """Draw samples 0 to 63 in batches of `size`, the noise of x by number."""
    parts = []
    for first in range(0, 64, size):
        num = min(size, 64 - first)
        net, guides = toy.toy(when)
        options = SimpleNamespace(sampler="euler", steps=10, guidance=Guidance(), z=Steer(), seed=3)
        labels = torch.zeros(num, dtype=torch.int64)
        request = Request(labels, None, options, range(first, first + num), get_path("linear"))
        rows = [torch.randn(toy.D, 1, 1, generator=generator(i)) for i in range(first, first + num)]
        with torch.inference_mode():
            x, z = drawn_with_guides(net, guides, request, lambda step, r=rows: torch.stack(r))
        parts.append(torch.cat([x.flatten(1), torch.from_numpy(z["z/z"]).double()], 1))
    return torch.cat(parts)
