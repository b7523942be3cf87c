"""A Gaussian pair (x, z) whose velocities and whose p(z | x_t) are known in closed form.

x ~ N(0, S) in four dimensions, z = W x + tau eps in two, and x_t = (1 - t) x + t noise. With
a = 1 - t and C = a^2 S + t^2 I the velocity without z is (t I - a S) C^-1 x_t, E[x | x_t] is
a S C^-1 x_t and Cov[x | x_t] is S - a^2 S C^-1 S. With z, x is N(K z, S - K W S), where
K = S W' (W S W' + tau^2 I)^-1.
"""

import torch
from torch import nn

from reed.cache.schema import Field
from reed.guides.guide import Guides
from reed.guides.settings import GuideConfig, check_guide
from reed.nets import Net, Tap

D, K, TAU = 4, 2, 0.3
_root = torch.tensor(
    [[1.0, 0.0, 0.0, 0.0], [0.6, 0.7, 0.0, 0.0], [-0.4, 0.3, 0.5, 0.0], [0.2, -0.5, 0.4, 0.6]],
    dtype=torch.float64,
)
S = _root @ _root.T
W = torch.tensor([[1.0, -0.5, 0.3, 0.8], [0.2, 0.9, -0.7, 0.4]], dtype=torch.float64)
COV_Z = W @ S @ W.T + TAU**2 * torch.eye(K, dtype=torch.float64)
GAIN = S @ W.T @ torch.linalg.inv(COV_Z)
S_GIVEN_Z = S - GAIN @ W @ S
JOINT = torch.cat([torch.cat([S, S @ W.T], 1), torch.cat([W @ S, COV_Z], 1)])
EYE = torch.eye(D, dtype=torch.float64)


def posterior(t):
    """The matrices of E[x | x_t] = M x_t and Cov[x | x_t], at one time."""
    a = 1 - t
    inverse = torch.linalg.inv(a**2 * S + t**2 * EYE)
    return a * S @ inverse, S - a**2 * S @ inverse @ S


def velocity(x_t, t):
    """v(x_t), [B, 4]."""
    a = 1 - t
    return x_t @ ((t * EYE - a * S) @ torch.linalg.inv(a**2 * S + t**2 * EYE)).T


def velocity_given(x_t, z, t):
    """v(x_t, z), [B, 4]."""
    a, mean = 1 - t, z @ GAIN.T
    gain = a * S_GIVEN_Z @ torch.linalg.inv(a**2 * S_GIVEN_Z + t**2 * EYE)
    return (x_t - (mean + (x_t - a * mean) @ gain.T)) / t


def mean_z(x_t, t):
    """E[z | x_t], [B, 2]."""
    return x_t @ (W @ posterior(t)[0]).T


class ToyNet(Net):
    """The exact velocities as a net; a z of NaN stands for no z."""

    enters, beside = ("vector",), "ahead"
    widths = (K, K)

    def __init__(self, wrong_null=False):
        super().__init__()
        self.null_class = None

    def taps(self):
        return [Tap(D, 1)]

    def given(self, *, y):
        return torch.zeros(len(y), K, dtype=torch.float64)

    def forward(self, x, t, y, taps=(), extra=None):
        assert (t == t[0]).all()
        # At t = 0 or 1 the matrices are singular in one of the two velocities.
        time = float(t[0].double().clamp(1e-9, 1 - 1e-12))
        flat, z = x.double().flatten(1), extra.vector.double()
        has = ~z.isnan().any(1, keepdim=True)
        v = torch.where(has, velocity_given(flat, z.nan_to_num(), time), velocity(flat, time))
        return v.view_as(x), {1: flat[:, None]}


class ExactPrior(nn.Module):
    """p(z | x_t) itself, in place of a trained prior; or its mean, which is wrong on purpose."""

    def __init__(self, mean_only=False):
        super().__init__()
        self.mean_only = mean_only

    def draw(self, noise, state, t):
        time = float(t[0])
        assert (t == time).all()
        if time >= 1:  # x is noise, and says nothing about z
            mean, cov = torch.zeros_like(noise), COV_Z
        else:
            matrix, cov = posterior(time)
            mean = state @ (W @ matrix).T
            cov = W @ cov @ W.T + TAU**2 * torch.eye(K, dtype=torch.float64)
        root = torch.linalg.cholesky(cov)
        return mean if self.mean_only else mean + noise @ root.T


class _ExactMean(nn.Module):
    """E[z | x_t] for the head of a mean; the test sets the time."""

    time = 1.0

    def forward(self, state):
        return mean_z(state, min(self.time, 1 - 1e-9))


def toy(when="constant", read="prior", mean_only=False, **settings):
    """Return the net and its guides, with the exact heads."""
    net = ToyNet()
    config = GuideConfig("toy/z", when, read, "vector", hidden=8, depth=1, **settings)
    spec = check_guide("z", config, Field("z", "sample", (K,)), net)
    guides = Guides({"z": spec}, net).double()
    (guide,) = guides.all()
    guide.enter = nn.Identity()
    guide.null = nn.Parameter(torch.full((K,), torch.nan, dtype=torch.float64))
    guide.head = ExactPrior(mean_only) if read == "prior" else _ExactMean()
    net.guides = guides
    return net, guides
