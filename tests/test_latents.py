"""REPA's folders as a source, and the encoders that cache what is there."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from reed import config
from reed.build.shard import BadSample
from reed.cache.schema import Field
from reed.domains.image import ImageDomain
from reed.encoders import ENCODERS
from reed.errors import ReedError
from reed.sources import SOURCES


def picture(seed: int) -> np.ndarray:
    """Noise, uint8 [32, 32, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def repa(root: Path, names=("00000/img00000000", "00000/img00000001", "00001/img00001002")) -> Path:
    """A folder as REPA's tools write it, labels in another order than the files."""
    labels = []
    for row, name in enumerate(names):
        folder, image = name.split("/")
        latent = f"{folder}/img-mean-std-{image[3:]}.npy"
        for place in ("images", "vae-sd"):
            (root / place / folder).mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(picture(row)).save(root / "images" / f"{name}.png")
        np.save(root / "vae-sd" / latent, np.full((8, 4, 4), row + 0.5, np.float32))
        labels.append([latent, 10 + row])
    (root / "vae-sd" / "dataset.json").write_text(json.dumps({"labels": labels[::-1]}))
    return root


def repa_source(root: Path):
    return config.build(SOURCES.get("repa-folder"), {"data": str(root)})


def test_repa_folders_are_joined_by_name(tmp_path):
    ours = repa_source(repa(tmp_path))
    assert ours.entries == ("image", "moments", "label") and ours.views == 1
    keys = list(ours.listing())
    assert keys == ["00000/img00000000", "00000/img00000001", "00001/img00001002"]
    for row, key in enumerate(keys):
        sample = pickle.loads(pickle.dumps(ours)).read(key)
        np.testing.assert_array_equal(sample["image"], picture(row))
        assert (sample["moments"] == row + 0.5).all() and sample["moments"].shape == (8, 4, 4)
        assert sample["moments"].dtype == np.float32 and sample["label"] == 10 + row


def test_missing_partners_fail_and_shift_nothing(tmp_path):
    root = repa(tmp_path)
    ours = repa_source(root)
    before = ours.listing()
    (root / "images/00000/img00000000.png").unlink()
    (root / "vae-sd/00000/img-mean-std-00000001.npy").unlink()
    assert list(ours.listing()) == list(before) and ours.listing() != before
    with pytest.raises(BadSample, match="images has no 00000/img00000000.png"):
        ours.read("00000/img00000000")
    with pytest.raises(BadSample, match="vae-sd has no 00000/img-mean-std-00000001.npy"):
        ours.read("00000/img00000001")
    sample = ours.read("00001/img00001002")
    assert (sample["moments"] == 2.5).all() and sample["label"] == 12
    (root / "vae-sd/dataset.json").write_text('{"labels": [["00000/img00000000.png", 1]]}')
    ours.listing()
    with pytest.raises(BadSample, match="no label"):
        ours.read("00001/img00001002")


def test_moments_that_are_none(tmp_path):
    root = repa(tmp_path)
    ours, path = repa_source(root), root / "vae-sd/00000/img-mean-std-00000000.npy"
    values = {
        "not float .2C, h, w": np.zeros((7, 4, 4), np.float32),
        "not finite": np.full((8, 4, 4), np.inf, np.float32),
        "standard deviation is negative": np.full((8, 4, 4), -1, np.float32),
        "not an .npy file": np.array([{}], object),
    }
    for reason, value in values.items():
        np.save(path, value, allow_pickle=True)
        with pytest.raises(BadSample, match=reason):
            ours.read("00000/img00000000")
    path.write_bytes(b"")
    with pytest.raises(BadSample, match="not an .npy file"):
        ours.read("00000/img00000000")


def test_repa_folders_of_other_forms(tmp_path):
    root = repa(tmp_path)
    (root / "images" / "dataset.json").write_text('{"labels": [["00000/img00000000.png", 3]]}')
    with pytest.raises(ReedError, match="label of '00000/img00000000' is 10 by one name and 3 by"):
        repa_source(root).listing()
    for path in (root / "images", root / "vae-sd"):
        (path / "dataset.json").write_text('{"labels": null}')
    assert repa_source(root).entries == ("image", "moments")
    (root / "images").rename(root / "pictures")
    repa_source(root).listing()  # looks again
    assert repa_source(root).entries == ("moments",)
    plain = root / "vae-sd/00000/img00000000.npy"
    plain.write_bytes((root / "vae-sd/00000/img-mean-std-00000000.npy").read_bytes())
    with pytest.raises(ReedError, match="two files for '00000/img00000000'"):
        repa_source(root).listing()
    plain.with_name("img-mean-std-00000000.npy").unlink()
    assert (repa_source(root).read("00000/img00000000")["moments"] == 0.5).all()
    with pytest.raises(ReedError, match="no folder 'vae-sd'"):
        repa_source(root / "pictures").listing()
    with pytest.raises(ReedError, match="with --data"):
        SOURCES.get("repa-folder")().listing()


# ---- encoders of what is there


def test_encoders_of_what_is_there(tmp_path):
    samples = [repa_source(repa(tmp_path)).read(f"00000/img0000000{row}") for row in (0, 1)]
    for name, reads, shape in (
        ("labels", "label", ()),
        ("image", "image", (3, 32, 32)),
        ("sd-vae-import", "moments", (8, 4, 4)),
    ):
        options = {} if name == "labels" else {"resolution": 32}
        encoder = config.build(ENCODERS.get(name), options)
        encoder.load("cpu")
        (field,) = encoder.fields
        assert encoder.reads == (reads,) and field.shape == shape and encoder.licence
        output = encoder.encode(samples)
        assert list(output) == [field.name] and output[field.name].shape == (2, *shape)
        if options:
            other = config.build(ENCODERS.get(name), {"resolution": 64})
            assert other.revision() != encoder.revision()
            with pytest.raises(BadSample, match="give the source and the encoder one resolution"):
                other.encode(samples)
            with pytest.raises(ReedError, match="it must be a multiple of"):
                config.build(ENCODERS.get(name), {"resolution": 0})
    assert encoder.fields[0].scale == (0.18215,) and encoder.fields[0].codec == "float16"


def test_cached_pixels_reach_the_net_between_minus_one_and_one():
    encoder = ENCODERS.get("image")(32)
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    (stored,) = encoder.encode([{"image": pixels}])["image"]
    fields = {"x": encoder.fields[0], "label": Field("label", "label", (), "int64")}
    values = {"x": torch.from_numpy(stored)[None].long(), "label": torch.zeros(1).long()}
    x = ImageDomain(10).collate(values, fields, {}).data["x"]
    assert x.dtype == torch.float32 and x.unique().tolist() == pytest.approx([-1, 1])
