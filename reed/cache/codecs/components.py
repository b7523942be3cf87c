"""The number of components that ``pca:K`` keeps: as many as were asked for, or could be fitted."""

from __future__ import annotations

import re
from dataclasses import replace

from reed.cache.codecs.base import State
from reed.cache.schema import Field

WHITENED = re.compile(r"(?:pca:([1-9][0-9]{0,5})|standard)(\+int8)?")  # codecs that whiten
ASKED = "asked"  # entry of a calibration: the K that was asked for, if it could not be fitted


def components(codec: str) -> int:
    """Return the K of ``pca:K``; 0 for other codecs."""
    match = WHITENED.fullmatch(codec)
    return int(match[1] or 0) if match else 0


def lowered(field: Field, vectors: int | None = None) -> Field:
    """Return a ``pca:K`` field with the number of components that can be fitted; others as given.

    Args:
        field: The field.
        vectors: Number of vectors to fit to; None if it is not known yet, which leaves the number
            of channels as the limit.

    Returns:
        The field. Where not even one component can be fitted, its codec is the one that was given.
    """
    kept, channels = components(field.codec), field.shape[-1] if field.shape else None
    if not kept or not channels:
        return field
    limits = [kept, channels] + ([] if vectors is None else [vectors - 1])
    return with_components(field, min(limits)) if min(limits) > 0 else field


def with_components(field: Field, kept: int) -> Field:
    """Return a field of ``pca:K`` with another K."""
    return replace(field, codec=re.sub("[0-9]+", str(kept), field.codec, count=1))


def asked(field: Field, state: State) -> str:
    """Return the codec that was asked for, which has more components than could be fitted."""
    return with_components(field, int(state[ASKED])).codec if ASKED in state else field.codec
