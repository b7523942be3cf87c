"""Alignment of hidden states with cached representations: one head and one loss per target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from reed.domains.base import Batch, Noised
from reed.guides.guide import attach, guides_of
from reed.guides.settings import GuideSpec
from reed.guides.training import Drawn, Errors, Pass
from reed.nets import GraphState, Net, State, Tap
from reed.nets.layers import GridConv, projector
from reed.state_dict import slot
from reed.train import grids, match
from reed.train.targets import AlignConfig, Target, check_target

__all__ = ["AlignConfig", "Aligned", "AlignedNet", "Target", "check_target"]


@dataclass(frozen=True)
class Aligned:
    """The alignment of one batch.

    Attributes:
        losses: Target name -> its loss, and guide -> its loss, [B].
        cosines: Target name -> cosine without weight, [B], detached; for the log.
        grams: The same of targets that are compared by their Gram matrices: the mean squared
            difference.
        errors: Guide -> errors of z, for the log.
    """

    losses: dict[str, Tensor]
    cosines: dict[str, Tensor]
    grams: dict[str, Tensor]
    errors: dict[str, Errors]

    def logged(self) -> dict[str, Tensor]:
        """Return the cosines and the differences of Gram matrices by their names in the log."""
        found = {f"cos/{name}": value for name, value in self.cosines.items()}
        return found | {f"gram/{name}": value for name, value in self.grams.items()}


class AlignedNet(nn.Module):
    """A net and one head per target; the net itself knows nothing about alignment.

    The modules of guides are a part of the net, `net.guides`, because sampling needs them.

    The loss of a target is minus the mean over tokens of the cosine between the projected hidden
    state and the representation, as in REPA (arXiv 2410.06940, equation 8), times w(t) per sample.
    Settings of a target change its head, what it is compared with, and the weights of its tokens.

    Args:
        net: The net.
        targets: Alignment targets by name.
        guides: Guides by name (see reed.guides).

    Attributes:
        heads: The heads, by `slot` of the target's name.
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
            self.heads[self._slots[name]] = _head(target, taps[target.config.tap - 1])

    def repeated(self) -> list[nn.Module]:
        """Return the modules that torch.compile compiles one by one."""
        return [*self.net.repeated(), *self.heads.values()]

    def resting(self, released: Iterable[str]) -> list[nn.Parameter]:
        """Return the weights of the heads of targets that have been released."""
        return [p for name in released for p in self.heads[self._slots[name]].parameters()]

    def forward(
        self, noised: Noised, batch: Batch, drawn: Mapping[str, Drawn] | None = None
    ) -> tuple[Any, Aligned]:
        """Return the net's prediction, and the loss and cosine of every target, [B].

        Args:
            noised: The noised batch.
            batch: The batch; a target that it lacks has been released and is left out.
            drawn: What was drawn for each guide; None for a net without guides.
        """
        targets = {name: each for name, each in self.targets.items() if name in batch.targets}
        taps = {target.config.tap for target in targets.values()}
        found = Aligned({}, {}, {}, {})

        # A net that takes no guides need not know the keyword `extra`.
        guides = guides_of(self.net)
        if guides is None or drawn is None:
            prediction, states = self.net(**noised.inputs, taps=sorted(taps))
        else:
            one = Pass(self.net, guides, noised.inputs, noised.t, batch.mask, drawn)
            prediction, states, terms = one.forward(taps)
            found = replace(found, losses=terms.losses, errors=terms.errors)

        for name, target in targets.items():
            pair = self._pair(name, target, states[target.config.tap], batch)
            weight = target.weight(noised.t)
            if target.config.loss == "gram":
                differs = match.gram(pair)
                found.losses[name] = weight * differs
                found.grams[name] = differs.detach()
                continue
            cos = match.cosines(pair)
            similarity = match.over_entries(cos, pair)
            found.cosines[name] = similarity.detach()
            if target.config.token_weight:
                similarity = match.over_entries(match.token_weights(cos, pair) * cos, pair)
            found.losses[name] = -weight * similarity
        return prediction, found

    def _pair(self, name: str, target: Target, hidden: State, batch: Batch) -> match.Pair:
        """Return what is compared: projected hidden states, and the representation as it is set."""
        config, z = target.config, batch.targets[name]
        hidden = _detached(hidden) if config.probe else hidden
        if target.resized_from:
            z = grids.resized(z, target.grid, config.resize)
        if config.normalize.kind == "spatial":
            z = grids.spatial_norm(z, config.normalize.gamma, batch.mask)
        return match.MATCH[target.field.kind](self.heads[self._slots[name]], hidden, z, batch)


def _head(target: Target, tap: Tap) -> nn.Module:
    """Make the head of a target, [..., width of the tap] -> [..., channels of the target]."""
    if target.config.head == "conv":
        return GridConv(tap.width, target.channels)
    width = tap.edges if target.field.kind == "pair" else tap.width
    return projector(width, target.config.hidden, target.channels)


def _detached(hidden: State) -> State:
    if isinstance(hidden, GraphState):
        return replace(hidden, nodes=hidden.nodes.detach(), edges=hidden.edges.detach())
    return hidden.detach()
