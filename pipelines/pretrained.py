"""What the pipelines of real images with pretrained teachers have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reed.pipelines import Pipeline


def with_teachers(source: Mapping[str, Any], grid: int) -> Pipeline:
    """Return the pipeline of images with captions beside them, and of both their teachers.

    Args:
        source: Settings of the source.
        grid: Tokens per side of the image teacher.
    """
    settings = {
        "source": source,
        "lite0": {"weights": "data/weights/efficientnet-lite0.pth", "grid": grid},
        "sentence": {
            "weights": "data/weights/all-minilm-l6-v2",
            "dim": 384,
            "captions": "captions-beside/text",
        },
    }

    # Tokens are whitened: those of an image are much alike (see tests/bench/speedup.md).
    return Pipeline(
        domain="image",
        source="images",
        base=("image", "labels", "captions-beside"),
        encoders=("lite0=timm:tf_efficientnet_lite0", "sentence"),
        shard_size=1000,
        settings=settings,
        codecs=("lite0/tokens=pca:64+int8",),
    )
