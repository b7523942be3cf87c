"""Calling an encoder, which may be a user's own, and checking what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any

from reed.build import device
from reed.build.kept import Batch
from reed.build.reading import Chunk
from reed.build.source import BadSample, Sample
from reed.errors import ReedError, placed

if TYPE_CHECKING:
    from reed.build.shard import Job


def encode_views(job: Job, chunk: Chunk, failed: dict[str, str]) -> Batch:
    """Encode a chunk, one call per view.

    The bytes of the first view are then those of a cache without other views.
    """
    views: list[Batch] = []
    for view in range(job.plan.manifest.views):
        batch = [(key, sample[view]) for key, sample in chunk.samples.items() if key not in failed]
        views.append(_encode(job, batch, failed) if batch else Batch([], [{}]))

    # A sample that failed in a later view is in the batches of the earlier ones.
    good = [key for key in chunk.samples if key not in failed]
    wanted = set(good)
    kept = [view.some([i for i, key in enumerate(view.keys) if key in wanted]) for view in views]
    events = [event for view in kept for event in view.events]
    return Batch(good, [view.views[0] for view in kept], events)


def _encode(job: Job, batch: list[tuple[str, Sample]], failed: dict[str, str]) -> Batch:
    """Encode a batch in one call; if the encoder refuses it, one by one to find bad samples."""
    names = [field.name for field in job.column.fields]
    try:
        values = _called(job, batch)
    except BadSample as error:
        if len(batch) > 1:
            found = [_encode(job, [pair], failed) for pair in batch]
            found = [each for each in found if each.keys]
            joined = {n: [each.views[0][n][0] for each in found] for n in names}
            events = [event for each in found for event in each.events]
            return Batch([each.keys[0] for each in found], [joined], events)
        failed[batch[0][0]] = str(error)
        return Batch([], [{}])

    # The encoder may be a user's own, so what it returns is checked.
    _check_counts(job, names, values, len(batch))
    found = {name: device.placed(values[name]) for name in names}
    encoded = Batch([key for key, _ in batch], [found], [device.mark(found)])
    _check_shapes(job, encoded)
    return encoded


def _check_counts(job: Job, names: list[str], values: Any, count: int) -> None:
    """Raise ReedError unless an encoder returned a value of every field for every sample."""
    where = f"column {job.column.name!r}: the encoder gave"
    if not isinstance(values, Mapping):
        kind = type(values).__name__
        raise ReedError(f"{where} a value of type {kind}; return {{field: one value per sample}}")
    for name in names:
        given = values.get(name, ())
        if not isinstance(given, Sized) or getattr(given, "shape", None) == ():
            kind = type(given).__name__
            raise ReedError(f"{where} field {name!r} of type {kind}; return one value per sample")
        if len(given) != count:
            raise ReedError(f"{where} {len(given)} values of field {name!r} for {count} samples")


def _check_shapes(job: Job, encoded: Batch) -> None:
    """Raise ReedError if a value has another shape than the encoder states."""
    for field in job.column.fields:
        values = encoded.views[0][field.name]
        few = values if isinstance(values, list) else values[:1]  # all have one shape
        for key, value in zip(encoded.keys, few, strict=False):
            shape = tuple(getattr(value, "shape", ()))
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
