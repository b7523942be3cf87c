"""Hidden states against cached representations: one head and one cosine per target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reed.cache.codecs import codecs
from reed.cache.schema import Field
from reed.domains.base import Batch, Noised
from reed.errors import ReedError, at_least
from reed.nets import GraphState, Net, State
from reed.nets.layers import masked_mean, projector
from reed.train.time_weight import TimeWeight


@dataclass(frozen=True)
class AlignConfig:
    """One entry of the recipe's [align] table; its name is the target's.

    target: "column/field" of the cache; tap: the block whose output is aligned, counted from 1;
    hidden: width of the projector (REPA: three layers of 2048); time_weight: see
    reed.train.time_weight; probe: train the head on detached features, so that it only measures.
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
        channels = codecs.codec_of(self.field).decoded_shape(self.field)[-1]
        assert channels is not None, self.field  # only the first length of a field may vary
        return channels


def _tokens(head: nn.Module, hidden: State, target: Tensor, batch: Batch) -> Tensor:
    """Every token [B, T, D] against the same token of the teacher [B, T, C]."""
    return _cosine(head(_nodes(hidden)), target, batch.mask)


def _pooled(head: nn.Module, hidden: State, target: Tensor, batch: Batch) -> Tensor:
    """The mean over real tokens, then the head, against [B, C] (REED: pool, then project)."""
    return _cosine(head(masked_mean(_nodes(hidden), batch.mask)), target, None)


def _edges(head: nn.Module, hidden: State, target: Tensor, batch: Batch) -> Tensor:
    """Every edge [B, T, K, E] against the teacher's pair [B, T, N, C] of the same two tokens.

    The teacher's pairs are stored at `batch.neighbours`; an edge to another token has no target
    and does not count, nor does one at a token that does not.
    """
    assert isinstance(hidden, GraphState) and batch.neighbours is not None
    if target.shape[2] != batch.neighbours.shape[2]:
        raise ReedError(
            f"a pair representation is stored for {target.shape[2]} neighbours of a token, but "
            f"the cache lists {batch.neighbours.shape[2]}; build it again from this cache"
        )
    same = hidden.index.unsqueeze(-1) == batch.neighbours.unsqueeze(-2)  # [B, T, K, N]
    place = same.int().argmax(-1, keepdim=True).expand(-1, -1, -1, target.shape[-1])
    counts = hidden.real & same.any(-1)
    if batch.mask is not None:
        ends = batch.mask.gather(1, hidden.index.flatten(1)).view_as(counts)
        counts = counts & ends & batch.mask.unsqueeze(-1)
    return _cosine(head(hidden.edges), target.gather(2, place), counts)


def _nodes(hidden: State) -> Tensor:
    return hidden.nodes if isinstance(hidden, GraphState) else hidden


Match = Callable[[nn.Module, State, Tensor, Batch], Tensor]  # -> the mean cosine, [B]
MATCH: dict[str, Match] = {"token": _tokens, "sample": _pooled, "pair": _edges}


def check_target(name: str, config: AlignConfig, field: Field, net: Net) -> Target:
    """The target, once it fits the net; ReedError naming both values where it does not."""
    where = f"align.{name}"
    if not name or hasattr(nn.ModuleDict(), name):
        raise ReedError(f"{where}: {name!r} cannot name a head; choose another name")
    at_least(1, f"{where}.", hidden=config.hidden)
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
    if field.kind == "pair" and not taps[config.tap - 1].edges:
        having = [str(n) for n, tap in enumerate(taps, 1) if tap.edges]
        raise ReedError(
            f"{where}: {config.target} is of pairs of tokens, and the net has no edges at tap "
            f"{config.tap}; it has them at {', '.join(having) or 'none'}"
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

    def __init__(self, net: Net, targets: Mapping[str, Target]) -> None:
        super().__init__()
        self.net = net
        self.targets = dict(targets)
        taps = net.taps()
        self._slots = {name: slot(name) for name in targets}
        self.heads = nn.ModuleDict()
        for name, target in targets.items():
            tap = taps[target.config.tap - 1]
            width = tap.edges if target.field.kind == "pair" else tap.width
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
                hidden = _detached(hidden)
            head = self.heads[self._slots[name]]
            similarity = MATCH[target.field.kind](head, hidden, batch.targets[name], batch)
            losses[name] = -target.weight(noised.t) * similarity
            cosines[name] = similarity.detach()
        return prediction, Aligned(losses, cosines)


def _detached(hidden: State) -> State:
    if isinstance(hidden, GraphState):
        return replace(hidden, nodes=hidden.nodes.detach(), edges=hidden.edges.detach())
    return hidden.detach()


def slot(name: str) -> str:
    """The key of a target's head in `heads`: nn.ModuleDict refuses dots, which names may hold."""
    return name.replace(".", "\N{MIDDLE DOT}")


def _cosine(a: Tensor, b: Tensor, mask: Tensor | None) -> Tensor:
    """Mean cosine per sample: [B, ..., C] twice -> [B], in float32 whatever the autocast."""
    with torch.autocast(a.device.type, enabled=False):
        cos = (F.normalize(a.float(), dim=-1) * F.normalize(b.float(), dim=-1)).sum(-1)
        if cos.ndim == 1:
            return cos
        return masked_mean(cos.flatten(1), None if mask is None else mask.flatten(1))
