"""The autoencoder that decodes latents into images: as a rule the one that encoded them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from reed import stage_one
from reed.cache.schema import Column, Field
from reed.errors import ReedError
from reed.picture import ROUNDING

USUAL = "sd-vae"  # encoder of latents whose column is not known
OF_TOKENS = "rae-dinov2-b"  # decoder of tokens whose own encoder has none


@runtime_checkable
class Decodes(Protocol):
    """An encoder that can also decode.

    Attributes:
        precision: Precision of the computation.
    """

    precision: str

    def load(self, device: str) -> None:
        """Load the weights to a device."""
        ...

    def decode(self, latents: np.ndarray, half: float) -> np.ndarray:
        """Decode latents.

        Args:
            latents: Array [B, C, h, w], or tokens [B, T, C].
            half: Number added to pixel values before they are rounded down.

        Returns:
            Images, uint8 [B, H, W, C].
        """
        ...


@runtime_checkable
class Imported(Protocol):
    """An encoder that imports arrays which another encoder made.

    Attributes:
        decoder: Name of the encoder that made them.
    """

    decoder: str


class Decoder:
    """An encoder of stage one that decodes, with the facts that identify it.

    Args:
        encoder: The encoder.
        name: Its name.
        weights: The sha256 of its weights.
        said: Messages for the user.

    Attributes:
        recipe: Name, weights and precision, for the recipe of the samples.
        said: Messages for the user.
    """

    def __init__(self, encoder: Decodes, name: str, weights: str, said: list[str]) -> None:
        self._encoder, self.said = encoder, said
        self.recipe = {"encoder": name, "weights": weights, "precision": encoder.precision}

    def load(self, device: str) -> None:
        """Load the weights to a device."""
        self._encoder.load(device)

    def images(self, latents: np.ndarray, rounding: str) -> np.ndarray:
        """Decode latents one at a time.

        In a batch, the rounding of an image could depend on the size of the batch.

        Args:
            latents: Array [B, C, h, w], or tokens [B, T, C], in the scale of the cache.
            rounding: Rounding of pixels, a name in reed.picture.ROUNDING.

        Returns:
            Images, uint8 [B, H, W, 3].
        """
        half = ROUNDING[rounding]
        return np.concatenate([self._encoder.decode(z[None], half) for z in latents])


def can_decode(column: Column | None) -> bool:
    """Return whether the encoder of a column, if it is known, can also decode."""
    if column is None:
        return False
    try:
        encoder = stage_one.make_encoder(column.encoder, Path.cwd(), column.options)
    except ReedError:  # such as a user's own, whose module is not here
        return False
    return isinstance(encoder, Decodes)


def find(column: Column | None, field: Field, weights: str) -> Decoder:
    """Find the decoder for the latents of a field, without loading it.

    Args:
        column: Column that the net was trained on; None if it is not known.
        field: Field of the latents.
        weights: Path of weights to use instead of the column's; empty for the column's.

    Raises:
        ReedError: The encoder of the column cannot decode, or its weights do not exist, or they
            differ from those that encoded the column.
    """
    name, options = (column.encoder, dict(column.options)) if column else (USUAL, {})
    if field.kind == "token" and not can_decode(column):
        name, column = OF_TOKENS, None
        if weights and not Path(weights).exists():
            raise ReedError(
                f"--vae {weights}: there is nothing; give the folder of an AutoencoderRAE that was "
                "trained on such tokens, or leave --vae out to keep the tokens"
            )
    encoder = stage_one.make_encoder(name, Path.cwd(), options)

    # The column of an importing encoder does not record the settings of the real one.
    if isinstance(encoder, Imported):
        name, column = encoder.decoder, None
    if column is None:
        options = _options_for(field)
    if weights:
        options["weights"] = weights
    encoder = stage_one.make_encoder(name, Path.cwd(), options)
    if not isinstance(encoder, Decodes):
        raise ReedError(f"encoder {name!r} of the latents cannot decode; keep them: --vae none")

    try:
        hashed = _weights(encoder.revision())
    except ReedError as error:
        raise ReedError(f"{error} (reed-sample: --vae PATH; --vae none keeps latents)") from error
    messages = []
    if column and hashed != _weights(column.revision):
        problem = (
            f"column {column.name!r} was encoded by weights {_weights(column.revision)}, those "
            f"{'of --vae ' + weights if weights else 'found'} are {hashed}"
        )
        if not weights:
            raise ReedError(f"{problem}; give the right ones or take others on purpose: --vae PATH")
        messages.append(problem)
    return Decoder(encoder, name, hashed, messages)


def _weights(revision: str) -> str:
    """Return the first word of a revision, "sha256:…"."""
    return revision.partition(" ")[0]


def _options_for(field: Field) -> dict[str, Any]:
    """Return the settings of the usual autoencoder for the latents of a field.

    The autoencoder checks all of them except the resolution.
    """
    if field.kind == "token":
        tokens, channels = field.sizes
        return {"channels": channels, "grid": math.isqrt(tokens)}
    channels, height, _ = field.sizes
    settings: dict[str, Any] = {"channels": channels // 2, "resolution": height * 8}
    return settings | {"scale": field.scale[0], "shift": field.shift[0]}
