"""The calibration of a column, from its first records; what they were encoded to is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from reed.build import shard as build
from reed.build.shard import Job
from reed.build.shared import SharedReader
from reed.cache.codecs import codecs
from reed.cache.codecs.codecs import State
from reed.cache.plan import Plan
from reed.cache.schema import Field
from reed.errors import ReedError

CALIBRATION = 256  # the first records of the cache order, which is random
PAIR_STEP = 16  # of a pair field, every 16th token is used with all its neighbours, to save memory


def calibration_shards(planned: Plan) -> range:
    """Return the shards with the records on which columns are calibrated."""
    last = min(CALIBRATION, len(planned.keys)) - 1
    return range(planned.locate(last)[0] + 1)


def calibrate(job: Job, reader: SharedReader | None = None, progress: bool = False) -> State:
    """Return the calibration from the first records: "field/key" -> array; empty if not needed.

    Args:
        job: The column; what is encoded is added to ``job.kept``.
        reader: The reader that several columns share; by default the source is read here.
        progress: Whether to show a bar.

    Raises:
        ReedError: Too many samples fail, or no codec can be calibrated on the rest.
    """
    needs = [f for f in job.column.fields if codecs.codec_of(f).needs_calibration]
    if not needs:
        return {}
    values: dict[str, list] = {field.name: [] for field in needs}
    _collect(job, values, reader, progress)

    state: State = {}
    for field in needs:
        try:
            calibration = codecs.codec_of(field).calibrate(values[field.name])
        except ReedError as error:
            raise ReedError(f"column {job.column.name!r}, field {field.name!r}: {error}") from error
        state |= {f"{field.name}/{name}": array for name, array in calibration.items()}
    return state


def _collect(
    job: Job, values: dict[str, list], reader: SharedReader | None, progress: bool
) -> None:
    """Encode the first records and add the fields that calibration needs to ``values``."""
    fields = [job.column.field(name) for name in values]
    tally, first = build.new_tally(job), values[fields[0].name]
    with tqdm(
        total=min(CALIBRATION, len(job.plan.keys) * job.plan.manifest.views),
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

            # Only what calibration needs is used: these fields must fit into memory.
            samples = [sample for _, views in encoded.records for sample in views]
            finite = [sample for sample in samples if _is_finite(sample, values)]
            for sample in finite[: CALIBRATION - len(first)]:
                for field in fields:
                    values[field.name].append(_part(sample[field.name], field))
            bar.update(min(len(first), bar.total) - bar.n)
            if len(first) == CALIBRATION:
                return

    if not first:
        tally.check()  # where samples failed, it says which and why
        raise ReedError(
            f"column {job.column.name!r}: no sample could be read to calibrate it, or none "
            "is finite"
        )


def _cuts(job: Job) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the cuts of the first shards, in order."""
    for shard in calibration_shards(job.plan):
        for keys in job.cuts(shard):
            yield shard, keys


def _part(value: Any, field: Field) -> Any:
    """Return the tokens of a value on which a field is calibrated."""
    return value[::PAIR_STEP] if field.kind == "pair" else value


def _is_finite(sample: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether a sample can be used to calibrate; others are left out when a shard is written."""
    with np.errstate(over="ignore"):
        return all(np.isfinite(np.asarray(sample[name], np.float32)).all() for name in names)
