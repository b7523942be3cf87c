"""The protocol of a domain: batches, noise, loss and samples of one kind of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """The samples of one step, on the device.

    Attributes:
        data: Values that the domain's `collate` made, name -> [B, ...].
        targets: Alignment target -> decoded representation [B, ...].
        mask: Tokens that count in the loss and in alignment are True, [B, T]; None if all count.
        neighbours: Tokens for which targets of kind "pair" are stored, [B, T, N]; -1 for none.
    """

    data: dict[str, Tensor]
    targets: dict[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    neighbours: Tensor | None = None


@dataclass(frozen=True)
class Noised:
    """A noised batch.

    Attributes:
        inputs: Keyword arguments of the net.
        t: Times of the samples, [B]; 0 is data and 1 is noise.
        target: What the net should predict.
        drawn: Times as they were drawn, before a `Warp`, [B]; None if there was none.
    """

    inputs: dict[str, Tensor]
    t: Tensor
    target: Tensor
    drawn: Tensor | None = None

    @property
    def clock(self) -> Tensor:
        """Times as they were drawn, [B]."""
        return self.t if self.drawn is None else self.drawn


# Maps drawn times [B] to those of x, where a representation runs ahead of x (see reed.guides).
Warp = Callable[[Tensor], Tensor]


class Domain(Protocol):
    """One kind of data.

    An implementation is a frozen dataclass whose fields are its settings. It may also implement
    Sized, Bounded, Standardises, Named, Asking, Published, Continues, AutoGuided and FixedShapes.

    Attributes:
        roles: Entries that the recipe's [data] table must have, such as ("x", "label").
        losses: Names of the losses that `loss` returns.
        sampling: Dataclass of the options of `generate`, which `reed-sample --set` takes (see
            reed.config.option). Its property `name` is a short form of the options, for file names.
    """

    roles: tuple[str, ...]
    losses: tuple[str, ...]
    sampling: type

    def net(self, fields: Mapping[str, Field]) -> Net:
        """Return a newly initialised net for data of these fields (role -> field)."""
        ...

    def collate(
        self,
        values: Mapping[str, Tensor],
        fields: Mapping[str, Field],
        targets: dict[str, Tensor],
        mask: Tensor | None = None,
    ) -> Batch:
        """Make a batch.

        Args:
            values: Role -> decoded values, [B, ...].
            fields: Role -> cached field.
            targets: Alignment target -> decoded representation, [B, ...].
            mask: Real tokens are True, [B, T]; None if all samples have the same length.
        """
        ...

    def corrupt(self, batch: Batch, draws: Draws, warp: Warp | None = None) -> Noised:
        """Add noise to a batch; every random number comes from `draws`.

        Args:
            batch: The batch.
            draws: Random numbers of the step.
            warp: Changes the times after they are drawn; None to keep them.
        """
        ...

    def loss(self, prediction: Any, noised: Noised, batch: Batch) -> dict[str, Tensor]:
        """Return loss name -> [B], one value for each sample."""
        ...

    def generate(
        self, net: nn.Module, fields: Mapping[str, Field], indices: range, options: Any
    ) -> dict[str, Any]:
        """Draw samples from a trained net.

        Args:
            net: The net.
            fields: Role -> cached field.
            indices: Numbers of the samples. A sample depends only on its number and on the seed in
                the options.
            options: Instance of `sampling`.

        Returns:
            Name -> array [len(indices), ...].
        """
        ...

    def picture(self, samples: Mapping[str, Any], fields: Mapping[str, Field]) -> np.ndarray:
        """Draw the samples that `generate` returned as one picture, [H, W, 1 or 3] uint8."""
        ...


@runtime_checkable
class Sized(Protocol):
    """A domain that needs the numbers of tokens of the samples in its cache."""

    def sized(self, lengths: Sequence[int]) -> Domain:
        """Return the domain with the lengths of all samples."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A domain with roles whose numbers must stay below one of its settings.

    Attributes:
        limits: Role -> name of the setting.
    """

    limits: Mapping[str, str]


@runtime_checkable
class Standardises(Protocol):
    """A domain that may generate tokens, which its net sees standardised.

    Attributes:
        standardised: Roles; if the field is tokens, its scale and shift become those that give
            each channel of the column the mean 0 and the standard deviation 1.
    """

    standardised: tuple[str, ...]


@runtime_checkable
class Named(Protocol):
    """A domain whose sampling options may name classes."""

    def with_names(self, options: Any, names: Sequence[str]) -> Any:
        """Return sampling options with numbers in place of names of classes.

        Args:
            options: The options.
            names: Names of the classes, by number; empty if the data names none.

        Raises:
            ReedError: There is no such class.
        """
        ...


@runtime_checkable
class Asking(Protocol):
    """A domain whose samples are for something that the user names.

    Attributes:
        asks: The options that reed-sample needs, as the user types them: "--structure FILE".
    """

    asks: str


@runtime_checkable
class Published(Protocol):
    """A domain whose nets can be exported in a public layout, by reed-train export."""

    def published(self) -> dict[str, Any]:
        """Return the settings that the weights do not show, under the public code's names."""
        ...


@runtime_checkable
class Continues(Protocol):
    """A domain with settings that public weights state, for runs that start from such weights.

    Attributes:
        continues: Dotted name of the setting -> names that it has in files of weights.
    """

    continues: Mapping[str, tuple[str, ...]]


@runtime_checkable
class AutoGuided(Protocol):
    """A domain whose `generate` also takes two nets, a reed.flows.autoguidance.Pair.

    Attributes:
        shared: Names of what both must have in common besides the fields: attributes of the domain.
    """

    shared: tuple[str, ...]


@runtime_checkable
class FixedShapes(Protocol):
    """A domain whose samples can be drawn with a compiled net (reed-sample --compile).

    Attributes:
        fixed_shapes: Whether `generate` calls the net with inputs of the same shapes, in the same
            order, for every batch of one size.
    """

    fixed_shapes: bool
