"""The autoencoder that turns latents into images: the one that their column was encoded with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from reed import stage_one
from reed.cache.schema import Column, Field
from reed.errors import ReedError
from reed.picture import ROUNDING

USUAL = "sd-vae"  # of latents that no column says anything of


@runtime_checkable
class Decodes(Protocol):
    """An encoder that has a way back."""

    precision: str

    def load(self, device: str) -> None:
        """Bring the weights to a device."""
        ...

    def decode(self, latents: np.ndarray, half: float) -> np.ndarray:
        """uint8 [B, H, W, C] of latents [B, C, h, w]; half: what is added before rounding down."""
        ...


@runtime_checkable
class Imported(Protocol):
    """An encoder whose arrays another one made: decoder is that one's name."""

    decoder: str


class Decoder:
    """An encoder of stage one with a method `decode(latents, half)`, and what tells it from others.

    recipe: its name, the sha256 of its weights and its precision; said: what to tell the user.
    """

    def __init__(self, encoder: Decodes, name: str, weights: str, said: list[str]) -> None:
        self._encoder, self.said = encoder, said
        self.recipe = {"encoder": name, "weights": weights, "precision": encoder.precision}

    def load(self, device: str) -> None:
        """Bring the weights to a device."""
        self._encoder.load(device)

    def images(self, latents: np.ndarray, rounding: str) -> np.ndarray:
        """uint8 [B, H, W, 3] of latents [B, C, h, w] in the scale of the cache.

        One at a time: in a batch, the rounding of each could depend on the size of the batch.
        """
        half = ROUNDING[rounding]
        return np.concatenate([self._encoder.decode(z[None], half) for z in latents])


def find(column: Column | None, field: Field, weights: str) -> Decoder:
    """What decodes latents of a field; nothing is loaded yet.

    column: that the net was trained on, None if it is not known; weights: of the autoencoder, in
    place of those that the column names. Raises ReedError when the column's encoder cannot decode,
    and when its weights are not there or others than it was encoded with.
    """
    name, options = (column.encoder, dict(column.options)) if column else (USUAL, {})
    encoder = stage_one.make_encoder(name, Path.cwd(), options)
    if isinstance(encoder, Imported):
        name, column = encoder.decoder, None
    if column is None:
        options = _of_field(field)
    if weights:
        options["weights"] = weights
    encoder = stage_one.make_encoder(name, Path.cwd(), options)
    if not isinstance(encoder, Decodes):
        raise ReedError(f"encoder {name!r} of the latents cannot decode; keep them: --vae none")
    try:
        found = _weights(encoder.revision())
    except ReedError as error:
        raise ReedError(f"{error} (reed-sample: --vae PATH; --vae none keeps latents)") from error
    said = []
    if column and found != _weights(column.revision):
        problem = (
            f"column {column.name!r} was encoded by weights {_weights(column.revision)}, those "
            f"{'of --vae ' + weights if weights else 'found'} are {found}"
        )
        if not weights:
            raise ReedError(f"{problem}; give the right ones or take others on purpose: --vae PATH")
        said.append(problem)
    return Decoder(encoder, name, found, said)


def _weights(revision: str) -> str:
    """The first word of a revision, sha256:…."""
    return revision.partition(" ")[0]


def _of_field(field: Field) -> dict[str, Any]:
    """The settings of the usual autoencoder for these latents; it checks all but the resolution."""
    channels, height, _ = field.sizes
    settings: dict[str, Any] = {"channels": channels // 2, "resolution": height * 8}
    return settings | {"scale": field.scale[0], "shift": field.shift[0]}
