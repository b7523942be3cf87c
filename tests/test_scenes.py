"""The generated scenes: source, encoders, feature spaces, and the script that trained the nets."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load

from reed.build.shard import BadSample
from reed.encoders import ENCODERS
from reed.encoders.toy import scenes_net as nets
from reed.encoders.toy.scenes import describe
from reed.errors import ReedError
from reed.experiments import train_scenes
from reed.metrics import FEATURES
from reed.metrics import scenes as judge
from reed.sources import SOURCES
from reed.sources.toy.scenes import COLOURS, RULES, SHAPES, TEXTURES, Scenes, Thing, scene_at

NAMES = ("rgb-32", "scenes-conv", "scenes-caption", "scenes-text")


@pytest.fixture(scope="module")
def samples():
    """Forty samples, with what the encoders read: source entries and captions."""
    source = Scenes(samples=40)
    records = [source.read(key) for key in source.listing()]
    captions = ENCODERS.get("scenes-caption")().encode(records)["caption"]
    return [
        record | {"scenes-caption/caption": caption}
        for record, caption in zip(records, captions, strict=True)
    ]


@pytest.fixture(params=NAMES)
def encoder(request):
    made = ENCODERS.get(request.param)()
    made.load("cpu")
    return made


def test_a_scene_is_a_function_of_its_place():
    source = SOURCES.get("scenes")(samples=5)
    listing = source.listing()
    assert list(listing)[-1] == "scene-000004" and len(listing) == 5
    assert listing["scene-000003"] == "scenes1/train/0/3"
    alone = source.read("scene-000003")
    assert set(alone) == set(source.entries)
    assert alone["pixels"].shape == (3, 32, 32) and alone["pixels"].dtype == np.uint8
    assert alone["label"] == ("dark", "light").index(alone["scene"].ground)
    again = Scenes(samples=400).read("scene-000003")
    assert again["scene"] == alone["scene"] and (again["pixels"] == alone["pixels"]).all()


def test_splits_and_seeds_share_no_scene():
    places = [(split, seed) for split in ("train", "encoders", "judge", "real") for seed in (0, 1)]
    drawn = [scene_at(*place, index)[1].tobytes() for place in places for index in range(30)]
    assert len(set(drawn)) == len(drawn)


def test_objects_keep_to_their_rule_and_do_not_touch():
    rules = Counter()
    for index in range(300):
        scene, _ = scene_at("train", 0, index)
        rules[scene.rule] += 1
        for a, b in pairwise(scene.things):
            assert a.x <= b.x
            assert scene.rule == "none" or getattr(a, scene.rule) == getattr(b, scene.rule)
            assert np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius
        for thing in scene.things:
            assert thing.radius <= min(thing.x, thing.y, 32 - thing.x, 32 - thing.y)
            assert thing.shape in SHAPES and thing.colour in COLOURS and thing.texture in TEXTURES
    assert set(rules) == set(RULES) and min(rules.values()) > 40


def test_an_object_is_drawn_where_its_scene_says():
    for index in range(60):
        scene, pixels = scene_at("train", 0, index)
        for thing in scene.things:
            if (thing.shape, thing.texture) == ("disc", "plain"):
                middle = pixels[:, int(thing.y), int(thing.x)].astype(int)
                assert abs(middle - COLOURS[thing.colour]).max() < 12


def test_a_source_of_nothing_or_of_files_is_refused():
    with pytest.raises(ReedError, match="take no --data, got"):
        SOURCES.get("scenes")(data="x")
    with pytest.raises(ReedError, match="source.samples is 0"):
        Scenes(samples=0)
    for key, view in (("scene-000005", 0), ("scene-000001", 1), ("digit-0001", 0)):
        with pytest.raises(BadSample, match="keys run to scene-000004, in view 0"):
            Scenes(samples=5).read(key, view)


def test_encoder_writes_its_declared_fields(encoder, samples):
    output = encoder.encode(samples[:5])
    assert list(output) == [field.name for field in encoder.fields]
    for field in encoder.fields:
        assert len(output[field.name]) == 5
        for value in output[field.name]:
            assert isinstance(value, str) if field.codec == "utf8" else value.shape == field.shape
    assert encoder.revision() and encoder.licence


def test_encoder_output_does_not_depend_on_the_batch(encoder, samples):
    together = encoder.encode(samples)
    for row in (0, 7, 39):
        for name, values in encoder.encode(samples[row : row + 1]).items():
            if isinstance(values[0], str):
                assert values[0] == together[name][row]
            else:
                np.testing.assert_allclose(values[0], together[name][row], rtol=1e-4, atol=1e-4)


def test_an_image_of_another_type_or_size_is_refused(samples):
    for name in ("rgb-32", "scenes-conv"):
        encoder = ENCODERS.get(name)()
        encoder.load("cpu")
        for pixels in (samples[0]["pixels"] / 255, samples[0]["pixels"][:, :16]):
            with pytest.raises(BadSample, match=r"not uint8 of shape \(3, 32, 32\)"):
                encoder.encode([{"pixels": pixels, "label": 0}])


def test_caption_words_stay_the_same():
    text = "\n".join(describe(scene_at("train", 0, index)[0]) for index in range(200))
    found = hashlib.sha256(text.encode()).hexdigest()[:16]
    # When this fails on purpose, raise the revision too: caches must not mix two wordings.
    assert (ENCODERS.get("scenes-caption")().revision(), found) == ("1", "a1817ba58112b845")


def test_a_caption_says_where_things_are(samples):
    things = (
        Thing("disc", "red", "plain", 6, 20, 5),
        Thing("ring", "blue", "barred", 10, 8, 5),
        Thing("cross", "red", "striped", 25, 9, 5),
    )
    scene = type(samples[0]["scene"])(things, "none", "dark")
    assert describe(scene) == (
        "Three objects mixed on a dark ground: a red plain disc below a blue barred ring left of "
        "a red striped cross."
    )
    text = ENCODERS.get("scenes-text")()
    text.load("cpu")
    with pytest.raises(BadSample, match="unknown word: 'cow'"):
        text.encode([{"scenes-caption/caption": "One cow."}])


def test_encoders_tell_held_out_scenes(samples):
    """What the weights are for: patches of like objects are alike, those of others less so."""
    weights = {name: value.float() for name, value in load(nets.shipped()).items()}
    assert {name: tuple(value.shape) for name, value in weights.items()} == nets.shapes()
    assert len(nets.shipped()) + len(judge.shipped()) < 2_000_000
    tokens = nets.image_features(
        weights, torch.stack([torch.from_numpy(s["pixels"]) for s in samples])
    )
    covers = torch.stack([train_scenes.covers(s["scene"]) for s in samples])
    flat = torch.nn.functional.normalize(tokens.flatten(0, 1), dim=-1)
    on = covers[:, 0].flatten() > 0
    kinds = covers.transpose(1, 2).flatten(0, 1)[on]
    alike = flat[on] @ flat[on].T
    same = (kinds[:, None] == kinds[None]).all(-1)
    assert alike[same].mean() > alike[~same].mean() + 0.2


@pytest.mark.parametrize("name", ["scenes-judge", "random-conv"])
def test_a_feature_space_tells_scenes_from_noise(name, samples):
    images = np.stack([s["pixels"] for s in samples]).transpose(0, 2, 3, 1)
    space = FEATURES.get(name)()
    space.load("cpu")
    images.setflags(write=False)  # as they come out of a cache
    found = space(images)["mean"]
    assert found.shape == (40, 64) and np.isfinite(found).all() and space.revision()
    np.testing.assert_allclose(space(images[7:8])["mean"], found[7:8], rtol=1e-3, atol=1e-4)
    noise = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    between = np.linalg.norm(space(noise)["mean"].mean(0) - found.mean(0))
    assert between > 2 * np.linalg.norm(found[:20].mean(0) - found[20:].mean(0))
    for options in ({"weights": "x"}, {"precision": "bf16"}):
        with pytest.raises(ReedError, match="no weights to load and no precision"):
            FEATURES.get(name)(**options)


def test_covers_are_the_object_over_each_patch():
    thing = Thing("cross", "cyan", "barred", x=10, y=22, radius=6)
    scene = type(scene_at("train", 0, 0)[0])((thing,), "none", "dark")
    covered = train_scenes.covers(scene).reshape(3, 8, 8)
    kinds = [SHAPES.index("cross"), [*COLOURS].index("cyan"), TEXTURES.index("barred")]
    assert covered[:, 5, 2].tolist() == [kind + 1 for kind in kinds]
    assert covered[:, 0, 7].tolist() == [0, 0, 0]
    assert (covered[0] > 0).sum() == ((np.mgrid[2:32:4, 2:32:4] - [[[22]], [[10]]]) ** 2).sum(
        0
    ).__lt__(49).sum()


def test_training_again_gives_the_same_bytes(tmp_path, one_thread):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        done = CliRunner().invoke(
            train_scenes.main, ["--scenes", "64", "--steps", "2", "--out", str(folder)]
        )
        assert done.exit_code == 0 and "held-out accuracy, judge" in done.output, done.output
    for file, shapes in ((nets.FILE, nets.shapes()), (judge.FILE, judge.shapes())):
        one, other = ((folder / file).read_bytes() for folder in folders)
        assert one == other
        tensors = load(one)
        assert {name: tuple(value.shape) for name, value in tensors.items()} == shapes
        assert {value.dtype for value in tensors.values()} == {torch.float16}
