"""Drawings of openclipart with their titles and keywords, and pretrained teachers of both.

Commands::

    make data-openclipart                                # into data/, from Debian and PyPI
    reed-cache build openclipart --data data/openclipart/train.zip

The classes are the top folders of the collection. Drawings of one title and the same keywords are
held out together or not at all.
"""

from reed.pipelines.pretrained import with_teachers

PIPELINE = with_teachers({"resolution": 32, "background": "white"}, grid=8)
