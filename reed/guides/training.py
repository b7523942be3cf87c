"""Guides in training: the random numbers of a batch, what enters, and the losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from reed.flows.samplers import Clock, same_time
from reed.guides.guide import Entry, Guide, Guides, pooled
from reed.guides.prior import Prior
from reed.nets import Net, State
from reed.seeding import Draws

HEAVIEST = 10.0  # largest weight of a sample in the loss of a prior


@dataclass(frozen=True)
class Drawn:
    """The representations of a batch for one guide, with the random numbers of the step.

    Attributes:
        z: Representations as the net sees them, [B, C] or [B, T, C].
        keep: Samples that keep z, bool [B].
        true: For mean: samples that see the true z, bool [B].
        noise: Noise on z, shaped like z; None where none is drawn.
        time: Times of the flow of z, [B]; for prior and joint.
    """

    z: Tensor
    keep: Tensor
    true: Tensor
    noise: Tensor | None
    time: Tensor | None


def draw(
    guides: Guides, values: Mapping[str, Tensor], t: Tensor, clock: Tensor, draws: Draws
) -> dict[str, Drawn]:
    """Draw the random numbers of all guides, after those of the domain.

    Args:
        guides: The guides of the net.
        values: Guide -> decoded representations, [B, ...].
        t: Times of x, [B].
        clock: Times as they were drawn, [B]; they differ from t where z runs ahead of x.
        draws: Random numbers of the step.
    """
    drawn = {}
    for guide in guides.all():
        config, name = guide.spec.config, guide.spec.name
        z = guide.normed(values[name])
        keep = (draws.uniform() < guide.spec.when.share(t)) & (draws.uniform() >= config.drop)
        true = draws.uniform() < config.truth
        noise = draws.normal(*z.shape[1:]) if config.is_flow or config.noise else None
        time = draws.uniform() if config.read == "prior" else None
        if config.read == "joint":
            time = z_time(clock, config.lag)
        drawn[name] = Drawn(z, keep, true, noise, time)
    return drawn


def z_time(clock: Tensor, lag: float) -> Tensor:
    """Return the time of a z that runs ahead of x by `lag`, [B] (SFD, in our direction of time)."""
    return (clock * (1 + lag) - lag).clamp(min=0)


def x_time(clock: Tensor, lag: float) -> Tensor:
    """Return the time of an x that waits until z is `lag` ahead, [B]."""
    return (clock * (1 + lag)).clamp(max=1) if lag else clock


def own_clock(law: Callable[[Tensor, float], Tensor], lag: float) -> Clock:
    """Return `x_time` or `z_time` with a lag as a function of one global time."""
    if not lag:
        return same_time
    return lambda clock: float(law(torch.tensor(clock, dtype=torch.float64), lag))


@dataclass(frozen=True)
class Errors:
    """The errors of the representations of a batch, for the log.

    Attributes:
        values: Error of z without weight, [B], detached.
        counts: Samples whose loss has a weight, bool [B]; the state of a sample that has z would
            tell a prior the answer, so its error says nothing.
    """

    values: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Terms:
    """The losses of the guides of a batch.

    Attributes:
        losses: Guide -> weighted loss, [B]; a bank has none.
        errors: Guide -> errors of z.
    """

    losses: dict[str, Tensor]
    errors: dict[str, Errors]


class Pass:
    """One pass of a guided net over a noised batch.

    Args:
        net: The net that the guides are attached to.
        guides: Its guides.
        inputs: Inputs of the net.
        t: Times of x, [B].
        mask: Tokens that count, [B, T]; None if all do.
        drawn: What was drawn for each guide.
    """

    def __init__(
        self,
        net: Net,
        guides: Guides,
        inputs: Mapping[str, Tensor],
        t: Tensor,
        mask: Tensor | None,
        drawn: Mapping[str, Drawn],
    ) -> None:
        self._net, self._guides, self._inputs = net, guides, dict(inputs)
        self._t, self._mask, self._drawn = t, mask, drawn

    def forward(self, taps: set[int]) -> tuple[Any, Mapping[int, State], Terms]:
        """Return the prediction of the net, its states at the taps, and the guides' losses."""
        entries = {guide.spec.name: self._entry(guide) for guide in self._guides.all()}
        entries |= self._predictions(entries)
        prediction, states = self._net(
            **self._inputs,
            taps=sorted(taps | self._guides.taps),
            extra=self._guides.extra(entries),
        )
        losses, errors = {}, {}
        for guide in self._guides.all():
            if guide.head is not None:
                weight, error = self._loss(guide, states)
                losses[guide.spec.name] = weight * error
                errors[guide.spec.name] = Errors(error.detach(), weight > 0)
        return prediction, states, Terms(losses, errors)

    def _entry(self, guide: Guide) -> Entry:
        """Return what enters through a guide; the prediction of mean is not known yet."""
        drawn, config = self._drawn[guide.spec.name], guide.spec.config
        if config.read == "mean":
            return Entry(drawn.z, torch.zeros_like(drawn.keep))
        if config.read == "joint":
            assert drawn.time is not None and drawn.noise is not None
            time = drawn.time.view(-1, *[1] * (drawn.z.ndim - 1))
            return Entry((1 - time) * drawn.z + time * drawn.noise, drawn.keep, drawn.time)
        z = drawn.z
        if config.noise and drawn.noise is not None:
            z = z + config.noise * drawn.noise
        return Entry(z, drawn.keep)

    @torch.no_grad()
    def _predictions(self, entries: Mapping[str, Entry]) -> dict[str, Entry]:
        """Return the entries of the guides that are read as a mean, by a first pass without them.

        As in DINO Forcing, the first pass is in evaluation mode and has no gradient.
        """
        means = [guide for guide in self._guides.all() if guide.spec.config.read == "mean"]
        if not means:
            return {}

        training = self._net.training
        self._net.eval()
        taps = sorted({cast(int, guide.tap) for guide in means})
        _, states = self._net(**self._inputs, taps=taps, extra=self._guides.extra(entries))
        found = {}
        for guide in means:
            drawn = self._drawn[guide.spec.name]
            z = guide.normed(guide.predicted(states, self._mask))
            true = drawn.true.view(-1, *[1] * (z.ndim - 1))
            found[guide.spec.name] = Entry(torch.where(true, drawn.z, z), drawn.keep)
        self._net.train(training)

        # Autocast keeps the weights that it has cast, here without a gradient, for the next pass.
        torch.clear_autocast_cache()
        return found

    def _loss(self, guide: Guide, states: Mapping[int, State]) -> tuple[Tensor, Tensor]:
        """Return the weight of every sample, and the error of its z, both [B]."""
        spec, drawn, t = guide.spec, self._drawn[guide.spec.name], self._t
        config, share = spec.config, spec.when.share(t)
        if config.read == "prior":
            return self._prior_loss(guide, states)

        guess = guide.predicted(states, self._mask).float()
        if config.read == "joint":
            assert drawn.noise is not None
            error = (guess - (drawn.noise - drawn.z)).square().flatten(1).mean(1)
            return drawn.keep.float(), error
        if config.loss == "cosine":
            cosine = F.cosine_similarity(guess, drawn.z, dim=-1)
            return share, -(cosine if cosine.ndim == 1 else cosine.mean(1))
        return share, (guess - drawn.z).square().flatten(1).mean(1)

    def _prior_loss(self, guide: Guide, states: Mapping[int, State]) -> tuple[Tensor, Tensor]:
        """Return weight and error of a prior.

        The state of a sample that has z would tell the answer, so such samples do not count; the
        others stand for them, and the weight over all of them is alpha(t).
        """
        spec, drawn, t = guide.spec, self._drawn[guide.spec.name], self._t
        assert drawn.noise is not None and drawn.time is not None
        if spec.when.is_start:
            known = [self._net.given(**self._inputs).detach()]
            known += [self._drawn[name].z for name in guide.after]
            state, at = torch.cat(known, -1), torch.ones_like(t)
            weight = torch.ones_like(t)
        else:
            state, at = pooled(states[cast(int, guide.tap)], self._mask), t
            without = 1 - spec.when.share(t) * (1 - spec.config.drop)
            weight = (spec.when.density(t) / without.clamp(min=1e-6)).clamp(max=HEAVIEST)
            weight = weight * ~drawn.keep
        error = cast(Prior, guide.head).error(drawn.z, drawn.noise, drawn.time, state, at)
        return weight, error
