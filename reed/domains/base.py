"""What the trainer asks of a domain: collate, corrupt, loss, and samples at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from reed.cache.schema import Field
from reed.nets import Net
from reed.registry import Registry
from reed.seeding import Draws

DOMAINS = Registry("domain", "reed.domains")


@dataclass(frozen=True)
class Batch:
    """What one step trains on, on the device.

    data: role -> [B, ...], as the domain's collate made it; targets: alignment target -> decoded
    representation [B, ...]; mask: [B, T], True on tokens that count, or None where all do;
    neighbours: [B, T, N], the tokens at which targets of kind pair are stored, -1 for none.
    """

    data: dict[str, Tensor]
    targets: dict[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    neighbours: Tensor | None = None


@dataclass(frozen=True)
class Noised:
    """A corrupted batch: what the net is called with, its times, and what it should answer.

    inputs: keyword arguments of the net; t: [B], 0 is data and 1 is noise; target: of the loss.
    """

    inputs: dict[str, Tensor]
    t: Tensor
    target: Tensor


class Domain(Protocol):
    """One kind of data. An implementation is a frozen dataclass: its settings are its fields.

    roles: the entries of the recipe's [data] table that it needs, such as ("x", "label");
    losses: the names of what `loss` returns; sampling: the dataclass of the options of `generate`,
    which `reed-sample --set` takes (see reed.config.option), with a property `name` that says them
    in short, as part of a file's name. What a domain may do besides: Sized, Bounded and
    Published.
    """

    roles: tuple[str, ...]
    losses: tuple[str, ...]
    sampling: type

    def net(self, fields: Mapping[str, Field]) -> Net:
        """A freshly initialised net for data of these fields (by role)."""
        ...

    def collate(
        self,
        values: Mapping[str, Tensor],
        fields: Mapping[str, Field],
        targets: dict[str, Tensor],
        mask: Tensor | None = None,
    ) -> Batch:
        """A batch from decoded values (by role)."""
        ...

    def corrupt(self, batch: Batch, draws: Draws) -> Noised:
        """Noise the batch; every random number comes from `draws`."""
        ...

    def loss(self, prediction: Any, noised: Noised, batch: Batch) -> dict[str, Tensor]:
        """Loss name -> [B], one value per sample."""
        ...

    def generate(
        self, net: nn.Module, fields: Mapping[str, Field], indices: range, options: Any
    ) -> dict[str, Any]:
        """Samples number `indices` of a run's net: name -> array [len(indices), ...].

        Each is a function of the seed in the options and of its number alone.
        """
        ...

    def picture(self, samples: Mapping[str, Any], fields: Mapping[str, Field]) -> np.ndarray:
        """What `generate` returned, as one picture [H, W, 1 or 3] uint8."""
        ...


@runtime_checkable
class Sized(Protocol):
    """A domain that has to know how many tokens the samples of its cache have."""

    def sized(self, lengths: Sequence[int]) -> Domain:
        """The domain that knows the lengths of all samples."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A domain of which some roles are numbers that must stay below a setting of the domain."""

    limits: Mapping[str, str]  # role -> name of the setting


@runtime_checkable
class Published(Protocol):
    """A domain whose nets have a public layout of checkpoints, which reed-train export writes."""

    def published(self) -> dict[str, Any]:
        """What the weights do not show, under the names that the public code gives it."""
        ...
