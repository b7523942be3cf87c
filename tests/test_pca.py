"""pca:K and pca:K+int8: whitened, reproducible, and what is aligned to has K channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reed import open_cache
from reed.cache import plan, reader, schema
from reed.cache.codecs import codecs, components, fidelity, pca
from reed.cache.codecs.codecs import codec_of
from reed.cache.schema import Field
from reed.domains.base import Batch, Noised
from reed.errors import ReedError
from reed.nets import Tap
from reed.train.align import AlignConfig, AlignedNet, check_target

NOISE = np.random.default_rng(0)
MIX = np.linspace(3, 0.2, 12)[:, None] * np.linalg.qr(NOISE.standard_normal((12, 12)))[0]


def field(codec, shape=(16, 12), kind="token"):
    return Field("f", kind, shape, codec)


def features(records, tokens=16):
    """Correlated channels around a mean that is not zero."""
    x = NOISE.standard_normal((records, tokens, 12)) @ MIX + np.arange(12)
    return list(x.astype(np.float32))


def there_and_back(codec, value, state):
    """Encode one sample, check the parts against what the codec says of them, decode."""
    said = codec_of(field(codec, value.shape)).parts(field(codec, value.shape))
    parts = codec_of(field(codec)).encode(value, state)
    assert [(p.dtype, p.shape) for p in said] == [(a.dtype.str, a.shape) for a in parts]
    return codecs.decode_one(codec_of(field(codec)), parts, state)


@pytest.mark.parametrize("kept", [1, 5, 12])
def test_the_calibration_records_have_mean_zero_and_unit_covariance(kept):
    x = features(40)
    state = pca.fit(x, kept)
    z = pca.whiten(np.concatenate(x), state)
    assert np.allclose(z.mean(0), 0, atol=1e-5)
    assert np.allclose(z.T @ z / len(z), np.eye(kept), atol=1e-4)


def test_what_is_kept_is_the_leading_subspace_of_a_plain_svd():
    x = features(40)
    flat = np.concatenate(x).astype(np.float64)
    _, singular, rows = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    state = pca.fit(x, 4)
    assert np.allclose(state["std"], singular[:4] / np.sqrt(len(flat)), rtol=1e-5)
    other = np.concatenate(features(3)).astype(np.float64)
    want = (other - flat.mean(0)) @ rows[:4].T @ rows[:4] + flat.mean(0)
    assert np.allclose(pca.unwhiten(pca.whiten(other, state), state), want, atol=1e-4)
    assert np.allclose(pca.unwhiten(pca.whiten(other, all_ := pca.fit(x, 12)), all_), other)


def test_the_fit_depends_on_the_directions_and_not_on_their_signs():
    x = features(40)
    basis = pca.fit(x, 6)["basis"]
    largest = np.take_along_axis(basis, np.abs(basis).argmax(1)[:, None], 1)
    assert (largest > 0).all()
    again = pca.fit(x, 6)
    assert all(np.array_equal(again[name], array) for name, array in pca.fit(x, 6).items())
    mirrored = pca.fit([-array for array in x], 6)
    assert np.allclose(mirrored["basis"], basis, atol=1e-5)
    assert np.allclose(pca.fit(x, 3)["basis"], basis[:3])


def test_a_direction_without_variance_is_not_blown_up():
    """Channels after a LayerNorm sum to zero: one direction is only rounding."""
    x = [a - a.mean(-1, keepdims=True) for a in features(40)]
    state = pca.fit(x, 12)
    z = pca.whiten(np.concatenate([a + np.float32(0.001) for a in x]), state)
    assert np.abs(z[:, -1]).max() < 1
    constant = pca.fit([np.ones((9, 3), np.float32)], 2)
    assert constant["std"].tolist() == [1, 1]
    assert not pca.whiten(np.ones((4, 3)), constant).any()


@pytest.mark.parametrize(
    ("records", "kept", "parts"),
    [
        (1, 13, ["cannot fit 13 components to 16 vectors of 12 channels", "keep fewer"]),
        (0, 4, ["cannot fit 4 components to 4 vectors"]),
    ],
)
def test_more_components_than_the_records_show_are_refused(records, kept, parts):
    with pytest.raises(ReedError) as error:
        pca.fit(features(records) or [np.zeros((4, 12))], kept)
    assert all(part in str(error.value) for part in parts), error.value


def test_values_that_are_not_finite_are_refused():
    bad = features(2)
    bad[1][3, 4] = np.inf
    with pytest.raises(ReedError, match="cannot fit 3 components: some values are not finite"):
        pca.fit(bad, 3)
    state = codec_of(field("pca:3")).calibrate(features(4))
    with pytest.raises(ReedError, match="does not fit pca:3: values from .* 1 of 192 not finite"):
        codec_of(field("pca:3")).encode(bad[1], state)
    with pytest.raises(ReedError, match="its whitened components: does not fit float16: .*e\\+"):
        codec_of(field("pca:3")).encode(bad[0] * 1e30, state)


def test_a_round_trip_gives_the_whitened_components():
    x = features(60)
    codec = codec_of(field("pca:5"))
    state = codec.calibrate(x[:40])
    assert set(state) == {"mean", "basis", "std", "cosine"}
    assert {array.dtype for array in state.values()} == {np.dtype("float32")}
    for value in x[40:]:
        back = there_and_back("pca:5", value, state)
        assert back.shape == (16, 5) and back.dtype == np.float32
        assert np.allclose(back, pca.whiten(value, state), rtol=2e-3, atol=1e-6)


def test_int8_of_the_components_keeps_their_direction():
    x = features(60)
    state = codec_of(field("pca:8+int8")).calibrate(x[:40])
    assert set(state) == {"mean", "basis", "std", "rms", "cosine"}
    assert np.allclose(state["rms"], 1, atol=1e-4)
    for value in x[40:]:
        back = there_and_back("pca:8+int8", value, state)
        assert fidelity.cosines(back, pca.whiten(value, state)).min() > 0.9998


def test_a_sample_field_takes_it_too():
    x = [value[0] for value in features(60)]
    sample = field("pca:5+int8", (12,), "sample")
    codec = codec_of(sample)
    assert codec.decoded_shape(sample) == (5,)
    state = codec.calibrate(x)
    back = codecs.decode_one(codec, codec.encode(x[0], state), state)
    assert fidelity.cosines(back, pca.whiten(x[0], state)) > 0.9998
    with pytest.raises(ReedError, match="5 components to 5 vectors"):
        codec.calibrate(x[:5])


def test_the_cosine_in_the_calibration_is_that_of_what_is_left():
    x = features(40)
    for name in ("int8", "pca:4", "pca:12+int8"):
        codec = codec_of(field(name))
        state = codec.calibrate(x)
        left = [codec.restore(there_and_back(name, value, state), state) for value in x]
        found = fidelity.cosines(np.stack(x), np.stack(left))
        assert np.allclose(state["cosine"], [found.mean(), found.min()], atol=1e-6)


def test_cosines_of_zeros_and_of_opposites():
    a = np.array([[0, 0], [0, 0], [1, 0], [1, 0], [3, 4]])
    b = np.array([[0, 0], [2, 1], [0, 0], [-5, 0], [6, 8]])
    assert np.allclose(fidelity.cosines(a, b), [1, 0, 0, -1, 1])
    assert np.allclose(fidelity.similarities(a[2:]), [1, 0.6, 0.6])


@pytest.mark.parametrize(
    ("codec", "shape", "kind", "parts"),
    [
        ("pca:13", (16, 12), "token", ["cannot be pca:13", "12 channels; keep at most as many"]),
        ("pca:3", (), "sample", ["pca:3 needs an axis of channels"]),
        ("pca:3", (4, 8, 8), "data", ["data field 'f' cannot be pca:3", "token, sample or pair"]),
        ("pca:3", (), "label", ["a label is stored as an integer"]),
        ("pca:0", (16, 12), "token", ["unknown codec 'pca:0'", "pca:K+int8"]),
        ("pca:k", (16, 12), "token", ["unknown codec 'pca:k'", "Did you mean 'pca:K'?"]),
        ("pca:3+int4", (16, 12), "token", ["unknown codec", "Did you mean 'pca:K+int8'?"]),
    ],
)
def test_a_pca_that_does_not_suit_the_field_is_refused(codec, shape, kind, parts):
    with pytest.raises(ReedError) as error:
        codec_of(field(codec, shape, kind))
    assert all(part in str(error.value) for part in parts), error.value


@pytest.fixture(scope="module")
def reduced(fakes, tmp_path_factory):
    """A cache of fakes whose tokens keep three of eight channels, and their mean four."""
    path = tmp_path_factory.mktemp("reduced") / "fake"
    fakes.build(path, ["pixels"])

    class Reduced(fakes.Tokens):
        fields = (
            Field("tokens", "token", (6, 8), "pca:3+int8"),
            Field("mean", "sample", (8,), "pca:4"),
        )

    fakes.engines.run(fakes.job(path, "tokens", None, Reduced()), fakes.Share(), progress=False)
    return path


def test_the_components_of_a_column_are_in_its_calibration(fakes, reduced):
    column = schema.load_column(reduced, "tokens")
    state = reader.load_state(reduced, column)
    assert state["tokens"]["basis"].shape == (3, 8) and state["mean"]["basis"].shape == (4, 8)
    assert (state["tokens"]["cosine"] <= 1).all() and state["mean"]["cosine"].shape == (2,)
    source, encoder = fakes.Source(), fakes.make("tokens")
    for key, values in reader.records(reduced, column, 1, column.fields, state):
        exact = pca.whiten(encoder.one(source.read(key))[0], state["tokens"])
        assert values["tokens"].shape == (6, 3)
        assert fidelity.cosines(values["tokens"], exact).min() > 0.999


def test_a_changed_basis_is_refused(reduced, tmp_path):
    import shutil

    cache = shutil.copytree(reduced, tmp_path / "fake")
    path = cache / "tokens" / "calibration.npz"
    with np.load(path) as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["tokens/basis"] = -changed["tokens/basis"]
    np.savez(path, **changed)
    column = schema.load_column(cache, "tokens")
    with pytest.raises(ReedError, match="calibration.npz has sha256"):
        reader.load_state(cache, column)
    with pytest.raises(ReedError, match="calibration.npz has sha256"):
        open_cache(cache).stream({"z": "tokens/tokens"}, 4)


class Net(torch.nn.Module):
    """One layer over six tokens, which is its tap."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 8)

    def taps(self):
        return [Tap(8, 6)]

    def forward(self, x, taps=()):
        x = self.layer(x).tanh()
        return x, {1: x}


