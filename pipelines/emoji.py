"""Emoji of two artists with their names and keywords, and pretrained teachers of both.

Commands::

    make data-emoji                                      # into data/, from npm and PyPI
    reed-cache build emoji --data data/emoji/train.zip

The classes are the groups of Unicode. Skin tones are images of their own with captions of their
own, as the artists drew them. The build does not mirror: letters and hands have a side.
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
