"""reed-cache study: the size, the loss and the speed of codecs on the records of a column."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from reed.cache.codecs import codecs, fidelity
from reed.cache.codecs.codecs import Codec, State
from reed.cache.opened import open_cache
from reed.cache.schema import Column, Field
from reed.errors import ReedError

PLAIN = "plain int8"  # int8 without calibration, only for comparison
NAMES = ("float32", "float16", "bfloat16", "int8", PLAIN, "pca:128", "pca:128+int8", "pca:64+int8")
RUNS, TIMED = 5, 32  # rates are medians of RUNS runs over TIMED records


@dataclass(frozen=True)
class Row:
    """The results of one codec.

    Attributes:
        codec: Its name.
        bytes: Bytes per record.
        cosine: Mean cosine between a token and its decoded form.
        worst: The lowest of these cosines.
        similarity_error: Mean absolute change of the cosine between two tokens.
        similarity_correlation: Correlation of these cosines before and after, mean over records;
            None if it is not defined.
        encode_rate: Records per second on this CPU.
        decode_rate: Records per second on this CPU.
        problem: Why there are no results; empty if there are.
    """

    codec: str
    bytes: float = 0.0
    cosine: float = 0.0
    worst: float = 0.0
    similarity_error: float = 0.0
    similarity_correlation: float | None = None
    encode_rate: float = 0.0
    decode_rate: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class Study:
    """The results of all codecs on one field.

    Attributes:
        place: "column/field".
        kind: Kind of the field.
        stored: Codec that the field is stored with; its decoded values are the original here.
        channels: Number of channels.
        calibrated: Records for calibration.
        measured: Records that were measured.
        rows: One row per codec.
    """

    place: str
    kind: str
    stored: str
    channels: int
    calibrated: int
    measured: int
    rows: tuple[Row, ...]


def targets(cache: Path, place: str) -> list[tuple[Column, Field]]:
    """Return the fields to study: the one at "column/field", or all targets in "column".

    Raises:
        ReedError: There is no target, or a field is stored with a codec that loses channels.
    """
    with open_cache(cache) as opened:
        if "/" in place:
            fields = [opened.column_and_field(place)]
        else:
            column = opened.column(place)
            fields = [(column, f) for f in column.fields if f.kind in ("token", "sample")]
            if not fields:
                kinds = ", ".join(sorted({field.kind for field in column.fields}))
                problem = f"column {place!r} of {cache} has fields of kind {kinds}"
                raise ReedError(f"{problem}: no target")

    # A codec that drops channels leaves no original to compare with.
    for column, field in fields:
        address = f"{column.name}/{field.name}"
        if field.kind not in ("token", "sample"):
            raise ReedError(f"{address} is of kind {field.kind!r}; study a token or sample field")
        if codecs.codec_of(field).decoded_shape(field) != field.shape:
            raise ReedError(
                f"{address} is stored as {field.codec}, which keeps too little to study; "
                f"build it again with --codec {address}=float32 in another --cache"
            )
    return fields


def study(
    cache: Path,
    column: Column,
    field: Field,
    *,
    samples: int = 512,
    names: Sequence[str] = (),
    progress: bool = True,
) -> Study:
    """Measure codecs on one field: calibrate on the first records, measure on the others.

    Args:
        cache: Folder of the cache.
        column: Column of the field.
        field: The field.
        samples: Number of records; half of them, at most 256, calibrate.
        names: Codecs; by default NAMES.
        progress: Whether to show progress bars.

    Raises:
        ReedError: A codec is unknown, or there are fewer than two records.
    """
    for name in names:
        if name != PLAIN:
            codecs.codec_of(replace(field, codec=name))

    # The loss on the records of the calibration would be too low, so others are measured.
    arrays = _read(cache, column, field, samples, progress)
    half = min(256, len(arrays) // 2)
    if not half:
        raise ReedError(f"{column.name}/{field.name} has {len(arrays)} records, a study takes two")
    first, rest = arrays[:half], arrays[half:]
    trials = [_Trial(name, replace(field, codec=name), first) for name in names or NAMES]

    groups = [np.stack(rest)] if field.kind == "sample" else rest
    for group in tqdm(groups, "measure", unit="record", disable=not progress, dynamic_ncols=True):
        before = fidelity.similarities(group)
        for trial in trials:
            trial.measure(group, before, apart=field.kind == "sample")
    rows = tuple(t.row(rest) for t in tqdm(trials, "time", unit="codec", disable=not progress))
    place, channels = f"{column.name}/{field.name}", arrays[0].shape[-1]
    return Study(place, field.kind, field.codec, channels, half, len(rest), rows)


def _read(
    cache: Path, column: Column, field: Field, samples: int, progress: bool
) -> list[np.ndarray]:
    """Return the first records of a field in cache order, which is random."""
    with open_cache(cache) as opened:
        records = islice(opened.records(f"{column.name}/{field.name}"), samples)
        bar = tqdm(records, "read", samples, unit="record", disable=not progress)
        return [value for _, value in bar]


class _PlainInt8(codecs.Int8):
    """Per-token int8 without the rms of the channels."""

    def calibrate(self, arrays: Sequence[np.ndarray]) -> State:
        return {"rms": np.ones(arrays[0].shape[-1], np.float32)}


class _Trial:
    """Measures one codec on groups of records; the first ReedError ends it."""

    def __init__(self, name: str, field: Field, arrays: Sequence[np.ndarray]) -> None:
        self._name, self._problem = name, ""
        self._cosines: list[np.ndarray] = []
        self._errors: list[np.ndarray] = []
        self._correlations: list[float] = []
        try:
            self._codec: Codec = _PlainInt8() if name == PLAIN else codecs.codec_of(field)
            self._state = self._codec.calibrate(arrays)
        except ReedError as error:
            self._problem = str(error)

    def measure(self, group: np.ndarray, before: np.ndarray, apart: bool) -> None:
        """Add the vectors of a group.

        Args:
            group: Vectors [N, D].
            before: Their similarities.
            apart: Whether each vector is a record, so that each is encoded on its own.
        """
        if self._problem:
            return
        try:
            decoded = np.stack([self._back(v) for v in group]) if apart else self._back(group)
        except ReedError as error:
            self._problem = str(error)
            return
        after = fidelity.similarities(decoded)
        self._cosines.append(fidelity.cosines(group, decoded))
        self._errors.append(np.abs(after - before))
        if len(before) > 1 and before.std() > 0 and after.std() > 0:
            self._correlations.append(float(np.corrcoef(before, after)[0, 1]))

    def _back(self, value: np.ndarray) -> np.ndarray:
        parts = self._codec.encode(value, self._state)
        return self._codec.restore(codecs.decode_one(self._codec, parts, self._state), self._state)

    def row(self, arrays: Sequence[np.ndarray]) -> Row:
        """Return the results; `arrays` are records to measure the rates with."""
        if self._problem:
            return Row(self._name, problem=self._problem)
        cosines, errors = np.concatenate(self._cosines), np.concatenate(self._errors)

        stored = [self._codec.encode(array, self._state) for array in arrays[:TIMED]]
        state = {name: torch.from_numpy(array) for name, array in self._state.items()}
        parts = [[torch.from_numpy(np.asarray(part))[None] for part in record] for record in stored]
        # Records of one shape are decoded as a batch, as a stream does.
        if len({tuple(part.shape for part in record) for record in parts}) == 1:
            parts = [[torch.cat(same) for same in zip(*parts, strict=True)]]

        def decode(record: Sequence[torch.Tensor]) -> None:
            self._codec.decode([part.clone() for part in record], state)

        return Row(
            self._name,
            bytes=sum(part.nbytes for record in parts for part in record) / len(stored),
            cosine=float(cosines.mean()),
            worst=float(cosines.min()),
            similarity_error=float(errors.mean()) if len(errors) else 0.0,
            similarity_correlation=float(np.mean(self._correlations))
            if self._correlations
            else None,
            encode_rate=_rate(lambda a: self._codec.encode(a, self._state), arrays[:TIMED]),
            decode_rate=_rate(decode, parts) * len(stored) / len(parts),
        )


def _rate(work: Callable[[Any], Any], items: Sequence[Any]) -> float:
    """Return items per second, as the median of RUNS runs."""
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        for item in items:
            work(item)
        seconds.append(time.perf_counter() - began)
    return len(items) / median(seconds)


def table(study: Study) -> Iterator[str]:
    """Yield a study as lines of a plain table."""
    between = "tokens of a record" if study.kind == "token" else "records"
    yield (
        f"{study.place}: {study.kind}, {study.channels} channels, stored as {study.stored}; "
        f"calibrated on {study.calibrated} records, measured on {study.measured} others"
    )
    # Without these lines, the loss of the stored codec would be taken for that of the others.
    if study.stored != "float32":
        yield f"the column itself is {study.stored}: what is called the original has that loss"
    yield f"cosine: to the original; similarity: of the cosines between the {between}"
    if any(row.codec.startswith("pca") and not row.problem for row in study.rows):
        yield (
            f"pca: whitened components have no original, so they are un-whitened back to "
            f"{study.channels} channels and compared there; the lost directions count"
        )

    yield ""
    yield (
        f"{'codec':<14}{'bytes':>9}{'cosine':>10}{'worst':>10}{'sim.error':>11}{'sim.corr':>10}"
        f"{'encode/s':>12}{'decode/s':>12}"
    )

    for row in study.rows:
        if row.problem:
            yield f"{row.codec:<14}  {row.problem}"
            continue
        correlation = row.similarity_correlation
        yield (
            f"{row.codec:<14}{row.bytes:>9,.0f}{row.cosine:>10.6f}{row.worst:>10.6f}"
            f"{row.similarity_error:>11.6f}"
            f"{'-' if correlation is None else f'{correlation:.6f}':>10}"
            f"{row.encode_rate:>12,.0f}{row.decode_rate:>12,.0f}"
        )
