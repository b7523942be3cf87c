"""Encoders of captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
class CaptionNgrams(Weightless):
    """A caption as its hashed words and word pairs, projected to 64 channels of unit norm.

    embedding: float32 [64]. There is nothing to learn and nothing to download: the vocabulary is
    a hash (MurmurHash3) and the projection is random signs (Achlioptas, 2003).
    """

    reads = ("describe/caption",)
    fields = (Field("embedding", "sample", (WIDTH,), "float32"),)
    licence = "MIT"

    def revision(self) -> str:
        """Everything the embedding depends on: the vectoriser's settings and the projection."""
        first, last = NGRAMS
        return f"murmur3-words{first}to{last}-{BUCKETS}-signed-l2+signs-pcg64-{SEED}-{WIDTH}"

    def load(self, device: str) -> None:
        """The vectoriser and the projection; they stay on the CPU."""
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
        """embedding [B, 64]; BadSample when a caption has no word of two letters or more."""
        captions = [sample["describe/caption"] for sample in samples]
        embedding = self._vectoriser.transform(captions) @ self._projection  # [B, 64]
        norm = np.linalg.norm(embedding, axis=1, keepdims=True)
        for caption, length in zip(captions, norm[:, 0], strict=True):
            if length == 0:
                raise BadSample(f"the caption {caption!r} has no words to embed")
        return {"embedding": (embedding / norm).astype(np.float32)}


def projection() -> np.ndarray:
    """The random signs, float64 [BUCKETS, WIDTH].

    Raw bits of PCG64, because numpy keeps that stream between versions, unlike standard_normal's.
    """
    rows = np.random.PCG64(SEED).random_raw(BUCKETS).astype("<u8")
    bits = np.unpackbits(rows.view(np.uint8)).reshape(BUCKETS, WIDTH)
    return 2.0 * bits - 1.0
