"""An encoder of captions without weights: hashed n-grams under a fixed random projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders.base import Weightless

WIDTH = 64  # one signed bit per channel and n-gram bucket: a row is one 64-bit random number
BUCKETS = 4096
NGRAMS = (1, 2)  # words
SEED = 20240229


@ENCODERS.register("caption-ngrams")
@dataclass
class CaptionNgrams(Weightless):
    """Hashed words and word pairs of a caption, projected to a unit vector.

    The field ``embedding`` is float32 [64]. There is nothing to learn and nothing to download: the
    vocabulary is a hash (MurmurHash3), and the projection consists of random signs (Achlioptas,
    2003).

    Attributes:
        captions: Field of the captions, COLUMN/FIELD.
    """

    captions: str = "describe/caption"

    fields = (Field("embedding", "sample", (WIDTH,), "float32"),)
    licence = "MIT"

    @property
    def reads(self) -> tuple[str, ...]:
        """The field of the captions."""
        return (self.captions,)

    def revision(self) -> str:
        """Return what the embedding depends on: the vectoriser's settings and the projection."""
        first, last = NGRAMS
        return f"murmur3-words{first}to{last}-{BUCKETS}-signed-l2+signs-pcg64-{SEED}-{WIDTH}"

    def load(self, device: str) -> None:
        """Make the vectoriser and the projection, which stay on the CPU."""
        from sklearn.feature_extraction.text import HashingVectorizer

        # Every setting is spelled out: a new default in scikit-learn must not change the meaning.
        self._vectoriser = HashingVectorizer(
            lowercase=True,
            strip_accents=None,
            stop_words=None,
            token_pattern=r"(?u)\b\w\w+\b",
            ngram_range=NGRAMS,
            analyzer="word",
            n_features=BUCKETS,
            binary=False,
            norm="l2",
            alternate_sign=True,
            dtype=np.float64,
        )
        self._projection = projection()

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``embedding`` [B, 64].

        Raises:
            BadSample: A caption has no word of two letters or more.
        """
        captions = [sample[self.captions] for sample in samples]
        embedding = self._vectoriser.transform(captions) @ self._projection  # [B, 64]
        norm = np.linalg.norm(embedding, axis=1, keepdims=True)
        for caption, length in zip(captions, norm[:, 0], strict=True):
            if length == 0:
                raise BadSample(f"the caption {caption!r} has no words to embed")
        return {"embedding": (embedding / norm).astype(np.float32)}


def projection() -> np.ndarray:
    """Return the random signs, float64 [BUCKETS, WIDTH].

    They are raw bits of PCG64, a stream that numpy keeps between versions, unlike that of
    ``standard_normal``.
    """
    rows = np.random.PCG64(SEED).random_raw(BUCKETS).astype("<u8")
    bits = np.unpackbits(rows.view(np.uint8)).reshape(BUCKETS, WIDTH)
    return 2.0 * bits - 1.0