def test_a_stream_gives_k_channels_and_a_head_learns_them(reduced):
    places = {"z": "tokens/tokens", "m": "tokens/mean", "x": "pixels/x"}
    stream, net = open_cache(reduced).stream(places, 16, threads=0), Net()
    column = schema.load_column(reduced, "tokens")
    names = {"z": "tokens", "m": "mean"}
    targets = {
        name: check_target(name, AlignConfig(places[name], 1, 16), column.field(each), net)
        for name, each in names.items()
    }
    torch.manual_seed(0)
    model = AlignedNet(net, targets)
    assert [head[-1].out_features for head in model.heads.values()] == [3, 4]
    optim = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for stored in stream.batches():
        values = stream.decode(stored)
        assert values["z"].shape == (16, 6, 3) and values["m"].shape == (16, 4)
        pixels = values["x"].reshape(16, 4, 4)
        x = torch.nn.functional.interpolate(pixels.mT, size=6).mT
        noised = Noised({"x": x}, torch.zeros(16), x)
        found = model(noised, Batch({}, {name: values[name] for name in targets}))[1]
        loss = sum(each.mean() for each in found.losses.values())
        optim.zero_grad()
        loss.backward()
        optim.step()
        losses.append(loss.item())
        if len(losses) == 40:
            break
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2


