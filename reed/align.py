"""Hidden states against cached representations: one head and one cosine per target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reed.cache import codecs
from reed.cache.schema import Field
from reed.domain import Batch, Noised
from reed.errors import ReedError
from reed.nets.layers import projector
from reed.timeweight import TimeWeight


@dataclass(frozen=True)
class AlignConfig:
    """One entry of the recipe's [align] table; its name is the target's.

    target: "column/field" of the cache; tap: the block whose output is aligned, counted from 1;
    hidden: width of the projector (REPA: three layers of 2048); time_weight: see
    reed.timeweight; probe: train the head on detached features, so that it only measures.
    """

    target: str
    tap: int
    hidden: int = 2048
    time_weight: Any = "constant"
    probe: bool = False


@dataclass(frozen=True)
class Target:
    """A checked alignment target: its settings, the cached field, and its time weight."""

    config: AlignConfig
    field: Field
    weight: TimeWeight

    @property
    def channels(self) -> int:
        """How many channels it has once decoded: what its head must give."""
        return codecs.codec_of(self.field).decoded_shape(self.field)[-1]


def _tokens(head: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """[B, T, D] -> [B, T, C]: every token against the same token of the teacher."""
    return head(hidden)


def _pooled(head: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """[B, T, D] -> [B, C]: the mean over real tokens, then the head (REED: pool, then project)."""
    return head(masked_mean(hidden, mask))


Match = Callable[[nn.Module, Tensor, "Tensor | None"], Tensor]
MATCH: dict[str, Match] = {"token": _tokens, "sample": _pooled}


def check_target(name: str, config: AlignConfig, field: Field, net: nn.Module) -> Target:
    """The target, once it fits the net; ReedError naming both values where it does not."""
    where = f"align.{name}"
    if not name or hasattr(nn.ModuleDict(), name):
        raise ReedError(f"{where}: {name!r} cannot name a head; choose another name")
    if config.hidden < 1:
        raise ReedError(f"{where}.hidden is {config.hidden}, it must be at least 1")
    if field.kind not in MATCH:
        raise ReedError(
            f"{where}: {config.target} is of kind {field.kind!r}, not one of {list(MATCH)}"
        )
    taps = net.taps()
    if not 1 <= config.tap <= len(taps):
        raise ReedError(f"{where}.tap is {config.tap}, the net has taps 1 to {len(taps)}")
    tokens = taps[config.tap - 1].tokens
    shape = codecs.codec_of(field).decoded_shape(field)
    if field.kind == "token" and shape[0] not in (None, tokens):
        raise ReedError(
            f"{where}: {config.target} has {shape[0]} tokens, the net {tokens} at tap "
            f"{config.tap}; encode on the net's grid or change its patch size"
        )
    return Target(config, field, TimeWeight.of(config.time_weight, f"{where}.time_weight"))


@dataclass(frozen=True)
class Aligned:
    """What a step needs of the targets: losses to descend, cosines to look at.

    losses: name -> -w(t) cos, [B]; cosines: name -> unweighted, [B], detached.
    """

    losses: dict[str, Tensor]
    cosines: dict[str, Tensor]


class AlignedNet(nn.Module):
    """A net and one projector per target; the net itself knows nothing of alignment.

    The loss of a target is minus the mean over tokens of the cosine between the projected hidden
    state and the representation, as in REPA (arXiv 2410.06940, equation 8), times w(t) per sample.
    """

    def __init__(self, net: nn.Module, targets: Mapping[str, Target]) -> None:
        super().__init__()
        self.net = net
        self.targets = dict(targets)
        taps = net.taps()
        self._slots = {name: slot(name) for name in targets}
        self.heads = nn.ModuleDict()
        for name, target in targets.items():
            width = taps[target.config.tap - 1].width
            head = projector(width, target.config.hidden, target.channels)
            self.heads[self._slots[name]] = head

    def repeated(self) -> list[nn.Module]:
        """The parts that torch.compile takes one by one."""
        return [*self.net.repeated(), *self.heads.values()]

    def forward(self, noised: Noised, batch: Batch) -> tuple[Any, Aligned]:
        """The net's prediction, and every target's loss and cosine, [B]."""
        taps = sorted({target.config.tap for target in self.targets.values()})
        prediction, states = self.net(**noised.inputs, taps=taps)
        losses, cosines = {}, {}
        for name, target in self.targets.items():
            hidden = states[target.config.tap]
            if target.config.probe:
                hidden = hidden.detach()
            projected = MATCH[target.field.kind](self.heads[self._slots[name]], hidden, batch.mask)
            similarity = _cosine(projected, batch.targets[name], batch.mask)
            losses[name] = -target.weight(noised.t) * similarity
            cosines[name] = similarity.detach()
        return prediction, Aligned(losses, cosines)


def slot(name: str) -> str:
    """The key of a target's head in `heads`: nn.ModuleDict refuses dots, which names may hold."""
    return name.replace(".", "\N{MIDDLE DOT}")


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over axis 1 of real entries only: [B, T, ...], [B, T] -> [B, ...]."""
    if mask is None:
        return values.mean(1)
    weight = mask.to(values.dtype).view(*mask.shape, *[1] * (values.ndim - 2))
    return (values * weight).sum(1) / weight.sum(1).clamp(min=1)


def _cosine(a: Tensor, b: Tensor, mask: Tensor | None) -> Tensor:
    """Mean cosine per sample: [B, ..., C] twice -> [B], in float32 whatever the autocast."""
    with torch.autocast(a.device.type, enabled=False):
        cos = (F.normalize(a.float(), dim=-1) * F.normalize(b.float(), dim=-1)).sum(-1)
        return cos if cos.ndim == 1 else masked_mean(cos, mask)
