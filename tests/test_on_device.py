"""Batches that stay on a GPU are stored as those on the host; the sums are equal but for rounding.

Without a GPU, tensors on the CPU stand in for it: all but streams and pinned memory is the same.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reed.build import device
from reed.build.kept import Batch
from reed.build.storing import Storing
from reed.cache.codecs.codecs import codec_of
from reed.cache.schema import Column, Field

CODECS = ("float32", "float16", "bfloat16", "int8", "pca:6", "pca:6+int8", "standard+int8")
FIELDS = (
    *(Field(f"f{i}", "token", (20, 24), codec) for i, codec in enumerate(CODECS)),
    Field("moments", "moments", (4, 6, 6), "float16"),
)
VALUES = {
    field.name: np.random.default_rng(i).standard_normal((9, *field.shape)).astype(np.float32)
    for i, field in enumerate(FIELDS)
}
VALUES["f3"][4, 2, 1] = np.inf


def stored(where: str) -> tuple[list[np.ndarray], dict[str, str], dict]:
    """What is stored of a batch of two views, why a sample is not, and the statistics."""
    state = {
        field.name: codec_of(field).calibrate([VALUES[field.name][0]])
        if codec_of(field).needs_calibration
        else {}
        for field in FIELDS
    }
    storing = Storing(Column("c", "e", "1", (), FIELDS), state)
    views = [VALUES, {name: -values for name, values in VALUES.items()}]
    if where:
        views = [{n: torch.from_numpy(v).to(where) for n, v in view.items()} for view in views]
    events = [device.mark(view) for view in views]
    block, unfit = storing.block(Batch([f"s{i}" for i in range(9)], views, events))
    assert len(block.names) == 2 * 8 and storing.keys == [f"s{i}" for i in range(9) if i != 4]
    return list(block.values), unfit, storing.stats()


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_gpu_stores_what_the_host_does_but_for_ties(where):
    (ours, failed, stats), (theirs, wanted, sums) = stored(where), stored("")
    assert failed == wanted and list(failed) == ["s4"]
    for a, b in zip(ours, theirs, strict=True):
        assert isinstance(a, np.ndarray) and (a.dtype, a.shape) == (b.dtype, b.shape)
        # Only a whitened value, whose sum has another order, can round to its neighbour.
        steps = np.abs(a.astype(np.float64) - b.astype(np.float64))
        assert (steps > 0).mean() < 1e-3 and (a.dtype != np.int8 or steps.max() <= 1)
    for name, table in sums.items():
        assert stats[name]["count"] == table["count"]
        np.testing.assert_allclose(stats[name]["sum"], table["sum"], rtol=1e-12, atol=1e-10)
        np.testing.assert_allclose(stats[name]["sumsq"], table["sumsq"], rtol=1e-12)
