"""Alignment of hidden states with cached representations: one head and one cosine per target."""

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
from reed.flows.time_weight import TimeWeight
from reed.guides.guide import attach, guides_of, pooled
from reed.guides.settings import GuideSpec
from reed.guides.training import Drawn, Errors, Pass
from reed.nets import GraphState, Net, State, nodes_of
from reed.nets.layers import masked_mean, projector
from reed.state_dict import slot


@dataclass(frozen=True)
class AlignConfig:
    """One entry of the recipe's [align] table, under the name of the target.

    Attributes:
        target: "column/field" of the cache.
        tap: Block whose hidden states are aligned, counted from 1.
        hidden: Width of the projector (REPA: three layers of 2048).
        time_weight: Weight of a sample by its time (see reed.flows.time_weight).
        probe: Whether the head is trained on detached hidden states, so that it measures the net
            without changing it.
    """

    target: str
    tap: int
    hidden: int = 2048
    time_weight: Any = "constant"
    probe: bool = False


@dataclass(frozen=True)
class Target:
    """An alignment target that fits the net.

    Attributes:
        config: Its settings.
        field: The cached field.
        weight: Its time weight.
    """

    config: AlignConfig
    field: Field
    weight: TimeWeight

    @property
    def channels(self) -> int:
        """Channels of the decoded field, which the head must put out."""
        channels = codecs.codec_of(self.field).decoded_shape(self.field)[-1]
        assert channels is not None, self.field  # only the first length of a field may vary
        return channels


def _tokens(head: nn.Module, hidden: State, target: Tensor, batch: Batch) -> Tensor:
    """Compare each token [B, T, D] with the same token of the target [B, T, C]."""
    return _cosine(head(nodes_of(hidden)), target, batch.mask)


def _pooled(head: nn.Module, hidden: State, target: Tensor, batch: Batch) -> Tensor:
    """Compare the projected mean over real tokens with the target [B, C].

    As in REED, the hidden states are pooled first, then projected.
    """
    return _cosine(head(pooled(hidden, batch.mask)), target, None)


def _edges(head: nn.Module, hidden: State, target: Tensor, batch: Batch) -> Tensor:
    """Compare each edge [B, T, K, E] with the target's pair [B, T, N, C] of the same two tokens.

    The pairs are stored for the tokens in `batch.neighbours`. An edge to any other token has no
    target and does not count. Nor does an edge of which either token does not count.
    """
    assert isinstance(hidden, GraphState) and batch.neighbours is not None
    if target.shape[2] != batch.neighbours.shape[2]:
        raise ReedError(
            f"a pair representation is stored for {target.shape[2]} neighbours of a token, but "
            f"the cache lists {batch.neighbours.shape[2]}; build it again from this cache"
        )
    same = hidden.index.unsqueeze(-1) == batch.neighbours.unsqueeze(-2)  # [B, T, K, N]
    stored = same.int().argmax(-1, keepdim=True).expand(-1, -1, -1, target.shape[-1])
    counts = hidden.real & same.any(-1)
    if batch.mask is not None:
        ends = batch.mask.gather(1, hidden.index.flatten(1)).view_as(counts)
        counts = counts & ends & batch.mask.unsqueeze(-1)
    return _cosine(head(hidden.edges), target.gather(2, stored), counts)


# head, hidden states, target, batch -> mean cosine of each sample, [B]
Match = Callable[[nn.Module, State, Tensor, Batch], Tensor]
MATCH: dict[str, Match] = {"token": _tokens, "sample": _pooled, "pair": _edges}