def test_the_plan_is_untouched_by_the_codec(reduced, whole):
    assert plan.load(reduced).keys == plan.load(whole).keys


# ---- the channels themselves, standardised


@pytest.mark.parametrize(("codec", "tolerance"), [("standard", 2e-3), ("standard+int8", 0.04)])
def test_channels_are_standardised_over_the_column_and_not_over_a_record(codec, tolerance):
    scale, shift = np.tile([1, 100], 6), np.tile([5, -3], 6)
    x = [a * scale + shift for a in features(60)]
    made = codec_of(field(codec))
    assert made.decoded_shape(field(codec)) == (16, 12)
    state = made.calibrate(x)
    flat = np.concatenate(x)
    np.testing.assert_allclose(state["mean"], flat.mean(0), rtol=1e-4)
    np.testing.assert_allclose(state["std"], flat.std(0), rtol=1e-4)
    for record in x[:3]:  # what a record is stored as is the same, whatever else there is
        found = codecs.decode_one(made, made.encode(record, state), state)
        want = (record - flat.mean(0)) / flat.std(0)
        np.testing.assert_allclose(found, want, atol=tolerance * np.abs(want).max())
        back = made.restore(found, state)
        np.testing.assert_allclose(back, record, atol=2 * tolerance * np.abs(record).max())
    assert state["cosine"][0] > 0.999


