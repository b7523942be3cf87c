"""What encoders share: those without weights, and those whose weights are public."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from reed import weights as files
from reed.weights import Found, Origin


class Weightless:
    """An encoder that computes its output with no weights, so there is nothing to load.

    version: what the output depends on besides the inputs; raise it when the output would change.
    """

    licence: ClassVar[str] = "as the data"
    batch_size: ClassVar[int] = 256
    version: ClassVar[str] = "1"

    def revision(self) -> str:
        """The version of the computation."""
        return self.version

    def load(self, device: str) -> None:
        """Nothing to load."""


class PublicWeights:
    """An encoder with public weights: those of its `origin`, or those at the path `weights`."""

    weights: str | None

    if TYPE_CHECKING:  # at run time a dataclass would take this for the default of its field `name`

        @property
        def name(self) -> str:
            """What messages call it."""
            ...

    @property
    def origin(self) -> Origin:
        """Where the public weights are."""
        raise NotImplementedError

    def prefetch(self) -> Found:
        """Download the public weights, unless others are given."""
        return files.prefetch(self.name, self.origin, self.weights)

    def _find(self) -> Found:
        return files.find(self.name, self.origin, self.weights)
