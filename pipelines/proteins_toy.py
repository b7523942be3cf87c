"""Generated proteins whose best possible recovery is known exactly; nothing to download.

Commands::

    reed-cache build proteins-toy
    reed-cache build proteins-toy --cache cache/toy-valid --set source.split=valid
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="protein",
    source="proteins-toy",
    base=("chain", "toy-bayes"),
    encoders=("toy-structure",),
    shard_size=128,
)