def test_a_channel_without_variance_stays_finite():
    x = [np.concatenate([a[:, :11], np.ones((len(a), 1))], 1) for a in features(20)]
    made = codec_of(field("standard"))
    state = made.calibrate(x)
    assert np.abs(codecs.decode_one(made, made.encode(x[0], state), state)[:, 11]).max() < 0.01


def test_what_cannot_be_standardised():
    with pytest.raises(ReedError, match="cannot standardise the channels"):
        codec_of(field("standard")).calibrate([np.full((4, 12), np.nan)])
    with pytest.raises(ReedError, match="data field 'f' cannot be standard: only what is aligned"):
        codec_of(Field("f", "data", (None, 12), "standard"))
    state = codec_of(field("standard")).calibrate(features(4))
    with pytest.raises(ReedError, match="does not fit standard: .* 1 of 192 not finite"):
        bad = features(1)[0]
        bad[0, 0] = np.inf
        codec_of(field("standard")).encode(bad, state)


@pytest.mark.parametrize(
    ("codec", "shape", "vectors", "kept"),
    [
        ("pca:128", (16, 12), None, "pca:12"),
        ("pca:128+int8", (16, 12), 7, "pca:6+int8"),
        ("pca:6", (16, 12), 7, "pca:6"),
        ("pca:6", (16, 12), 1, "pca:6"),  # nothing can be fitted, which is told elsewhere
        ("pca:6", (), 7, "pca:6"),
        ("standard", (16, 12), 1, "standard"),
        ("int8", (16, 12), 1, "int8"),
    ],
)
def test_as_many_components_are_kept_as_can_be_fitted(codec, shape, vectors, kept):
    assert components.lowered(field(codec, shape), vectors).codec == kept


def test_more_components_than_channels_keep_all_channels(fakes, tmp_path, capsys):
    """It was refused: "cannot be pca:99: it has 8 channels"."""
    fakes.build(tmp_path, ["pixels"])

    class Wide(fakes.Tokens):
        fields = (Field("tokens", "token", (6, 8), "pca:99+int8"), fakes.Tokens.fields[1])

    for _ in range(2):  # the second time, the column is there and the same codec asks for it
        job = fakes.job(tmp_path, "tokens", None, Wide())
        assert job.column.field("tokens").codec == "pca:8+int8"
    said = capsys.readouterr().err
    assert said.count("pca:99+int8 is lowered to pca:8+int8") == said.count("\n") == 1
    fakes.engines.run(job, fakes.Share(), progress=False)
    with open_cache(tmp_path) as opened:
        assert all(value.shape == (6, 8) for _, value in opened.records("tokens/tokens"))
