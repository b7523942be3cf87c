"""The digits: source, encoders, the shipped weights and the script that made them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load

from reed.build.shard import BadSample
from reed.encoders import ENCODERS
from reed.encoders.toy import digits_vit as vit
from reed.encoders.toy.digits import DigitsVit, measure, sentence
from reed.errors import ReedError
from reed.experiments import train_digits
from reed.sources import SOURCES
from reed.sources.toy.digits import Digits

NAMES = ("pixels", "digits-vit", "describe", "caption-ngrams")
DTYPES = {"float32": np.float32, "int8": np.float32, "int64": np.int64}  # as encoded, by codec
WEIGHTS = Path(vit.__file__).parent / vit.FILE


@pytest.fixture(scope="module")
def source():
    return SOURCES.get("digits")()


@pytest.fixture(scope="module")
def samples(source):
    """All 1,797 samples, with what the encoders read: source entries and captions."""
    records = [source.read(key) for key in source.listing()]
    captions = ENCODERS.get("describe")().encode(records)["caption"]
    return [
        record | {"describe/caption": caption}
        for record, caption in zip(records, captions, strict=True)
    ]


@pytest.fixture(params=NAMES)
def encoder(request):
    made = ENCODERS.get(request.param)()
    made.load("cpu")
    return made


def header(path: Path) -> dict:
    with safe_open(path, "np") as file:
        return json.loads(file.metadata()[vit.HEADER])


def test_source_lists_every_digit_with_a_stamp_of_its_image(source):
    listing = source.listing()
    assert len(listing) == 1797
    assert listing["digit-0000"] == "39f5aab486a22d70"
    assert listing["digit-1796"] == "a1a9711d6f9cadb8"
    assert Digits().listing() == listing


def test_source_reads_what_scikit_learn_ships(source):
    sample = source.read("digit-0003")
    assert set(sample) == set(source.entries)
    assert sample["pixels"].shape == (1, 8, 8) and sample["pixels"].dtype == np.float32
    assert sample["pixels"].min() == 0 and sample["pixels"].max() <= 16
    assert sample["label"] == 3 and type(sample["label"]) is int
    sample["pixels"][:] = -1
    assert source.read("digit-0003")["pixels"].min() == 0


def test_source_refuses_an_unknown_key_and_a_data_folder(source):
    with pytest.raises(BadSample, match="no digit 'digit-1797'.*digit-1796"):
        source.read("digit-1797")
    with pytest.raises(ReedError, match="takes no --data, got /tmp"):
        Digits(Path("/tmp"))


def test_encoder_writes_its_declared_fields(encoder, samples):
    few = [{name: sample[name] for name in encoder.reads} for sample in samples[:5]]
    output = encoder.encode(few)
    assert list(output) == [field.name for field in encoder.fields]
    for field in encoder.fields:
        assert len(output[field.name]) == len(few)
        for value in output[field.name]:
            if field.codec == "utf8":
                assert isinstance(value, str)
            else:
                assert value.shape == field.shape and value.dtype == DTYPES[field.codec]
    assert encoder.revision() and encoder.batch_size > 0 and encoder.licence


def test_encoder_output_does_not_depend_on_the_batch(encoder, samples):
    together = encoder.encode(samples[:33])
    for row in (0, 7, 32):
        alone = encoder.encode(samples[row : row + 1])
        for name, values in together.items():
            if isinstance(values[row], str):
                assert alone[name][0] == values[row]
            else:
                np.testing.assert_allclose(alone[name][0], values[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["pixels", "digits-vit", "describe"])
def test_encoder_refuses_pixels_of_another_shape(name):
    made = ENCODERS.get(name)()
    made.load("cpu")
    with pytest.raises(
        BadSample, match=r"float64 of shape \(8, 8\), not float32 of shape \(1, 8, 8\)"
    ):
        made.encode([{"pixels": np.ones((8, 8)), "label": 0}])


def test_pixels_fields_map_to_minus_one_to_one():
    field = ENCODERS.get("pixels")().fields[0]
    scaled = (np.array([0, 8, 16]) - field.shift[0]) * field.scale[0]
    assert scaled.tolist() == [-1, 0, 1]


def test_shipped_weights_reach_the_accuracy_in_their_header():
    facts, (_, held_out) = header(WEIGHTS), train_digits.split()
    found = train_digits.accuracy(load(vit.shipped()), held_out)
    assert len(held_out.labels) == facts["held_out_rows"] == 297
    assert facts["train_rows"] == train_digits.TRAIN_ROWS == 1500
    assert facts["seed"] == train_digits.SEED and facts["steps"] == train_digits.STEPS
    # Another processor may round one image across the boundary; no more than that one.
    assert found == pytest.approx(facts["held_out_accuracy"], abs=1.02 / 297)
    assert min(found, facts["held_out_accuracy"]) >= 0.93


def test_shipped_weights_are_small_and_complete():
    assert len(vit.shipped()) <= 400_000
    assert {name: tuple(t.shape) for name, t in load(vit.shipped()).items()} == vit.shapes()


def test_patch_tokens_differ_within_an_image():
    _, held_out = train_digits.split()
    assert train_digits.token_cosine(load(vit.shipped()), held_out) < 0.6


def test_tokens_run_row_by_row():
    weights = {name: value.float() for name, value in load(vit.shipped()).items()}
    for name, value in weights.items():  # no block mixes tokens: each sees its own patch only
        if ".proj." in name or ".down." in name:
            value.zero_()
    blank = torch.zeros(1, 1, 8, 8)
    for row, column in ((0, 0), (1, 6), (5, 2), (7, 7)):
        dot = blank.clone()
        dot[..., row, column] = 16
        change = (vit.features(weights, dot) - vit.features(weights, blank)).abs().amax((0, 2))
        assert change.nonzero().flatten().tolist() == [1 + row // 2 * 4 + column // 2]


def test_revision_follows_the_weights(monkeypatch):
    before = DigitsVit().revision()
    monkeypatch.setattr(vit, "shipped", lambda: b"other weights")
    assert DigitsVit().revision() != before


def test_descriptions_are_fixed_and_shared(samples):
    captions = [sample["describe/caption"] for sample in samples]
    assert 60 <= len(set(captions)) <= 400
    for caption in set(captions):
        assert caption[0].isupper() and caption.index(".") == len(caption) - 1
        assert not any(character.isdigit() for character in caption)
    text = hashlib.sha256("\n".join(captions).encode()).hexdigest()[:16]
    # When this fails on purpose, raise the revision too: caches must not mix two wordings.
    assert (ENCODERS.get("describe")().revision(), text) == ("1", "a9673d4bb594aee7")


def test_description_depends_on_measures_only(samples):
    describe = ENCODERS.get("describe")()
    assert describe.reads == ("pixels",)
    by_measure = {}
    for sample in samples:
        found = measure(sample["pixels"][0])
        assert by_measure.setdefault(found, sample["describe/caption"]) == sentence(found)
    image = samples[0]["pixels"]
    captions = describe.encode([{"pixels": image, "label": label} for label in range(10)])
    assert len(set(captions["caption"])) == 1


def test_measures_of_known_drawings():
    bar, slash, ring = np.zeros((3, 8, 8))
    bar[1:7, 3:5] = 16
    slash[range(8), range(7, -1, -1)] = 16
    ring[2:6, 2:6] = 8
    ring[3:5, 3:5] = 0
    found = measure(bar)
    assert (found.ink, found.slant, found.holes) == (3.0, 0.0, 0)
    assert (found.aspect, found.across, found.down) == (2 / 6, 3.5, 3.5)
    assert measure(slash).slant == 1.0 and measure(slash[:, ::-1]).slant == -1.0
    assert (measure(ring).holes, measure(ring).aspect) == (1, 1.0)
    assert "leans right and is wide, with no hole" in sentence(measure(slash))
    with pytest.raises(BadSample, match="nothing to describe"):
        measure(np.zeros((8, 8)))


def test_measures_of_a_single_row_of_ink():
    line = np.zeros((8, 8))
    line[4, 1:6] = 16
    assert measure(line).slant == 0.0


def test_caption_embedding_is_the_same_everywhere():
    ngrams = ENCODERS.get("caption-ngrams")()
    ngrams.load("cpu")
    (vector,) = ngrams.encode([{"describe/caption": "A bold drawing with one hole."}])["embedding"]
    unit = 0.0413802937  # all n-grams weigh the same here, so every channel is an odd multiple
    assert (vector[:8] / unit).round(4).tolist() == [3, 1, -1, -1, -1, 3, 5, -5]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert str(4096) in ngrams.revision() and "pcg64-20240229" in ngrams.revision()
    with pytest.raises(BadSample, match="no words"):
        ngrams.encode([{"describe/caption": "."}])


def test_neighbourhood_holds_its_patch_in_the_middle():
    pixels = torch.arange(64.0).reshape(1, 1, 8, 8) / 4
    around = train_digits.neighbourhoods(pixels)
    assert around.shape == (1, 16, 36)
    middle = around.reshape(4, 4, 6, 6)[1, 2, 2:4, 2:4]
    assert torch.equal(middle, (pixels[0, 0, 2:4, 4:6] - 8) / 8)
    assert (around.reshape(4, 4, 6, 6)[0, :, :2] == -1).all()


def test_training_again_gives_the_same_bytes(tmp_path, one_thread):
    outputs = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for out in outputs:
        result = CliRunner().invoke(train_digits.main, ["--steps", "3", "--out", str(out)])
        assert result.exit_code == 0 and "held-out accuracy" in result.output
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    tensors = load(outputs[0].read_bytes())
    assert {name: tuple(value.shape) for name, value in tensors.items()} == vit.shapes()
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert header(outputs[0])["steps"] == 3


def test_importing_the_modules_imports_no_model_library():
    code = (
        "import sys, reed.sources.toy.digits, reed.encoders.toy.digits, reed.encoders.text.ngrams\n"
        "import reed.experiments.train_digits, reed.encoders.toy.digits as digits\n"
        "digits.DigitsVit().revision()\n"
        "print([n for n in ('torch', 'sklearn', 'scipy', 'timm', 'safetensors')"
        " if n in sys.modules])"
    )
    path = str(Path(vit.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=path, check=True
    )
    assert done.stdout.strip() == "[]"
