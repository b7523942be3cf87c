"""Emoji of two artists with their names and keywords, and pretrained teachers of both.

Commands::

    make data-emoji                                      # into data/, from npm and PyPI
    reed-cache build emoji --data data/emoji/train.zip

The classes are the groups of Unicode. Skin tones are images of their own with captions of their
own, as the artists drew them. The build does not mirror: letters and hands have a side.
"""

from reed.pipelines.pretrained import with_teachers

PIPELINE = with_teachers({"resolution": 32, "background": "white"}, grid=8)