def check_target(name: str, config: AlignConfig, field: Field, net: Net) -> Target:
    """Check that a target fits the net.

    Args:
        name: Name of the target.
        config: Its settings.
        field: The cached field.
        net: The net; only its shape is used.

    Raises:
        ReedError: The target does not fit; the message has the values on both sides.
    """
    where = f"align.{name}"
    if not name or name in dir(nn.ModuleDict()):
        raise ReedError(f"{where}: {name!r} cannot name a head; choose another name")
    at_least(1, f"{where}.", hidden=config.hidden)
    if field.kind not in MATCH:
        raise ReedError(
            f"{where}: {config.target} is of kind {field.kind!r}, not one of {list(MATCH)}"
        )

    taps = net.taps()
    if not 1 <= config.tap <= len(taps):
        raise ReedError(f"{where}.tap is {config.tap}, the net has taps 1 to {len(taps)}")

    # A field or a net with samples of varying length cannot be compared before there is a batch.
    tokens = taps[config.tap - 1].tokens
    shape = codecs.codec_of(field).decoded_shape(field)
    if field.kind == "token" and shape[0] not in (None, tokens):
        raise ReedError(
            f"{where}: {config.target} has {shape[0]} tokens, the net {tokens} at tap "
            f"{config.tap}; encode on the net's grid or change its patch size"
        )
    if field.kind == "pair" and not taps[config.tap - 1].edges:
        with_edges = [str(n) for n, tap in enumerate(taps, 1) if tap.edges]
        raise ReedError(
            f"{where}: {config.target} is of kind 'pair', and the net has no edges at tap "
            f"{config.tap}; it has them at {', '.join(with_edges) or 'none'}"
        )

    return Target(config, field, TimeWeight.of(config.time_weight, f"{where}.time_weight"))


@dataclass(frozen=True)
class Aligned:
    """The alignment of one batch.

    Attributes:
        losses: Target name -> -w(t) cos, and guide -> its loss, [B].
        cosines: Target name -> cosine without weight, [B], detached; for the log.
        errors: Guide -> errors of z, for the log.
    """

    losses: dict[str, Tensor]
    cosines: dict[str, Tensor]
    errors: dict[str, Errors]


class AlignedNet(nn.Module):
    """A net and one projector per target; the net itself knows nothing about alignment.

    The modules of guides are a part of the net, `net.guides`, because sampling needs them.

    The loss of a target is minus the mean over tokens of the cosine between the projected hidden
    state and the representation, as in REPA (arXiv 2410.06940, equation 8), times w(t) per sample.

    Args:
        net: The net.
        targets: Alignment targets by name.
        guides: Guides by name (see reed.guides).

    Attributes:
        heads: The projectors, by `slot` of the target's name.
    """

    def __init__(
        self,
        net: Net,
        targets: Mapping[str, Target],
        guides: Mapping[str, GuideSpec] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        attach(net, guides or {})
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
        """Return the modules that torch.compile compiles one by one."""
        return [*self.net.repeated(), *self.heads.values()]

    def forward(
        self, noised: Noised, batch: Batch, drawn: Mapping[str, Drawn] | None = None
    ) -> tuple[Any, Aligned]:
        """Return the net's prediction, and the loss and cosine of every target, [B].

        Args:
            noised: The noised batch.
            batch: The batch.
            drawn: What was drawn for each guide; None for a net without guides.
        """
        taps = {target.config.tap for target in self.targets.values()}
        losses, cosines, errors = {}, {}, {}

        # A net that takes no guides need not know the keyword `extra`.
        guides = guides_of(self.net)
        if guides is None or drawn is None:
            prediction, states = self.net(**noised.inputs, taps=sorted(taps))
        else:
            one = Pass(self.net, guides, noised.inputs, noised.t, batch.mask, drawn)
            prediction, states, terms = one.forward(taps)
            losses, errors = terms.losses, terms.errors

        for name, target in self.targets.items():
            hidden = states[target.config.tap]
            if target.config.probe:
                hidden = _detached(hidden)
            head = self.heads[self._slots[name]]
            similarity = MATCH[target.field.kind](head, hidden, batch.targets[name], batch)
            losses[name] = -target.weight(noised.t) * similarity
            cosines[name] = similarity.detach()
        return prediction, Aligned(losses, cosines, errors)


def _detached(hidden: State) -> State:
    if isinstance(hidden, GraphState):
        return replace(hidden, nodes=hidden.nodes.detach(), edges=hidden.edges.detach())
    return hidden.detach()


def _cosine(a: Tensor, b: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean cosine per sample, twice [B, ..., C] -> [B], in float32 despite autocast."""
    with torch.autocast(a.device.type, enabled=False):
        cos = (F.normalize(a.float(), dim=-1) * F.normalize(b.float(), dim=-1)).sum(-1)
        if cos.ndim == 1:
            return cos
        return masked_mean(cos.flatten(1), None if mask is None else mask.flatten(1))
