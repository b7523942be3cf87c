"""Calling an encoder, which may be a user's own, and checking what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any

from reed.build.kept import Record as Record
from reed.build.reading import Chunk
from reed.build.source import BadSample, Sample
from reed.errors import ReedError, placed

if TYPE_CHECKING:
    from reed.build.shard import Job


def encode_views(job: Job, chunk: Chunk, failed: dict[str, str]) -> list[Record]:
    """Encode a chunk, one call per view.

    The bytes of the first view are then those of a cache without other views.
    """
    views: list[dict[str, dict[str, Any]]] = []
    for view in range(job.plan.manifest.views):
        batch = [(key, sample[view]) for key, sample in chunk.samples.items() if key not in failed]
        views.append(dict(_encode(job, batch, failed)) if batch else {})
    good = [key for key in chunk.samples if key not in failed]
    return [(key, [values[key] for values in views]) for key in good]


def _encode(
    job: Job, batch: list[tuple[str, Sample]], failed: dict[str, str]
) -> list[tuple[str, dict[str, Any]]]:
    """Encode a batch in one call; if the encoder refuses it, one by one to find bad samples."""
    try:
        values = _called(job, batch)
    except BadSample as error:
        if len(batch) > 1:
            return [record for pair in batch for record in _encode(job, [pair], failed)]
        failed[batch[0][0]] = str(error)
        return []

    # The encoder may be a user's own, so what it returns is checked.
    names = [field.name for field in job.column.fields]
    _check_counts(job, names, values, len(batch))
    records = [(key, {n: values[n][i] for n in names}) for i, (key, _) in enumerate(batch)]
    for key, record in records:
        _check_shapes(job, key, record)
    return records


def _check_counts(job: Job, names: list[str], values: Any, count: int) -> None:
    """Raise ReedError unless an encoder returned a value of every field for every sample."""
    where = f"column {job.column.name!r}: the encoder gave"
    if not isinstance(values, Mapping):
        kind = type(values).__name__
        raise ReedError(f"{where} a value of type {kind}; return {{field: one value per sample}}")
    for name in names:
        given = values.get(name, ())
        if not isinstance(given, Sized):
            kind = type(given).__name__
            raise ReedError(f"{where} field {name!r} of type {kind}; return one value per sample")
        if len(given) != count:
            raise ReedError(f"{where} {len(given)} values of field {name!r} for {count} samples")


def _check_shapes(job: Job, key: str, values: dict[str, Any]) -> None:
    """Raise ReedError if a value has another shape than the encoder states."""
    for field in job.column.fields:
        shape = tuple(getattr(values[field.name], "shape", ()))
        fits = len(shape) == len(field.shape) and all(
            want in (None, have) for want, have in zip(field.shape, shape, strict=True)
        )
        if not fits:
            raise ReedError(
                f"column {job.column.name!r}, field {field.name!r}, key {key!r}: "
                f"shape {shape} is not {field.shape}, which the encoder states"
            )


def _called(job: Job, batch: list[tuple[str, Sample]]) -> Mapping[str, Any]:
    """Call the encoder; an error in a user's own code says at which key it happened."""
    try:
        return job.encoder.encode([sample for _, sample in batch])
    except (ReedError, BadSample):
        raise
    except Exception as error:
        # The batch does not tell which of its samples is at fault; one of them alone may.
        failing = batch[:1] if len(batch) == 1 else [pair for pair in batch if _fails(job, pair)]
        key = failing[0][0] if failing else batch[0][0]
        more = "" if failing else f" and the {len(batch) - 1} after it, not one of them alone"
        with placed(f"column {job.column.name!r}, key {key!r}{more}"):
            raise error


def _fails(job: Job, pair: tuple[str, Sample]) -> bool:
    try:
        job.encoder.encode([pair[1]])
    except Exception:
        return True
    return False
