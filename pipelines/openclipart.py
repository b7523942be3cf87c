"""Drawings of openclipart with their titles and keywords, and pretrained teachers of both.

Commands::

    make data-openclipart                                # into data/, from Debian and PyPI
    reed-cache build openclipart --data data/openclipart/train.zip

The classes are the top folders of the collection. Drawings of one title and the same keywords are
held out together or not at all.
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="image",
    source="images",
    base=("image", "labels", "captions-beside"),
    encoders=("lite0=timm:tf_efficientnet_lite0", "sentence"),
    shard_size=1000,
    settings={
        "source": {"resolution": 32, "background": "white"},
        "lite0": {"weights": "data/weights/efficientnet-lite0.pth", "grid": 8},
        "sentence": {
            "weights": "data/weights/all-minilm-l6-v2",
            "dim": 384,
            "captions": "captions-beside/text",
        },
    },
    codecs=("lite0/tokens=pca:64+int8",),
)
