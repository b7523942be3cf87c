"""Latents, features and labels that another trainer has cached, without encoding them again.

Commands::

    reed-cache import cache/mar /data/mar --layout mar      # makes the cache; see docs/exchange.md
    reed-train --shards cache/mar

The settings of `latents-import` and `tokens-import`, which are the shapes, come from the files.
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="image",
    source="cached",
    base=("latents=latents-import", "labels"),
    encoders=(),
    shard_size=1024,
    optional={"features": ("tokens=tokens-import",)},
)
