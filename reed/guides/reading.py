"""Guides in sampling: when a sample gets its representation, and what the net sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from reed.errors import ReedError
from reed.guides import prompts
from reed.guides.guide import Entry, Guide, Guides, pooled
from reed.guides.held import Held
from reed.guides.prior import Prior
from reed.guides.steer import Steer, Variant, summed, variants
from reed.guides.training import own_clock, x_time, z_time
from reed.guides.view import Call, View
from reed.nets import Extra
from reed.seeding import seed_for

_SPAN = float(2**63)  # seeds are below it
# Times t* of equal probability that sampling uses. Every law of t* gives the joint distribution,
# that of ten times, too, and the samples of a batch then share the evaluations that z needs.
TIMES = 10


class Reading:
    """The representations of one batch while it is drawn from noise to data.

    Everything random about sample i depends only on (seed, i).

    Args:
        guides: The guides of the net.
        seed: Seed of the samples.
        indices: Numbers of the samples.
        last: Time at which a sample gets its representation at the latest: the start of its last
            step; one number, or one per sample.
        steer: Guidance on the representations.

    Attributes:
        lag: How far z runs ahead of x where it is denoised beside x.
    """

    def __init__(
        self,
        guides: Guides,
        seed: int,
        indices: range,
        last: float | Tensor,
        steer: Steer,
    ) -> None:
        weight = next(guides.parameters())
        self._guides, self._steer, self._seed, self._indices = guides, steer, seed, indices
        self._device, self._dtype = weight.device, weight.dtype
        self.lag = max((guide.spec.config.lag for guide in guides.all()), default=0.0)
        self._x_clock = own_clock(x_time, self.lag)
        lasts = x_time(torch.as_tensor(last, dtype=torch.float64), self.lag).expand(len(indices))
        self._check()

        # Prompts are of all guides or of none.
        self._prompts = prompts.of(guides, steer.prompt, indices)
        parts = [Held(g, self._times(g, lasts), len(indices), weight) for g in guides.all()]
        self._parts = {g.spec.name: part for g, part in zip(guides.all(), parts, strict=True)}
        for name, z in self._prompts.items():
            self._parts[name].give(z)

    def _check(self) -> None:
        """Check the guidance against what the net was trained on."""
        for guide in self._guides.all():
            config, name = guide.spec.config, guide.spec.name
            if self._steer.scale > 1 and config.drop == 0:
                raise ReedError(
                    f"guide-scale is {self._steer.scale}, and guide.{name}.drop is 0, so the net "
                    "was not trained without z; sample with scale 1, or train with drop above 0"
                )
        if self._steer.mixture and len(self._parts_of("prior", "bank")) != len(self._guides):
            raise ReedError(
                "guide-mixture needs a z that is drawn at the start, read = 'prior' or 'bank'"
            )
        if self._steer.mixture and len(self._guides) > 1:
            names = ", ".join(guide.spec.name for guide in self._guides.all())
            raise ReedError(f"guide-mixture is for one guide, and the run has {names}")

    def _parts_of(self, *reads: str) -> list[Guide]:
        return [guide for guide in self._guides.all() if guide.spec.config.read in reads]

    def _times(self, guide: Guide, lasts: Tensor) -> Tensor:
        """Return the times t* of the samples, [B]; a z that was never drawn would be unknown."""
        if self._steer.mixture:
            return torch.ones_like(lasts)
        name, when = guide.spec.name, guide.spec.when
        drawn = [seed_for(self._seed, "when", name, i) / _SPAN for i in self._indices]
        uniform = ((torch.tensor(drawn, dtype=torch.float64) * TIMES).floor() + 0.5) / TIMES
        return when.times(uniform).maximum(lasts)

    def noise(self, guide: Guide, rows: Sequence[int] | None = None, step: int = -1) -> Tensor:
        """Draw standard normal numbers shaped like z for some rows of the batch, by default all."""
        name, shape = guide.spec.name, guide.spec.shape
        numbers = []
        for row in range(len(self._indices)) if rows is None else rows:
            seed = seed_for(self._seed, "z", name, self._indices[row], step)
            numbers.append(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
        return torch.stack(numbers).to(self._device, self._dtype)

    @property
    def joint(self) -> list[Guide]:
        """The guides whose z is denoised beside x."""
        return self._parts_of("joint")

    def advance(
        self, start: float, view: View, beside: Sequence[Tensor] = (), exact: bool = True
    ) -> None:
        """Begin a step: draw z for the samples whose time t* has come.

        Args:
            start: Time at which the step begins.
            view: How to look at the samples.
            beside: Current z of the joint guides.
            exact: Whether x is at that time; else x is that of each sample's own t*.
        """
        # A law of t* speaks of the time of x, which waits where a z runs ahead of it.
        noised, t = self._noised(start, beside), self._x_clock(start)

        for guide in self._guides.all():
            part, config = self._parts[guide.spec.name], guide.spec.config
            if config.read == "mean":
                part.take()
                part.has = part.times >= t
                continue
            due = ((part.times >= t) & ~part.has).nonzero().flatten()
            if config.read == "joint" or not len(due):
                continue
            if guide.spec.name in self._prompts:
                part.put(due, self._prompts[guide.spec.name][due])
            elif config.read == "bank":
                part.put(due, self._bank(guide, due.tolist()))
            else:
                at = torch.full_like(part.times, t) if exact else part.times
                part.put(due, self._drawn(guide, due, at[due], view, noised))

    def _noised(self, clock: float, beside: Sequence[Tensor]) -> dict[str, tuple[Tensor, float]]:
        """Return z and its time for every joint guide, by name."""
        found = {}
        for guide, z in zip(self.joint, beside, strict=True):
            name, time = guide.spec.name, own_clock(z_time, guide.spec.config.lag)(clock)
            now = self._on_path(guide, clock)[0] if name in self._prompts else z
            found[name] = now.to(self._dtype), time
        return found

    def _on_path(self, guide: Guide, clock: float) -> tuple[Tensor, Tensor]:
        """Return the z of a prompt and its velocity at the time."""
        time = own_clock(z_time, guide.spec.config.lag)(clock)
        return prompts.noised(self._prompts[guide.spec.name], self.noise(guide), time)

    def _drawn(
        self,
        guide: Guide,
        due: Tensor,
        at: Tensor,
        view: View,
        noised: Mapping[str, tuple[Tensor, float]],
    ) -> Tensor:
        """Draw z of the samples `due` from the prior, at times `at`, both [n]."""
        if guide.spec.when.is_start or guide.tap is None:
            given = view.given(due)
            known = [self._parts[name].of(True)[due].to(given) for name in guide.after]
            state, at = torch.cat([given, *known], -1), torch.ones_like(at)
        else:
            states = view.states(due, self._extra([due], [True], noised), [guide.tap])
            mask = None if view.mask is None else view.mask[due]
            state = pooled(states[guide.tap], mask)
        noise = self.noise(guide, due.tolist())
        return cast(Prior, guide.head).draw(noise, state.to(noise), at.to(noise))

    def _bank(self, guide: Guide, rows: list[int]) -> Tensor:
        """Return the bank's rows for the samples at some rows of the batch."""
        assert guide.bank is not None, guide.spec.name
        size, name = len(guide.bank), guide.spec.name
        order = torch.randperm(
            size, generator=torch.Generator().manual_seed(seed_for(self._seed, "bank", name))
        )
        z = guide.bank.rows([int(order[self._indices[row] % size]) for row in rows])
        return guide.normed(z.to(self._device)).to(self._dtype)

    def start(self) -> list[Tensor]:
        """Return the noise that the z of joint guides begin at."""
        return [self.noise(guide) for guide in self.joint]

    def evaluate(
        self,
        call: Call,
        clock: float,
        *,
        label_scale: float = 1.0,
        start: float | None = None,
        beside: Sequence[Tensor] = (),
        mask: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> tuple[Any, list[Tensor]]:
        """Evaluate the net with the current representations, guided where guidance is on.

        Args:
            call: Calls the net on copies of the batch.
            clock: The time; x is at that time, but for a lag.
            label_scale: Scale of the guidance on labels, 1 if it is off.
            start: Time at which the step began, which decides whether z guides in all of its
                evaluations; by default `clock`.
            beside: Current z of the joint guides.
            mask: Tokens that count, [B, T].
            seen: Samples whose prediction of z is renewed, bool [B]; None for all.

        Returns:
            The prediction, and the velocities of the joint guides' z.
        """
        start = clock if start is None else start
        parts = variants(label_scale, self._z_scale(clock, start))
        rows = torch.arange(len(self._indices), device=self._device)
        noised, on = self._noised(clock, beside), [part.z for part in parts]
        extra = self._extra([rows] * len(parts), on, noised, parts)
        prediction, states = call([part.label for part in parts], extra, sorted(self._heads()))

        # The labelled and the unlabelled copy each read the mean that they predict themselves.
        masks = None if mask is None else mask.repeat(len(parts), 1)
        if clock == start and not self._prompts:
            for guide in self._parts_of("mean"):
                z = guide.normed(guide.predicted(states, masks)).to(self._dtype)
                part = self._parts[guide.spec.name]
                for variant, chunk in zip(parts, z.chunk(len(parts)), strict=True):
                    if variant.z:
                        part.renew(variant.label, chunk, seen)
        velocities = [
            self._on_path(guide, clock)[1]
            if self._prompts
            else self._velocity(guide.predicted(states, masks), parts)
            for guide in self.joint
        ]
        return summed(prediction, parts), velocities

    def _velocity(self, stacked: Tensor, parts: list[Variant]) -> Tensor:
        """Return the velocity of z, guided by the label alone: z cannot guide itself."""
        chunks = stacked.double().chunk(len(parts))
        both = [(p, c) for p, c in zip(parts, chunks, strict=True) if p.z]
        if len(both) == 1:
            return both[0][1]
        without = 1 - both[1][0].factor  # the scale of the guidance on labels
        return without * both[0][1] + (1 - without) * both[1][1]

    def _z_scale(self, clock: float, start: float) -> float:
        """Return the scale of the guidance on z; as of that on labels, the step's start decides."""
        steer = self._steer
        if steer.mixture:
            when, t = self._guides.all()[0].spec.when, self._x_clock(clock)
            return float(when.share(torch.tensor(t, dtype=torch.float64)))
        return steer.scale if steer.low <= self._x_clock(start) <= steer.high else 1.0

    def _heads(self) -> set[int]:
        guides = self._parts_of("mean", "joint")
        return {guide.tap for guide in guides if guide.tap is not None}

    def _extra(
        self,
        rows: list[Tensor],
        on: list[bool],
        noised: Mapping[str, tuple[Tensor, float]],
        parts: Sequence[Variant] = (),
    ) -> Extra:
        """Return what enters copies of the batch, one for each entry of `rows` and `on`."""
        entries = {}
        for guide in self._guides.all():
            name, part = guide.spec.name, self._parts[guide.spec.name]
            z, keep, time = [], [], None

            # Copies without labels may hold a mean of their own.
            for number, (which, is_on) in enumerate(zip(rows, on, strict=True)):
                label = parts[number].label if parts else True
                if name in noised:
                    z.append(noised[name][0][which])
                    keep.append(torch.full_like(which, is_on, dtype=torch.bool))
                else:
                    z.append(part.of(label)[which])
                    keep.append((part.has & part.known)[which] & is_on)

            if name in noised:
                time = torch.full((sum(map(len, z)),), noised[name][1])
                time = time.to(self._device, self._dtype)
            entries[name] = Entry(torch.cat(z), torch.cat(keep), time)
        return self._guides.extra(entries)

    def result(self, beside: Sequence[Tensor] = ()) -> dict[str, Any]:
        """Return z of every sample as "z/NAME", float32 arrays [B, ...]."""
        joint = {guide.spec.name: z for guide, z in zip(self.joint, beside, strict=True)}
        joint |= self._prompts
        for part in self._parts.values():
            part.take()  # a mean has one more prediction, that of the last step
        return {
            f"z/{name}": joint.get(name, part.of(True)).float().cpu().numpy()
            for name, part in self._parts.items()
        }
