"""The values on which a column is calibrated; what its first records were encoded to is kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from reed.build import fitting
from reed.build import shard as build
from reed.build.shard import Job
from reed.build.shared import SharedReader
from reed.errors import ReedError

Values = dict[str, list[np.ndarray]]


def first_values(job: Job, reader: SharedReader | None = None, progress: bool = False) -> Values:
    """Return the values of the first records, by field; empty if no codec needs a calibration.

    Args:
        job: The column; what is encoded is added to ``job.kept``.
        reader: The reader that several columns share; by default the source is read here.
        progress: Whether to show a bar.

    Raises:
        ReedError: Too many samples fail.
    """
    needs = fitting.needing(job.column)
    values: Values = {field.name: [] for field in needs}
    if needs:
        _collect(job, values, reader, progress)
    return values


def _collect(job: Job, values: Values, reader: SharedReader | None, progress: bool) -> None:
    """Encode the first records and add the fields that calibration needs to ``values``."""
    fields = [job.column.field(name) for name in values]
    tally, first = build.new_tally(job), values[fields[0].name]
    with tqdm(
        total=min(fitting.CALIBRATION, len(job.plan.keys) * job.plan.manifest.views),
        desc=f"{job.column.name}: calibration",
        unit="record",
        disable=not progress,
        dynamic_ncols=True,
        leave=False,
    ) as bar:
        for shard, keys in _cuts(job):
            views = reader.views if reader else None
            encoded = build.encode(job, shard, keys, views)
            tally.add(encoded.tried, encoded.failed)
            job.kept.add(shard, keys, encoded)
            if reader:
                reader.release(keys, again=True)

            samples = encoded.batch.samples()
            finite = [sample for sample in samples if fitting.is_finite(sample, values)]
            for sample in finite[: fitting.CALIBRATION - len(first)]:
                fitting.add(sample, fields, values)
            bar.update(min(len(first), bar.total) - bar.n)
            if len(first) == fitting.CALIBRATION:
                return

    if not first:
        tally.check()  # where samples failed, it says which and why
        raise ReedError(
            f"column {job.column.name!r}: no sample could be read to calibrate it, or none "
            "is finite"
        )


def _cuts(job: Job) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the cuts of the first shards, in order."""
    for shard in fitting.calibration_shards(job.plan):
        for keys in job.cuts(shard):
            yield shard, keys
