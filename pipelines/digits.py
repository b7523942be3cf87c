"""The 1,797 handwritten digits (8x8, 17 grey levels) that ship with scikit-learn.

Small enough to go through both stages on a laptop in minutes; `make demo` does. Eight-by-eight
digits are learned within a few hundred steps with or without a teacher, so this pipeline shows
the machinery and not the speed-up of the paper.
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="image",
    source="digits",
    base=("pixels",),
    encoders=("digits-vit", "describe", "caption-ngrams"),
    shard_size=256,
)
