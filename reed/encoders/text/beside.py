"""Captions that the source reads beside its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless


@ENCODERS.register("captions-beside")
class CaptionsBeside(Weightless):
    """The captions that lie beside the images, as the source reads them.

    The field ``text`` is the caption without surrounding whitespace.
    """

    reads = ("caption",)
    fields = (Field("text", "text", (), "utf8"),)

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return one caption per sample.

        Raises:
            BadSample: A caption is empty.
        """
        captions = [sample["caption"].strip() for sample in samples]
        if not all(captions):
            raise BadSample("the caption beside it is empty")
        return {"text": captions}
