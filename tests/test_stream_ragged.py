"""Samples of different lengths: batches under a token budget, padded, with a mask."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest
import torch

from reed import open_cache
from reed.build import engines
from reed.build.engines import Share
from reed.build.shard import BadSample
from reed.cache.schema import Field
from reed.errors import ReedError

BUDGET = 96
PLACES = {"x": "chain/x", "pair": "chain/pair", "label": "chain/label", "t": "teacher/tokens"}


def length_of(number):
    return 1 + (number * 7) % 41


@pytest.fixture(scope="module")
def ragged(fakes, tmp_path_factory):
    """60 chains of 1 to 41 tokens: coordinates, a pair field, a label; int8 tokens beside them."""

    def chain(number):
        return fakes.random("chain", number).standard_normal((length_of(number), 8))

    class Chain(fakes.Encoder):
        reads = ("label", "sentence", "pixels")
        fields = (
            Field("x", "data", (None, 3)),
            Field("pair", "pair", (None, 4, 2), "float16"),
            Field("label", "label", (), "int64"),
            Field("whole", "sample", (5,)),
            Field("family", "label", (), "int64"),
        )

        def encode(self, samples):
            numbers = [number_of(s) for s in samples]
            rows = [chain(n).astype(np.float32) for n in numbers]
            pairs = [np.ones((len(r), 4, 2), np.float32) * r[:, :1, None] for r in rows]
            whole = [np.full(5, n, np.float32) for n in numbers]
            return {
                "x": [r[:, :3] for r in rows],
                "pair": pairs,
                "label": numbers,
                "whole": whole,
                "family": [n // 4 for n in numbers],
            }

    class Teacher(fakes.Encoder):
        reads = ("label", "sentence", "pixels")
        fields = (Field("tokens", "token", (None, 8), "int8"),)
        longer = 0

        def encode(self, samples):
            rows = [chain(number_of(s)).astype(np.float32) for s in samples]
            return {"tokens": [np.pad(r, ((0, self.longer), (0, 0))) for r in rows]}

    class Numbered(fakes.Source):
        def read(self, key, view=0):
            return super().read(key) | {"label": self.keys.index(key)}

    def number_of(sample):
        return int(sample["label"])

    class Some(fakes.Encoder):
        reads = ("label", "sentence", "pixels")
        fields = (Field("family", "label", (), "int64"),)

        def encode(self, samples):
            if any(number_of(s) == 7 for s in samples):
                raise BadSample("7 has no family")
            return {"family": [number_of(s) // 4 for s in samples]}

    cache = tmp_path_factory.mktemp("ragged") / "fake"
    encoders = {"chain": Chain(), "teacher": Teacher(), "long": Teacher(), "some": Some()}
    for name, encoder in encoders.items():
        encoder.longer = name == "long"
        engines.run(fakes.job(cache, name, Numbered(), encoder), Share(), progress=False)
    return cache, chain


def take(stream, start, count):
    with contextlib.closing(stream.batches(start)) as batches:
        return [
            (s.rows.copy(), stream.decode(s), s.mask(), s.lengths)
            for s in itertools.islice(batches, count)
        ]


def open_stream(ragged, **changes):
    return open_cache(ragged[0]).stream(
        PLACES, tokens=BUDGET, **({"seed": 2, "threads": 0} | changes)
    )


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_ranks_and_threads_do_not_change_a_ragged_batch(ragged, world, threads):
    whole = take(open_stream(ragged), 3, 10)
    parts = [
        take(open_stream(ragged, rank=r, world=world, threads=threads), 3, 10) for r in range(world)
    ]
    for step, (rows, values, mask, _) in enumerate(whole):
        ranks = [part[step] for part in parts]
        assert np.array_equal(np.concatenate([rank[0] for rank in ranks]), rows)
        for name, value in values.items():
            assert torch.equal(torch.cat([rank[1][name] for rank in ranks]), value)
        assert torch.equal(torch.cat([rank[2] for rank in ranks]), mask)


def test_records_are_whole_padded_with_zeros_and_masked(ragged):
    stream = open_stream(ragged)
    for rows, values, mask, lengths in take(stream, 0, 2 * 25):
        assert len(rows) * mask.shape[1] <= BUDGET
        assert mask.sum(1).tolist() == lengths.tolist()
        for j, number in enumerate(values["label"].tolist()):
            want = ragged[1](number).astype(np.float32)
            long = length_of(number)
            assert lengths[j] == long
            assert np.array_equal(values["x"][j, :long], want[:, :3])
            assert (
                torch.cosine_similarity(values["t"][j, :long], torch.from_numpy(want), dim=-1).min()
                > 0.999
            )
            assert all(not values[name][j, long:].any() for name in ("x", "pair", "t"))


def test_the_mask_is_as_long_as_the_padding_whatever_else_is_asked_for(ragged):
    places = {"whole": "chain/whole"} | PLACES  # a field of one size, first
    stream = open_cache(ragged[0]).stream(places, tokens=BUDGET, threads=0)
    for _, values, mask, lengths in take(stream, 0, 10):
        assert mask.shape == values["x"].shape[:2] and mask.sum(1).tolist() == lengths.tolist()
        assert torch.equal(values["whole"][:, 0].long(), values["label"])


def test_each_ragged_sample_is_read_once_per_epoch(ragged):
    stream = open_stream(ragged)
    steps = 0
    seen = []
    for rows, *_ in take(stream, 0, 60):
        seen += rows.tolist()
        steps += 1
        if len(seen) == 60:
            break
    assert sorted(seen) == list(range(60))


def test_a_ragged_field_needs_a_budget(ragged):
    for batch in (0, 4):
        with pytest.raises(
            ReedError, match="chain/x.*need a budget of tokens.* such as tokens=4096"
        ):
            open_cache(ragged[0]).stream(PLACES, batch)


def test_a_budget_below_the_longest_sample_is_refused(ragged):
    with pytest.raises(ReedError, match="longest sample has 41 tokens, the budget is 40"):
        open_cache(ragged[0]).stream(PLACES, tokens=40)


def test_fields_whose_lengths_differ_are_not_paired(ragged):
    with pytest.raises(ReedError, match=r"sample .* tokens in one column and .* in long/tokens"):
        open_cache(ragged[0]).stream(PLACES | {"t": "long/tokens"}, tokens=BUDGET)


def test_one_sample_per_family_and_epoch_for_any_number_of_ranks(ragged):
    stream = open_stream(ragged, one_per="chain/family")
    assert stream.samples == 15
    steps, epochs = round(15 / stream.batch), []
    batches = take(stream, 0, 6 * steps)
    for epoch in range(6):
        part = batches[epoch * steps : (epoch + 1) * steps]
        labels = torch.cat([values["label"] for _, values, _, _ in part])
        assert sorted((labels // 4).tolist()) == list(range(15))
        epochs.append(frozenset(labels.tolist()))
        for _, values, mask, lengths in part:
            assert lengths.tolist() == [length_of(n) for n in values["label"].tolist()]
            assert mask.shape[1] - lengths.max() < 8 and mask.sum(1).tolist() == lengths.tolist()
    assert len(set(epochs)) == 6  # other members in every epoch
    ranks = [
        take(open_stream(ragged, one_per="chain/family", rank=r, world=2), 4, 3) for r in (0, 1)
    ]
    for k in range(3):
        rows = np.concatenate([ranks[0][k][0], ranks[1][k][0]])
        assert np.array_equal(rows, batches[4 + k][0])


def test_one_per_takes_a_label(ragged):
    with pytest.raises(ReedError, match="chain/x is of kind 'data', one_per takes a label"):
        open_stream(ragged, one_per="chain/x")
    with pytest.raises(ReedError, match="no field 'lable'"):
        open_stream(ragged, one_per="chain/lable")


def test_a_sample_without_the_label_is_named(ragged):
    with pytest.raises(ReedError, match="sample .* has no some/family, which one_per needs"):
        open_stream(ragged, one_per="some/family")


def test_one_per_is_for_samples_of_different_lengths(whole):
    with pytest.raises(ReedError, match="one_per is for samples of different lengths"):
        open_cache(whole).stream({"x": "pixels/x"}, 4, one_per="pixels/label")
