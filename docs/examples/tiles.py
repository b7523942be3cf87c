"""A data set of your own: 520 tiles of the two photographs that ship with scikit-learn."""

import hashlib
from functools import cached_property

from reed.build.source import BadSample
from reed.pipelines import Pipeline

NAMES, SIDE = ("china", "flower"), 32


class Tiles:
    entries = ("pixels", "label")
    views = 2  # the second is the mirrored one, for `reed-cache build --flip`

    def listing(self):
        stamps = ((key, tile.tobytes()) for key, (tile, _) in self.tiles.items())
        return {key: hashlib.sha256(content).hexdigest()[:16] for key, content in stamps}

    def read(self, key, view=0):
        if key not in self.tiles:
            raise BadSample(f"there is no tile {key}")
        tile, label = self.tiles[key]
        return {"pixels": tile[..., ::-1].copy() if view else tile, "label": label}

    @cached_property
    def tiles(self):
        from sklearn.datasets import load_sample_images

        photographs, found = load_sample_images(), {}
        for label, (name, image) in enumerate(zip(NAMES, photographs.images, strict=True)):
            for top in range(0, len(image) - SIDE + 1, SIDE):
                for left in range(0, image.shape[1] - SIDE + 1, SIDE):
                    tile = image[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1)
                    found[f"{name}/{top}-{left}"] = tile.copy(), label
        return found


PIPELINE = Pipeline(
    domain="image",
    source="tiles:Tiles",
    base=("rgb-32",),
    encoders=("scenes-conv",),
    shard_size=128,
)
