"""The flow that draws z: the weights of known modes when trained, and a covariance when exact."""

import pytest
import torch

from reed.guides.prior import Prior

MODES = 3 * torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.6, -0.8]])
WIDTH = 0.3  # standard deviation of a mode
# The weights of the modes, for each of two states.
WEIGHTS = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], dtype=torch.float64)


def generator(seed):
    return torch.Generator().manual_seed(seed)


STATES = torch.randn(2, 5, generator=generator(0))


@pytest.fixture(scope="module")
def trained():
    """The average of a small prior's last steps, which saw the two mixtures.

    Every batch holds the modes by their exact weights, and times that are spread over (0, 1).
    """
    torch.manual_seed(0)
    prior, size, steps, lr = Prior(2, 5, 48, 2), 200, 450, 8e-3
    weights = list(prior.parameters())
    average = [weight.detach().clone() for weight in weights]
    optimizer, draws = torch.optim.Adam(weights, lr=lr, fused=True), generator(1)
    mode = torch.arange(3).repeat(2).repeat_interleave((WEIGHTS * size).round().long().flatten())
    states, times = STATES.repeat_interleave(size, 0), torch.ones(2 * size)
    spread = (torch.arange(2 * size) + 0.5) / (2 * size)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1, step / 30) * (1 - step / steps)
        z = MODES[mode] + WIDTH * torch.randn(2 * size, 2, generator=draws)
        noise = torch.randn(2 * size, 2, generator=draws)
        r = spread[torch.randperm(2 * size, generator=draws)]
        prior.error(z, noise, r, states, times).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(average, [weight.detach() for weight in weights], 0.02)
    with torch.no_grad():
        torch._foreach_copy_(weights, average)
    return prior


NUM = 2_000


@pytest.mark.parametrize("state", [0, 1])
def test_a_trained_prior_has_the_weights_of_the_modes(trained, state):
    noise = torch.randn(NUM, 2, generator=generator(7))
    z = trained.draw(noise, STATES[state].expand(NUM, -1), torch.ones(NUM), steps=25)
    apart, wanted = torch.cdist(z, MODES), WEIGHTS[state]
    nearest = apart.argmin(1)
    found = nearest.bincount(minlength=3).double() / NUM
    assert ((found - wanted).abs() < 3 * (wanted * (1 - wanted) / NUM).sqrt()).all(), found

    # Next to nothing lies between the modes, and each is as wide as it should be.
    assert (apart.min(1).values < 4 * WIDTH).double().mean() > 0.96
    for number in range(3):
        centre, width = z[nearest == number].mean(0), z[nearest == number].std(0)
        torch.testing.assert_close(centre, MODES[number], rtol=0, atol=0.15)
        torch.testing.assert_close(width, torch.full((2,), WIDTH), rtol=0.35, atol=0)


# An exact Gaussian: z ~ N(MEAN, COV). With C = (1 - r)^2 COV + r^2 I, the velocity at z_r is
# (r I - (1 - r) COV) C^-1 (z_r - (1 - r) MEAN) - MEAN, and the flow map is COV^(1/2) noise + MEAN.
MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
_root = torch.tensor([[1.5, 0.0, 0.0], [-0.7, 0.4, 0.0], [0.2, 0.5, 0.9]], dtype=torch.float64)
COV, EYE = _root @ _root.T, torch.eye(3, dtype=torch.float64)
_values, _vectors = torch.linalg.eigh(COV)
ROOT = _vectors * _values.sqrt() @ _vectors.T  # the symmetric root


class Exact(Prior):
    """A prior whose velocity is the exact one of that Gaussian."""

    def _given(self, state, t):
        return state

    def _modulations(self, given, r):
        return [r.expand(1, -1)]

    def _velocity(self, z, modulations):
        share = float(modulations[0].ravel()[0])
        assert (modulations[0] == share).all()
        inverse = torch.linalg.inv((1 - share) ** 2 * COV + share**2 * EYE)
        gain = (share * EYE - (1 - share) * COV) @ inverse
        return (z - (1 - share) * MEAN) @ gain.T - MEAN


def exact(noise, **steps):
    nothing = torch.zeros(len(noise), 1, dtype=torch.float64)
    return Exact(3, 1, 4, 1).draw(noise, nothing, nothing[:, 0], **steps)


def test_drawing_with_the_exact_velocity_is_the_exact_flow_map():
    noise = torch.randn(64, 3, generator=generator(0), dtype=torch.float64)
    wanted = noise @ ROOT + MEAN
    errors = [float((exact(noise, steps=steps) - wanted).abs().max()) for steps in (20, 40, 80)]
    assert errors[0] < 0.02
    assert all(3 < a / b < 5 for a, b in zip(errors[:-1], errors[1:], strict=True)), errors


def test_drawing_with_the_exact_velocity_gives_mean_and_covariance():
    num = 40_000
    z = exact(torch.randn(num, 3, generator=generator(1), dtype=torch.float64))
    assert ((z.mean(0) - MEAN).abs() < 4 * (COV.diagonal() / num).sqrt()).all()
    spread = (COV.diagonal()[:, None] * COV.diagonal() + COV**2) / num  # variance of each entry
    assert ((z.T.cov() - COV).abs() < 4 * spread.sqrt()).all()


@pytest.mark.parametrize("r", [0.1, 0.5, 0.9])
def test_the_error_of_the_exact_velocity_is_what_noise_leaves(r):
    """The least error is the variance of noise - z given z_r, per channel."""
    num = 40_000
    z = torch.randn(num, 3, generator=generator(2), dtype=torch.float64) @ ROOT + MEAN
    noise = torch.randn(num, 3, generator=generator(3), dtype=torch.float64)
    nothing = torch.zeros(num, 1, dtype=torch.float64)
    times = torch.full((num,), r, dtype=torch.float64)
    error = Exact(3, 1, 4, 1).error(z, noise, times, nothing, times).double()
    cross = r * EYE - (1 - r) * COV
    left = COV + EYE - cross @ torch.linalg.inv((1 - r) ** 2 * COV + r**2 * EYE) @ cross.T
    wanted = float(left.trace() / 3)
    assert abs(error.mean() - wanted) < 4 * error.std() / num**0.5


def test_a_new_prior_leaves_noise_as_it_is_and_learns_in_every_weight():
    torch.manual_seed(0)
    prior = Prior(3, 5, 8, 2)
    noise, state = torch.randn(6, 3), torch.randn(6, 5)
    assert torch.equal(prior.draw(noise, state, torch.rand(6)), noise)
    optimizer = torch.optim.SGD(prior.parameters(), 0.1)
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    for _ in range(3):  # a gradient passes a layer of zeros once the layer has moved
        prior.error(torch.randn(6, 3), noise, torch.rand(6), state, torch.rand(6)).mean().backward()
        optimizer.step()
    assert [n for n, value in prior.state_dict().items() if torch.equal(value, before[n])] == []


def test_a_draw_depends_on_its_own_noise_state_and_time_alone(trained):
    noise = torch.randn(64, 2, generator=generator(3))
    state, t = torch.randn(64, 5, generator=generator(4)), torch.rand(64, generator=generator(5))
    whole = trained.draw(noise, state, t, steps=5)
    for size in (1, 7):
        parts = [
            trained.draw(*(each[i : i + size] for each in (noise, state, t)), steps=5)
            for i in range(0, 64, size)
        ]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5)
    assert not torch.allclose(trained.draw(noise, state, 1 - t, steps=5), whole, atol=1e-3)
    assert not torch.allclose(trained.draw(noise, -state, t, steps=5), whole, atol=1e-3)
