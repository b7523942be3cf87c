"""The 1,797 handwritten digits (8x8, 17 grey levels) that ship with scikit-learn.

The data set is small enough to run both stages on a laptop in minutes, as ``make demo`` does. A net
learns these digits within a few hundred steps with or without a teacher, so this pipeline
shows that all parts work together, not the speed-up that the paper reports.
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="image",
    source="digits",
    base=("pixels",),
    encoders=("digits-vit", "describe", "caption-ngrams"),
    shard_size=256,
)
