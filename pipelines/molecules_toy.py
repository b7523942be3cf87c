"""Drug-like molecules that ship with RDKit; nothing to download.

Commands::

    reed-cache build molecules-toy
    reed-cache build molecules-toy --cache cache/molecules-toy-test --set source.split=test
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="molecule",
    source="molecules-toy",
    base=("molecule",),
    encoders=("rdkit3d",),
    shard_size=256,
)
