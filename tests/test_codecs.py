"""Codecs: what goes in comes out, as near as each can; what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reed.cache.codecs.codecs import CODECS, codec_of
from reed.cache.schema import Field
from reed.errors import ReedError

NOISE = np.random.default_rng(0)


def field(codec, shape, kind="token"):
    return Field("f", kind, shape, codec)


def state_of(codec, arrays):
    return CODECS[codec].calibrate(arrays) if CODECS[codec].needs_calibration else {}


def there_and_back(codec, value, state=None):
    """Encode one sample, check the parts against what the codec says of them, decode."""
    value = np.asarray(value)
    state = state_of(codec, [value]) if state is None else state
    parts = CODECS[codec].encode(value, state)
    said = CODECS[codec].parts(field(codec, value.shape))
    assert [(p.dtype, p.shape) for p in said] == [(a.dtype.str, a.shape) for a in parts]
    tensors = [torch.from_numpy(np.array(part))[None] for part in parts]
    return CODECS[codec].decode(tensors, {k: torch.from_numpy(v) for k, v in state.items()})[0]


def refuses(codec, value, *parts, state=None):
    with pytest.raises(ReedError) as error:
        CODECS[codec].encode(value, state or {})
    for part in parts:
        assert part in str(error.value)


def cosines(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def tokens(rows, channels=256, outliers=4):
    """Token features with the outlier channels of transformers: large in every token."""
    x = NOISE.standard_normal((rows, channels)).astype(np.float32)
    x[:, :outliers] = 50 + 10 * x[:, :outliers]
    return x


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16", "int64", "int32", "uint8"])
def test_values_that_a_codec_can_hold_come_back_exactly(codec, shape):
    value = NOISE.integers(0, 128, shape).astype(np.float32 if "float" in codec else np.int64)
    back = there_and_back(codec, value)
    kept = {"uint8": torch.uint8}.get(codec, torch.int64)
    assert back.dtype == (torch.float32 if "float" in codec else kept)
    assert np.array_equal(back.numpy(), value)


@pytest.mark.parametrize(("codec", "bits"), [("float32", 24), ("float16", 11), ("bfloat16", 8)])
def test_floats_come_back_within_half_a_step(codec, bits):
    value = NOISE.standard_normal(1000).astype(np.float32)
    back = there_and_back(codec, value).numpy()
    assert (np.abs(back - value) <= np.abs(value) * 2.0**-bits).all()


@pytest.mark.parametrize(
    ("codec", "least", "most"),
    [("int64", -(2**63), 2**63 - 1), ("int32", -(2**31), 2**31 - 1), ("uint8", 0, 255)],
)
def test_integers_keep_their_extremes_and_refuse_one_more(codec, least, most):
    value = np.array([least, most], np.int64)
    assert there_and_back(codec, value).tolist() == [least, most]
    if codec != "int64":
        refuses(codec, np.array([least - 1]), f"does not fit {codec}", "values from")
        refuses(codec, np.array([0, most + 1]), f"does not fit {codec}", "values from")
    else:
        refuses(codec, np.array([2**63], np.uint64), "does not fit int64")


@pytest.mark.parametrize("codec", ["int64", "int32", "uint8"])
@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf"), 1e30])
def test_integers_refuse_what_is_none(codec, value):
    refuses(codec, np.array([1.0, value]), f"does not fit {codec}")


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(codec, bad):
    value = np.array([[1.0, -2.0, bad, 4.0]], np.float32)
    state = state_of(codec, [np.ones((1, 4))])
    refuses(codec, value, f"does not fit {codec}", "from -2 to 4, 1 of 4 not finite", state=state)
    refuses(codec, value[:, 2:3], "no finite value, 1 of 1 not finite", state={"rms": np.ones(1)})


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        ("float16", np.float32(65520)),
        ("float16", np.float64(-1e300)),
        ("float32", np.float64(1e39)),
        ("bfloat16", np.float64(1e39)),
        ("bfloat16", np.float32(3.4e38)),
        ("int8", np.float64(1e39)),
        ("int8", np.float32(3e38)),
    ],
)
def test_an_overflow_is_refused(codec, value):
    refuses(codec, np.array([value]), f"does not fit {codec}", state={"rms": np.float32([1e-3])})


def test_the_largest_of_each_float_is_held():
    assert there_and_back("float16", np.float32([65519.0])).item() == 65504
    assert there_and_back("bfloat16", np.float32([3.3895314e38])).item() == 3.3895313892515355e38


def same_as_torch(values):
    finite = values[np.isfinite(torch.from_numpy(values).bfloat16().float().numpy())]
    ours = CODECS["bfloat16"].encode(finite, {})[0]
    theirs = torch.from_numpy(finite).bfloat16().view(torch.uint16).numpy()
    assert np.array_equal(ours, theirs)


def test_bfloat16_rounds_as_torch_does_on_random_bits():
    same_as_torch(NOISE.integers(0, 2**32, 200_000, np.uint32).view(np.float32))


def test_bfloat16_rounds_ties_to_even_as_torch_does():
    upper = NOISE.integers(0, 2**16, 20_000, np.uint32) << 16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        same_as_torch((upper | lower).astype(np.uint32).view(np.float32))


def test_int8_keeps_the_direction_of_every_token_where_plain_absmax_does_not():
    x = tokens(400)
    ours = there_and_back("int8", x[200:], state_of("int8", [x[:200]])).numpy()
    plain_scale = np.abs(x).max(-1, keepdims=True) / 127
    plain = np.rint(x / plain_scale) * plain_scale
    assert cosines(ours, x[200:]).min() >= 0.9999
    rest = slice(4, None)  # the channels that the outliers drown
    assert cosines(ours[:, rest], x[200:, rest]).min() > 0.9999
    assert cosines(plain[200:, rest], x[200:, rest]).min() < 0.99
    assert cosines(plain[200:], x[200:]).min() < 0.9998


@pytest.mark.parametrize("shape", [(6,), (5, 6), (3, 4, 6), (0, 6)])
def test_int8_takes_any_number_of_axes_before_the_channels(shape):
    value = NOISE.standard_normal(shape).astype(np.float32)
    back = there_and_back("int8", value, {"rms": np.full(6, 2, np.float32)})
    assert back.shape == shape
    assert np.allclose(back, value, atol=np.abs(value).max(initial=0) / 254 + 1e-7)


def test_int8_keeps_a_token_of_zeros():
    value = np.array([[0, 0, 0], [1, -2, 3]], np.float32)
    back = there_and_back("int8", value)
    assert back[0].tolist() == [0, 0, 0]
    assert np.allclose(back[1], value[1], rtol=0.02)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("silent", [0.0, 1e-3])
def test_int8_survives_a_channel_that_was_silent_in_the_calibration(unit, silent):
    before, after = tokens(200, outliers=0) * unit, tokens(50, outliers=0) * unit
    before[:, 7] *= silent
    back = there_and_back("int8", after, state_of("int8", [before])).numpy()
    assert cosines(back, after).min() > 0.99


def test_int8_of_a_column_of_zeros_is_zeros():
    assert there_and_back("int8", np.zeros((2, 3), np.float32)).tolist() == [[0] * 3] * 2


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.floats(1e-30, 1e30), st.integers(0, 99))
def test_int8_is_within_half_a_step_at_any_magnitude(rows, channels, unit, seed):
    value = np.random.default_rng(seed).standard_normal((rows, channels)) * unit
    state = state_of("int8", [value])
    back = there_and_back("int8", value, state).numpy()
    step = np.abs(value / state["rms"]).max(-1, keepdims=True) / 127 * state["rms"]
    assert (np.abs(back - value) <= step * 0.501).all()


def test_what_was_not_observed_is_nan_and_stays_so():
    value = np.array([[1.5, np.nan], [np.nan, -2.0]], np.float32)
    np.testing.assert_array_equal(there_and_back("float32+nan", value).numpy(), value)
    refuses("float32+nan", np.array([1.0, np.inf], np.float32), "1 of 2 not finite")
    refuses("float32", value, "2 of 4 not finite")  # elsewhere NaN is an error


@pytest.mark.parametrize("text", ["", "a dog", "日本語 😀\n\ttabs", "x" * 10_000])
def test_text_is_its_utf8_bytes(text):
    (stored,) = CODECS["utf8"].encode(text, {})
    assert stored.decode() == text


def test_what_is_not_text_is_refused():
    refuses("utf8", None, "is not text: None")
    refuses("utf8", 5, "is not text: 5")
    refuses("utf8", "\ud800", "is not valid text")


def test_text_is_never_decoded_for_a_net():
    with pytest.raises(ReedError, match="text field cannot be streamed"):
        CODECS["utf8"].decode([], {})


@pytest.mark.parametrize(
    ("kind", "codec", "shape", "parts"),
    [
        ("token", "int9", (2, 3), ["unknown codec 'int9'", "'int8'"]),
        ("token", "utf8", (2, 3), ["token field 'f' cannot be utf8"]),
        ("text", "float32", (), ["text field 'f' cannot be float32"]),
        ("label", "float16", (), ["label field 'f' cannot be float16", "integer"]),
        ("sample", "int8", (), ["cannot be int8", "channels"]),
        ("data", "int8", (None,), ["cannot be int8", "channels, whose length does not vary"]),
        ("token", "float32+nan", (2, 3), ["token field 'f' cannot be float32+nan", "only data"]),
    ],
)
def test_a_codec_that_does_not_suit_the_field_is_refused(kind, codec, shape, parts):
    with pytest.raises(ReedError) as error:
        codec_of(field(codec, shape, kind))
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "-a", "x" * 25, "ü"])
def test_a_field_name_that_cannot_be_part_of_a_member_name_is_refused(name):
    with pytest.raises(ReedError, match="field name"):
        Field(name, "token", (2, 3))


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(ReedError, match="field 'f' has the unknown kind 'tokens'.*'token'"):
        Field("f", "tokens", (2, 3))


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_ragged_fields_have_ragged_parts(codec):
    kind = {"utf8": "text", "float32+nan": "data"}.get(codec, "token")
    ragged = CODECS[codec].parts(field(codec, (None, 4), kind))
    fixed = CODECS[codec].parts(field(codec, (3, 4), kind))
    assert all(part.is_ragged for part in ragged)
    assert all(part.is_ragged == (codec == "utf8") for part in fixed)


@pytest.mark.parametrize("codec", ["float16", "float32", "pca:4"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf, 65519.0, 65520.0, -7e4, 3e38])
def test_large_batches_refuse_what_small_ones_refuse(codec, bad):
    """Of large batches, norms are looked at before numbers; large norms of sound values fit."""
    values = NOISE.standard_normal((4, 200, 32)).astype(np.float32)
    values[1] = 1000  # a norm above the largest float16
    values[2, 3, 4] = bad
    found = codec_of(field(codec, values.shape[1:]))
    state = found.calibrate([values[0]]) if found.needs_calibration else {}
    _, fits = found.encode_all(values, state)
    alone = [found.encode_all(value[None], state)[1][0] for value in values]
    is_sound = abs(bad) < (65520 if codec == "float16" else np.inf)
    assert fits.tolist() == alone
    assert alone[:2] == [True, True] and alone[3]
    assert alone[2] == is_sound or codec == "pca:4"  # whose components may be too large
