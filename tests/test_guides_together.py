"""Several guides at once, and guides beside mixed precision, alignment and a lag."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reed.cache.schema import Field
from reed.domains.base import Batch, Noised
from reed.domains.image_guided import Request, drawn_with_guides
from reed.flows.paths import get_path
from reed.flows.samplers import Guidance
from reed.guides.guide import Entry, Guides, guides_of
from reed.guides.reading import Reading
from reed.guides.settings import GuideConfig, check_guide
from reed.guides.steer import Steer
from reed.guides.training import Pass, draw, x_time, z_time
from reed.guides.view import View
from reed.nets import FINAL
from reed.nets.sit import SiT, SiTConfig
from reed.seeding import Draws
from reed.train.align import AlignConfig, AlignedNet, check_target
from tests import tiny_gaussian

TOKENS, CHANNELS = 16, 6
FIELDS = {"vector": Field("z", "sample", (CHANNELS,)), "tokens": Field("z", "token", (16, 6))}
FIELDS["token"] = FIELDS["vector"]


def aligned(align=(), **configs):
    """A small SiT with guides, name = settings, and alignment targets of random weights."""
    net = SiT(SiTConfig(8, 2, 4, hidden_size=32, depth=2, num_heads=4, num_classes=4))
    specs = {}
    for name, settings in configs.items():
        config = GuideConfig("c/z", hidden=16, depth=1, **settings)
        specs[name] = check_guide(name, config, FIELDS[config.enter], net)
    targets = {
        name: check_target(name, AlignConfig("c/f", 1, hidden=16), FIELDS["tokens"], net)
        for name in align
    }
    model = AlignedNet(net, targets, specs)
    weights = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=weights))
    return model


def batch(guides, size=16, seed=2):
    """Inputs of the net, and what is drawn for the guides."""
    draws = torch.Generator().manual_seed(seed)
    x, t = torch.randn(size, 4, 8, 8, generator=draws), torch.rand(size, generator=draws)
    y = torch.randint(5, (size,), generator=draws)
    values = {g.spec.name: torch.randn(size, *g.spec.shape, generator=draws) for g in guides.all()}
    drawn = draw(guides, values, t, t, Draws(0, seed, size, slice(None)))
    return {"x": x, "t": t, "y": y}, drawn


EVERY = {
    "prior": {"when": "constant"},
    "mean": {"when": "start", "read": "mean", "enter": "tokens"},
    "cls": {"read": "joint", "enter": "token"},
    "text": {"read": "joint", "enter": "token"},
    "whole": {"read": "joint"},
    "grid": {"read": "joint", "enter": "tokens"},
    "bank": {"when": "cosine", "read": "bank"},
}


@torch.no_grad()
def test_what_enters_is_the_sum_of_vectors_and_of_tokens_and_a_row_of_extra_tokens():
    guides = guides_of(aligned(**EVERY).net)
    _, drawn = batch(guides)
    entries = {name: Entry(one.z, one.keep) for name, one in drawn.items()}
    alone = {g.spec.name: g.entered(entries[g.spec.name]) for g in guides.all()}
    extra = guides.extra(entries)
    torch.testing.assert_close(extra.vector, alone["prior"] + alone["whole"] + alone["bank"])
    torch.testing.assert_close(extra.tokens, alone["mean"] + alone["grid"])
    assert torch.equal(extra.token, torch.stack([alone["cls"], alone["text"]], 1))


@torch.no_grad()
def test_every_head_reads_its_own_states():
    model = aligned(**EVERY)
    net, guides = model.net, guides_of(model.net)
    inputs, drawn = batch(guides)
    entries = {name: Entry(one.z, one.keep) for name, one in drawn.items()}
    _, states = net(**inputs, taps=[2, FINAL], extra=guides.extra(entries))
    final = states[FINAL]
    assert final.shape[1] == TOKENS + 2 and states[2].shape[1] == TOKENS
    wanted = {"cls": final[:, 0], "text": final[:, 1], "grid": final[:, 2:], "whole": final.mean(1)}
    wanted |= {"mean": states[2]}
    for guide in guides.all():
        if (hidden := wanted.get(guide.spec.name)) is not None:
            assert torch.equal(guide.predicted(states, None), guide.head(hidden)), guide.spec.name


@torch.no_grad()
def test_the_first_pass_of_a_mean_sees_the_other_guides_and_not_its_own():
    settings = {"when": "start", "read": "mean", "enter": "tokens", "truth": 0.0, "drop": 0.0}
    model = aligned(mean=settings, bank={"when": "start", "read": "bank", "drop": 0.0})
    net, guides = model.net, guides_of(model.net)
    inputs, drawn = batch(guides)

    def velocity(**changed):
        one = {name: SimpleNamespace(**vars(d)) for name, d in drawn.items()}
        for name in changed:
            one[name].z = one[name].z + 1
        return Pass(net, guides, inputs, inputs["t"], None, one).forward(set())[0]

    assert torch.equal(velocity(mean=True), velocity())
    assert not torch.equal(velocity(bank=True), velocity())


def test_a_first_pass_in_bf16_leaves_the_second_its_gradients():
    """Older versions of torch reuse the weights that autocast has cast without a gradient."""
    model = aligned(("dino",), **EVERY)
    net, guides = model.net, guides_of(model.net)
    inputs, drawn = batch(guides)
    targets = {"dino": torch.randn(16, *FIELDS["tokens"].shape)}
    with torch.autocast("cpu", torch.bfloat16):
        noised = Noised(inputs, inputs["t"], inputs["x"])
        v, found = model(noised, Batch({}, targets), drawn)
    total = v.float().square().mean() + sum(loss.mean() for loss in found.losses.values())
    total.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert net.training  # again, after the first pass


def test_the_losses_of_guides_and_targets_stand_side_by_side():
    model = aligned(("dino", "late"), **EVERY)
    guides = guides_of(model.net)
    inputs, drawn = batch(guides)
    targets = {name: torch.randn(16, *FIELDS["tokens"].shape) for name in ("dino", "late")}
    noised = Noised(inputs, inputs["t"], inputs["x"])
    _, found = model(noised, Batch({}, targets), drawn)
    heads = set(EVERY) - {"bank"}  # a bank has nothing to learn
    assert found.errors.keys() == heads and found.losses.keys() == heads | {"dino", "late"}
    assert all(loss.shape == (16,) for loss in found.losses.values())
    assert found.cosines.keys() == {"dino", "late"}


@torch.no_grad()
@pytest.mark.parametrize("lag", [0.3, 1.0])
def test_a_law_speaks_of_the_time_of_x_where_a_z_runs_ahead(lag):
    """In training A is taken at the time of x, so in sampling t* must be of that time too."""
    laws = {"prior": {"when": "linear"}, "bank": {"when": "constant", "read": "bank"}}
    model = aligned(first={"read": "joint", "lag": lag}, **laws)
    net, guides = model.net, guides_of(model.net)
    seen, asked, size, steps = [], [], 64, 20

    def advance(self, start, view, beside=(), exact=True):
        plain(self, start, view, beside, exact)
        t = float(x_time(torch.tensor(start, dtype=torch.float64), lag))
        for name in ("prior", "bank"):
            part = self._parts[name]
            assert torch.equal(part.has, part.times >= t), (name, t)
        seen.append((t, self._parts["prior"].has.all() and self._parts["bank"].has.all()))

    plain, prior = Reading.advance, guides["prior"].head
    drawing, guides["bank"].bank = prior.draw, Rows()
    prior.draw = lambda noise, state, t: (asked.append(t), drawing(noise, state, t, steps=2))[1]
    options = SimpleNamespace(
        sampler="euler", steps=steps, guidance=Guidance(), z=Steer(replace=True), seed=0
    )
    request = Request(torch.zeros(size, dtype=torch.int64), 4, options, range(size), LINEAR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reading, "advance", advance)
        drawn_with_guides(net, guides, request, lambda step: torch.randn(size, 4, 8, 8))
    assert len(seen) == steps and seen[-1][1]
    times = {round(t, 5) for t, _ in seen}
    assert {round(float(t), 5) for each in asked for t in each} <= times


LINEAR = get_path("linear")


class Rows:
    """A bank of ten rows."""

    def __len__(self):
        return 10

    def rows(self, numbers):
        return torch.tensor(numbers)[:, None].float().expand(-1, CHANNELS)


@torch.no_grad()
def test_the_net_is_told_the_times_it_was_trained_with():
    """The clock of x and the time that the guide embeds, at every evaluation of Euler's method."""
    model = aligned(first={"read": "joint", "lag": 0.3})
    net, guides = model.net, guides_of(model.net)
    forward, embed, seen = net.forward, guides["first"].time.forward, []
    guides["first"].time.forward = lambda time: (seen.append(float(time[0])), embed(time))[1]
    net.forward = lambda x, t, y, **more: (seen.append(float(t[0])), forward(x, t, y, **more))[1]
    options = SimpleNamespace(sampler="euler", steps=8, guidance=Guidance(), z=Steer(), seed=0)
    request = Request(torch.zeros(2, dtype=torch.int64), 4, options, range(2), LINEAR)
    drawn_with_guides(net, guides, request, lambda step: torch.randn(2, 4, 8, 8))
    clock = torch.linspace(1, 0, 9, dtype=torch.float64)[:-1]
    pairs = torch.stack([z_time(clock, 0.3), x_time(clock, 0.3)], 1)
    torch.testing.assert_close(torch.tensor(seen).view(8, 2).double(), pairs, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_second_prior_that_is_due_at_the_same_time_sees_the_first():
    guides = guides_of(aligned(a={"when": "constant"}, b={"when": "constant"}).net)
    for guide in guides.all():
        guide.head.draw = lambda noise, state, t: noise
    reading, entered = Reading(guides, 0, range(4), 1.0, Steer()), []

    def states(rows, extra, taps):
        entered.append(extra.vector)
        return {taps[0]: torch.zeros(len(rows), TOKENS, 32)}

    reading.advance(1.0, View(states, lambda rows: None))
    first, second = entered
    nulls = [g.enter(g.null) for g in guides.all()]
    torch.testing.assert_close(first, sum(nulls).expand(4, -1))
    a, _ = guides.all()
    torch.testing.assert_close(second, a.enter(reading.noise(a)) + nulls[1])


def test_a_second_vector_at_the_start_is_drawn_given_the_first():
    """p(a | y) p(b | y, a): b is a copy of a in the data, and so it is in what is drawn."""

    class Still(tiny_gaussian.ToyNet):
        """A net that is not looked at."""

        def given(self, **inputs):
            return torch.zeros(len(inputs["y"]), 2)

        def forward(self, y, taps=(), extra=None):
            return torch.zeros(len(y)), {}

    net, field = Still(), Field("z", "sample", (1,))
    config = GuideConfig("toy/z", "start", "prior", hidden=32, depth=2)
    torch.manual_seed(0)
    specs = {name: check_guide(name, config, field, net) for name in ("a", "b")}
    guides = Guides(specs, net)
    assert [guide.after for guide in guides.all()] == [(), ("a",)]

    rows, y = 512, torch.zeros(512, dtype=torch.int64)
    optimizer = torch.optim.Adam(guides.parameters(), lr=3e-3)
    for step in range(300):
        draws = Draws(0, step, rows, slice(None))
        z, t = torch.sign(draws.normal(1)), draws.uniform()
        drawn = draw(guides, {"a": z, "b": z}, t, t, draws)
        terms = Pass(net, guides, {"y": y}, t, None, drawn).forward(set())[2]
        optimizer.zero_grad()
        sum(loss.mean() for loss in terms.losses.values()).backward()
        optimizer.step()

    with torch.inference_mode():
        reading = Reading(guides, 0, range(rows), 0.1, Steer())
        reading.advance(1.0, View(lambda *_: {}, lambda due: torch.zeros(len(due), 2)))
    a, b = (reading.result()[f"z/{name}"][:, 0] for name in ("a", "b"))
    assert (np.sign(a) == np.sign(b)).mean() > 0.97
    assert 0.4 < (a > 0).mean() < 0.6


@torch.no_grad()
def test_the_start_of_a_step_decides_about_guidance_on_z_as_on_labels():
    """Copies of the batch in both evaluations of Heun's steps from 1, .75, .5, .25."""
    model = aligned(z={})
    net, guides = model.net, guides_of(model.net)
    forward, seen = net.forward, []
    net.forward = lambda x, t, y, **more: (seen.append(len(x) // 3), forward(x, t, y, **more))[1]
    on = {"scale": 2.0, "low": 0.0, "high": 0.6}
    for labels, z in ((Guidance(), Steer(**on)), (Guidance(**on), Steer())):
        options = SimpleNamespace(sampler="heun", steps=4, guidance=labels, z=z, seed=0)
        request = Request(torch.zeros(3, dtype=torch.int64), 4, options, range(3), LINEAR)
        seen.clear()
        drawn_with_guides(net, guides, request, lambda step: torch.randn(3, 4, 8, 8))
        assert seen == [1, 1, 1, 1, 2, 2, 2]
