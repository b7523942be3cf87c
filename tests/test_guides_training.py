"""Guides in training: what is drawn, what the net sees, and every criterion by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from reed.cache.schema import Field
from reed.guides.guide import Entry, attach
from reed.guides.settings import GuideConfig, check_guide
from reed.guides.training import HEAVIEST, Pass, draw, x_time, z_time
from reed.guides.when import When
from reed.nets import FINAL, Extra
from reed.nets.sit import SiT, SiTConfig
from reed.seeding import Draws
from reed.train.watch import _divided, by_time

CUTOFF = {"kind": "cutoff", "low": 0.2, "high": 0.7}
TOKENS, CHANNELS = 16, 6
VECTOR = Field("z", "sample", (CHANNELS,))
GRID = Field("z", "token", (TOKENS, CHANNELS))


def guided(depth=2, **configs):
    """A small SiT without a zero among its weights, and its guides: name = settings."""
    net = SiT(SiTConfig(8, 2, 4, hidden_size=32, depth=depth, num_heads=4, num_classes=4))
    specs = {}
    for name, settings in configs.items():
        field = GRID if settings.get("enter") == "tokens" else VECTOR
        config = GuideConfig("c/z", hidden=16, depth=1, **settings)
        specs[name] = check_guide(name, config, field, net)
    guides = attach(net, specs)
    weights = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=weights))
    return net, guides


def batch(guides, size=16, seed=2):
    """Inputs of the net, representations, and what is drawn for them: (inputs, drawn)."""
    draws = torch.Generator().manual_seed(seed)
    x, t = torch.randn(size, 4, 8, 8, generator=draws), torch.rand(size, generator=draws)
    y = torch.randint(5, (size,), generator=draws)
    values = {
        guide.spec.name: torch.randn(size, *guide.spec.shape, generator=draws)
        for guide in guides.all()
    }
    drawn = draw(guides, values, t, t, Draws(0, seed, size, slice(None)))
    return {"x": x, "t": t, "y": y}, drawn


def run(net, guides, inputs, drawn, taps=()):
    return Pass(net, guides, inputs, inputs["t"], None, drawn).forward(set(taps))


@pytest.mark.parametrize("when", ["start", "constant", "cosine", "sigmoid", CUTOFF], ids=str)
@pytest.mark.parametrize("drop", [0.0, 0.25])
def test_the_share_of_samples_with_z_is_the_law_times_one_minus_drop(when, drop):
    _, guides = guided(z={"when": when, "drop": drop})
    total, law = 4_096, When.of(when, "")
    kept, want, size, spread = (torch.zeros(10, dtype=torch.float64) for _ in range(4))
    for step in range(10):
        draws = Draws(0, step, total, slice(None))
        t = draws.uniform()
        keep = draw(guides, {"z": torch.zeros(total, CHANNELS)}, t, t, draws)["z"].keep
        share = law.share(t.double()) * (1 - drop)
        which = (t * 10).long()
        sums = (kept, keep), (want, share), (size, torch.ones(total)), (spread, share * (1 - share))
        for into, values in sums:
            into.index_add_(0, which, values.double())
    assert size.min() > 3_500
    # Exact where nothing is random: A is 0 or 1, and nothing is dropped.
    assert ((kept - want).abs() <= 4.5 * spread.sqrt() + 1e-9).all(), (kept, want)


def test_the_share_that_sees_the_truth():
    _, guides = guided(z={"when": "start", "read": "mean", "enter": "tokens", "truth": 0.2})
    total = 20_000
    draws = Draws(0, 0, total, slice(None))
    t = draws.uniform()
    drawn = draw(guides, {"z": torch.zeros(total, *guides.all()[0].spec.shape)}, t, t, draws)["z"]
    assert abs(drawn.true.double().mean() - 0.2) < 4.5 * math.sqrt(0.16 / total)
    both = (drawn.true & drawn.keep).double().mean()
    assert abs(both - 0.2 * 0.9) < 4.5 * math.sqrt(0.18 * 0.82 / total)  # independent of drop


READS = {
    "prior": {"when": "constant", "noise": 0.3},
    "mean": {"when": "cosine", "read": "mean", "enter": "tokens"},
    "joint": {"read": "joint", "enter": "token"},
    "bank": {"when": "linear", "read": "bank", "noise": 0.1},
}


def test_two_processes_draw_what_one_draws():
    _, guides = guided(**READS)
    total, generator = 12, torch.Generator().manual_seed(0)
    values = {
        guide.spec.name: torch.randn(total, *guide.spec.shape, generator=generator)
        for guide in guides.all()
    }

    def drawn(rows):
        draws = Draws(5, 9, total, rows)
        t = draws.uniform()
        return draw(guides, {n: v[rows] for n, v in values.items()}, t, t, draws)

    whole, parts = drawn(slice(None)), [drawn(slice(0, 5)), drawn(slice(5, 12))]
    for name, one in whole.items():
        for part in ("z", "keep", "true", "noise", "time"):
            value = getattr(one, part)
            split = [getattr(each[name], part) for each in parts]
            if value is None:
                assert split == [None, None]
            else:
                assert torch.equal(torch.cat(split), value), (name, part)


@pytest.mark.parametrize("lag", [0.0, 0.3, 1.0])
def test_the_two_times_are_those_of_sfd(lag):
    """SFD has data at 1: semantics at min(s (1 + D), 1), texture at max(s (1 + D) - D, 0)."""
    clock = torch.rand(1_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = 1 - clock
    semantic, texture = (s * (1 + lag)).clamp(max=1), (s * (1 + lag) - lag).clamp(min=0)
    torch.testing.assert_close(z_time(clock, lag), 1 - semantic, rtol=0, atol=1e-12)
    torch.testing.assert_close(x_time(clock, lag), 1 - texture, rtol=0, atol=1e-12)
    _, guides = guided(z={"read": "joint", "lag": lag})
    t = x_time(clock, lag).float()
    draws = Draws(0, 0, 1_000, slice(None))
    drawn = draw(guides, {"z": torch.zeros(1_000, CHANNELS)}, t, clock.float(), draws)["z"]
    torch.testing.assert_close(drawn.time, z_time(clock, lag).float(), rtol=0, atol=2e-7)


@pytest.mark.parametrize("enter", ["vector", "token", "tokens"])
def test_samples_without_z_see_the_learned_null(enter):
    net, guides = guided(z={"read": "bank", "enter": enter})
    inputs, drawn = batch(guides, 6)
    (guide,), keep = guides.all(), torch.tensor([1, 0, 1, 0, 0, 1]).bool()
    z = drawn["z"].z
    extra = guides.extra({"z": Entry(z, keep)})
    v, _ = net(**inputs, extra=extra)
    null = guide.null.expand_as(z)
    as_null, _ = net(**inputs, extra=guides.extra({"z": Entry(null, torch.ones(6).bool())}))
    same = (v == as_null).flatten(1).all(1)
    assert torch.equal(same, ~keep)

    # Another z changes nothing without z, not even as a NaN, and the null learns from these alone.
    other = torch.where(keep.view(-1, *[1] * (z.ndim - 1)), z, torch.nan)
    assert torch.equal(v, net(**inputs, extra=guides.extra({"z": Entry(other, keep)}))[0])
    for rows, learns in ((keep, False), (~keep, True)):
        (gradient,) = torch.autograd.grad(v[rows].square().sum(), guide.null, retain_graph=True)
        assert gradient.any() == learns


@pytest.mark.parametrize("when", ["constant", "cosine", CUTOFF], ids=str)
@pytest.mark.parametrize("drop", [0.0, 0.3])
def test_a_prior_is_trained_on_samples_without_z_weighed_by_alpha(when, drop):
    net, guides = guided(1, z={"when": when, "drop": drop, "tap": 1})
    inputs, drawn = batch(guides, 512)
    (guide,), one, t = guides.all(), drawn["z"], inputs["t"]
    _, states, terms = run(net, guides, inputs, drawn, [1])
    law = When.of(when, "")
    weight = law.density(t) / (1 - law.share(t) * (1 - drop)).clamp(min=1e-6)
    weight = torch.where(one.keep, 0, weight.clamp(max=10))
    error = guide.head.error(one.z, one.noise, one.time, states[1].mean(1), t)
    torch.testing.assert_close(terms.errors["z"].values, error.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms.losses["z"], weight * error, rtol=1e-5, atol=1e-6)
    assert torch.equal(terms.errors["z"].counts, weight > 0)  # z in the state would tell the answer
    assert HEAVIEST == 10 and one.keep.any() and (weight > 0).any()


def test_the_weight_of_a_prior_has_the_mean_alpha():
    """Per time bin, over the coin that decides who keeps z; the cap is out of reach here."""
    _, guides = guided(1, z={"when": "cosine", "drop": 0.3, "tap": 1})
    net, (guide,) = guided(1, z={"when": "cosine", "drop": 0.3, "tap": 1})[0], guides.all()
    guide.head.error = lambda z, *_: z.new_ones(len(z))
    net.guides, size, law = guides, 20_000, When.of("cosine", "")
    draws = Draws(0, 0, size, slice(None))
    t = draws.uniform()
    drawn = draw(guides, {"z": torch.zeros(size, CHANNELS)}, t, t, draws)
    one = Pass(net, guides, {}, t, None, drawn)
    weight = one._prior_loss(guide, {1: torch.zeros(size, 1, 32)})[0].double()
    want, which = law.density(t.double()), (t * 5).long()
    for number in range(5):
        here = which == number
        error = (weight - want)[here]
        assert abs(error.mean()) < 4.5 * error.std() / math.sqrt(len(error))


def test_a_prior_at_the_start_sees_the_labels_alone():
    net, guides = guided(z={"when": "start", "drop": 0.5})
    inputs, drawn = batch(guides)
    (guide,), one = guides.all(), drawn["z"]
    terms = run(net, guides, inputs, drawn)[2]
    label = net.y_embedder(inputs["y"]).detach()
    error = guide.head.error(one.z, one.noise, one.time, label, torch.ones(16))
    torch.testing.assert_close(terms.losses["z"], error)  # every sample counts, each once
    assert (terms.losses["z"] > 0).all() and one.keep.any() and not one.keep.all()
    terms.losses["z"].sum().backward()
    assert net.y_embedder.embedding_table.weight.grad is None  # the label is not moved by it


def in_double(net, guides, inputs, extra, tap):
    """The states at a tap in float64; `extra` is made of double numbers."""
    inputs = {n: v.double() if v.is_floating_point() else v for n, v in inputs.items()}
    return net.double()(**inputs, taps=[tap], extra=extra)[1][tap]


@torch.no_grad()
@pytest.mark.parametrize("lag", [0.0, 0.3])
def test_the_loss_of_joint_by_hand(lag):
    net, guides = guided(z={"read": "joint", "lag": lag, "drop": 0.4})
    inputs, drawn = batch(guides)
    (guide,), one = guides.all(), drawn["z"]
    terms = run(net, guides, inputs, drawn)[2]
    guides.double()
    time, z, noise = one.time.double()[:, None], one.z.double(), one.noise.double()
    noised = torch.where(one.keep[:, None], z + time * (noise - z), guide.null)
    vector = noised @ guide.enter.weight.T + guide.enter.bias
    vector = vector + (guide.time(one.time) if lag else 0)
    hidden = in_double(net, guides, inputs, Extra(vector), FINAL).mean(1)
    guess = hidden @ guide.head.weight.T + guide.head.bias
    error = (guess - (noise - z)).square().mean(1)
    torch.testing.assert_close(terms.errors["z"].values.double(), error, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms.losses["z"].double(), error * one.keep, rtol=1e-5, atol=1e-6)
    assert torch.equal(terms.errors["z"].counts, one.keep)
    assert one.keep.any() and not one.keep.all()


@torch.no_grad()
@pytest.mark.parametrize("loss", ["mse", "cosine"])
@pytest.mark.parametrize("enter", ["vector", "tokens"])
def test_the_loss_of_mean_by_hand(loss, enter):
    settings = {"when": "cosine", "read": "mean", "enter": enter, "loss": loss, "truth": 0.3}
    net, guides = guided(z=settings | {"norm": "sample", "tap": 1})
    inputs, drawn = batch(guides)
    (guide,), one = guides.all(), drawn["z"]
    terms = run(net, guides, inputs, drawn)[2]
    guides.double()

    def pooled(hidden):
        return hidden if enter == "tokens" else hidden.mean(1)

    def entered(z, keep):
        keep = keep.view(-1, *[1] * (z.ndim - 1))
        out = torch.where(keep, z, guide.null) @ guide.enter.weight.T + guide.enter.bias
        return Extra(**{enter: out})

    # In the first pass nobody has z; its prediction enters the second unless the truth does.
    z, nobody = one.z.double(), torch.zeros(16, dtype=torch.bool)
    guess = guide.head(pooled(in_double(net, guides, inputs, entered(z, nobody), 1)))
    guess = F.layer_norm(guess, (CHANNELS,))
    seen = torch.where(one.true.view(-1, *[1] * (z.ndim - 1)), z, guess)
    second = guide.head(pooled(in_double(net, guides, inputs, entered(seen, one.keep), 1)))
    error = (second - z).square().flatten(1).mean(1)
    if loss == "cosine":
        error = -F.cosine_similarity(second, z, dim=-1).reshape(16, -1).mean(1)
    share = When.of("cosine", "").share(inputs["t"].double())
    torch.testing.assert_close(terms.errors["z"].values.double(), error, rtol=2e-5, atol=1e-5)
    torch.testing.assert_close(terms.losses["z"].double(), share * error, rtol=2e-5, atol=1e-5)


def test_the_log_has_the_error_of_the_samples_that_count_by_time():
    error, t = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0.1, 0.1, 0.3, 1.0])
    counts = torch.tensor([True, False, True, True])
    line = _divided({k: float(v) for k, v in by_time("z/q", error, counts, t).items()})
    want = {"z/q": 13 / 3, "z/q/t0": 1.0, "z/q/t0.2": 4.0, "z/q/t0.8": 8.0}
    assert line == pytest.approx(want)
