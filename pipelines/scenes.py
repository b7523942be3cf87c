"""Generated scenes of 32x32: one to three objects with shape, colour, texture, place and a rule.

It has 16,000 images, captions as the synthetic modality, and a weak label (dark or light ground)
that does not depend on the objects. The encoders were trained on another split (see
reed.experiments.train_scenes). ``make bench-speedup`` measures on this data set how many steps
alignment saves; see docs/measured.md.
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="image",
    source="scenes",
    base=("rgb-32",),
    encoders=("scenes-conv", "scenes-caption", "scenes-text"),
    shard_size=1000,
)
