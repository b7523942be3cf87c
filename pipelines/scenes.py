"""Generated 32x32 images of one to three objects that differ in shape, colour, texture and place.

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
