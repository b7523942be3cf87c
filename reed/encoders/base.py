"""Base classes of encoders: those without weights, and those with public weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from reed import weights as files
from reed.hub import require
from reed.weights import Found, Origin


class Weightless:
    """An encoder that needs no weights, so that there is nothing to load.

    Attributes:
        licence: Licence of the output.
        batch_size: Samples per call of ``encode``.
        version: Version of the computation. Raise it with every change that alters the output.
    """

    licence: ClassVar[str] = "as the data"
    batch_size: ClassVar[int] = 256
    version: ClassVar[str] = "1"

    def revision(self) -> str:
        """Return the version of the computation."""
        return self.version

    def load(self, device: str) -> None:
        """Do nothing, because there are no weights."""


class PublicWeights:
    """An encoder with public weights, which come from its ``origin`` or from a path.

    Attributes:
        weights: Path of the weights; None to use those of ``origin``.
        libraries: Modules that the model needs.
        extra: Extra of this package that installs them.
    """

    weights: str | None
    libraries: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""

    if TYPE_CHECKING:  # at run time a dataclass would take this for the default of its field `name`

        @property
        def name(self) -> str:
            """Name of the encoder in messages."""
            ...

    @property
    def origin(self) -> Origin:
        """Location of the public weights."""
        raise NotImplementedError

    def check_libraries(self) -> None:
        """Raise ReedError if a module that the model needs is not installed."""
        require(self.name, self.libraries, self.extra)

    def prefetch(self) -> Found:
        """Download the public weights, unless ``weights`` names others."""
        return files.prefetch(self.name, self.origin, self.weights)

    def _find(self) -> Found:
        return files.find(self.name, self.origin, self.weights)
