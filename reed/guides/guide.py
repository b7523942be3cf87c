"""The modules of guides, which a net keeps beside its own: entries, nulls and heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reed.errors import ReedError
from reed.guides.prior import Prior
from reed.guides.settings import GuideSpec
from reed.nets import FINAL, Extra, Net, State, nodes_of
from reed.nets.layers import TimestepEmbedder, init_linear, masked_mean, projector
from reed.state_dict import slot


@dataclass(frozen=True)
class Entry:
    """The representations of a batch that enter through one guide.

    Attributes:
        z: Representations, [B, C] or [B, T, C].
        keep: Samples that have z; the others see the null, bool [B].
        time: Times of z itself where it is noised, [B]; None where it is not.
    """

    z: Tensor
    keep: Tensor
    time: Tensor | None = None


class Bank(Protocol):
    """The rows of a column of representations."""

    def __len__(self) -> int: ...

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """Return decoded representations, [N, ...] float32."""
        ...

    def numbers(self, keys: Sequence[str]) -> list[int]:
        """Return the rows of keys; ReedError if there is no such row."""
        ...


class Guide(nn.Module):
    """One guide: a linear entry with a learned null and, depending on `read`, a head.

    Args:
        spec: The guide, which fits the net.
        net: The net.
        before: The guides before it, whose z a prior at the start sees if they start, too.

    Attributes:
        tap: Tap whose states the head reads; None if there is no head or it needs none.
        after: Names of the guides whose z is drawn first, and is seen by this guide's prior.
    """

    def __init__(self, spec: GuideSpec, net: Net, before: Sequence[GuideSpec] = ()) -> None:
        super().__init__()
        self.spec, config = spec, spec.config
        first = [other for other in before if spec.when.is_start and _is_known_first(other)]
        self.after = tuple(other.name for other in first)
        width, given = net.widths
        channels, tap = spec.shape[-1], net.taps()[config.tap - 1].width
        self.null = nn.Parameter(torch.zeros(channels))
        self.enter = nn.Linear(channels, width)
        init_linear(self.enter)
        self.norm = nn.LayerNorm(width, eps=1e-6) if config.enter == "token" else nn.Identity()
        self.time = TimestepEmbedder(width) if config.lag else None

        # At t* = 1 a prior sees only what is given, so it needs no hidden state.
        self.tap: int | None = config.tap
        self.head: nn.Module | None = None
        if config.read == "prior":
            known = given + sum(other.shape[-1] for other in first)
            state = known if spec.when.is_start else tap
            self.head = Prior(channels, state, config.hidden, config.depth)
            self.tap = None if spec.when.is_start else config.tap
        elif config.read == "mean":
            self.head = projector(tap, config.hidden, channels)
        elif config.read == "joint":
            self.tap = FINAL if "token" in net.enters else len(net.taps())
            self.head = nn.Linear(net.taps()[-1].width, channels)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
        else:
            self.tap = None

    def normed(self, z: Tensor) -> Tensor:
        """Return z as the net sees it: normalised over its channels if the recipe says so."""
        z = z.float()
        return F.layer_norm(z, z.shape[-1:]) if self.spec.config.norm == "sample" else z

    def entered(self, entry: Entry) -> Tensor:
        """Return what enters, as wide as the net: [B, D], or [B, T, D] for tokens."""
        keep = entry.keep.view(-1, *[1] * (entry.z.ndim - 1))
        out = self.norm(self.enter(torch.where(keep, entry.z, self.null.to(entry.z))))
        if self.time is not None and entry.time is not None:
            time = self.time(entry.time)
            out = out + (time if out.ndim == 2 else time[:, None])
        return out

    def predicted(self, states: Mapping[int, State], mask: Tensor | None) -> Tensor:
        """Return what the head of mean or joint says: z or its velocity, [B, C] or [B, T, C]."""
        assert self.tap is not None and self.head is not None
        hidden = states[self.tap]
        config = self.spec.config
        if self.tap == FINAL and config.enter == "token":
            return self.head(cast(Tensor, hidden)[:, self._row])
        if config.enter == "tokens":
            hidden = cast(Tensor, hidden)
            return self.head(hidden[:, -self.spec.shape[0] :])  # without the tokens before them
        return self.head(pooled(hidden, mask))

    column: Bank | None = None  # the cached rows of its target, in sampling
    bank: Bank | None = None  # the same, if the samples' z are drawn from them
    _row = 0  # of this guide's token among the entered ones; set by Guides


class Guides(nn.ModuleDict):
    """The guides of a net, by `slot` of their names, in the order of the recipe.

    Args:
        specs: Guides by name, without those that never enter.
        net: The net.
    """

    def __init__(self, specs: Mapping[str, GuideSpec], net: Net) -> None:
        several = list(specs.values())
        guides = [Guide(spec, net, several[:number]) for number, spec in enumerate(several)]
        super().__init__({slot(guide.spec.name): guide for guide in guides})
        tokens = [guide for guide in self.all() if guide.spec.config.enter == "token"]
        for row, guide in enumerate(tokens):
            guide._row = row

    def all(self) -> list[Guide]:
        """Return the guides in order."""
        return [cast(Guide, guide) for guide in self.values()]

    def extra(self, entries: Mapping[str, Entry]) -> Extra:
        """Return what enters the net, from the entry of every guide by name."""
        parts: dict[str, list[Tensor]] = {"vector": [], "token": [], "tokens": []}
        for guide in self.all():
            out = guide.entered(entries[guide.spec.name])
            parts[guide.spec.config.enter].append(out)
        vector, tokens = (
            sum(parts[name][1:], parts[name][0]) if parts[name] else None
            for name in ("vector", "tokens")
        )
        token = torch.stack(parts["token"], 1) if parts["token"] else None
        return Extra(vector, token, tokens)

    def nothing(self, samples: int) -> Extra:
        """Return what enters the net if no sample has a representation."""
        entries = {}
        for guide in self.all():
            z = guide.null.new_zeros(samples, *guide.spec.shape)
            keep = torch.zeros(samples, dtype=torch.bool, device=z.device)
            entries[guide.spec.name] = Entry(z, keep)
        return self.extra(entries)

    @property
    def taps(self) -> set[int]:
        """Taps whose states the heads read."""
        return {guide.tap for guide in self.all() if guide.tap is not None}


def attach(net: Net, specs: Mapping[str, GuideSpec]) -> Guides | None:
    """Give a net its guides, as its part `guides`; None, and no new weights, if there are none.

    Raises:
        ReedError: A guide has the name of an attribute of a torch module.
    """
    if not specs:
        return None
    taken = Guides({}, net)
    for name in specs:
        if not name or hasattr(taken, slot(name)):
            raise ReedError(f"guide.{name}: {name!r} cannot name a guide; choose another name")
    guides = Guides(specs, net)
    net.guides = guides
    return guides


def guides_of(net: nn.Module) -> Guides | None:
    """Return the guides that were attached to a net; None if it has none."""
    guides = getattr(net, "guides", None)
    return guides if isinstance(guides, Guides) else None


def _is_known_first(spec: GuideSpec) -> bool:
    """Whether the z of a guide is a vector that is drawn before anything else."""
    is_vector = spec.config.enter != "tokens"
    return spec.when.is_start and spec.config.read in ("prior", "bank") and is_vector


def pooled(hidden: State, mask: Tensor | None) -> Tensor:
    """Return the mean hidden state over the tokens that count, [B, D]."""
    return masked_mean(nodes_of(hidden), mask)
