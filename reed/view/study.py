"""What each codec would cost and keep of a column that is there, measured on its own records."""

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

PLAIN = "plain int8"  # what int8 would be without a calibration; only to compare with
NAMES = ("float32", "float16", "bfloat16", "int8", PLAIN, "pca:128", "pca:128+int8", "pca:64+int8")
RUNS, TIMED = 5, 32  # the rates are medians of so many runs over so many records


@dataclass(frozen=True)
class Row:
    """One codec. bytes: per record; cosine, worst: of a token to what is left of it.

    similarity_error: mean absolute change of the cosine between two tokens; similarity_correlation:
    mean over records of the correlation of these cosines before and after, None where it is not
    defined; encode_rate, decode_rate: records/s on this CPU. problem: why there are no numbers.
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
    """The rows of one field; stored: the codec it was read from, which is the original here."""

    place: str
    kind: str
    stored: str
    channels: int
    calibrated: int
    measured: int
    rows: tuple[Row, ...]


def targets(cache: Path, place: str) -> list[tuple[Column, Field]]:
    """The fields to study: the one that "column/field" names, or all targets of "column"."""
    with open_cache(cache) as opened:
        if "/" in place:
            found = [opened.column_and_field(place)]
        else:
            column = opened.column(place)
            found = [(column, f) for f in column.fields if f.kind in ("token", "sample")]
            if not found:
                kinds = ", ".join(sorted({field.kind for field in column.fields}))
                problem = f"column {place!r} of {cache} has fields of kind {kinds}"
                raise ReedError(f"{problem}: no target")
    for column, field in found:
        where = f"{column.name}/{field.name}"
        if field.kind not in ("token", "sample"):
            raise ReedError(f"{where} is of kind {field.kind!r}; study a token or sample field")
        if codecs.codec_of(field).decoded_shape(field) != field.shape:
            raise ReedError(
                f"{where} is stored as {field.codec}, which keeps too little to study; "
                f"build it again with --codec {where}=float32 in another --cache"
            )
    return found


def study(
    cache: Path,
    column: Column,
    field: Field,
    *,
    samples: int = 512,
    names: Sequence[str] = (),
    progress: bool = True,
) -> Study:
    """Measure codecs on one field: calibrated on the first records, measured on the others.

    samples: records in all, of which half but at most 256 calibrate; names: of codecs, by default
    NAMES. Raises ReedError for an unknown codec, and when there are fewer than two records.
    """
    for name in names:
        if name != PLAIN:
            codecs.codec_of(replace(field, codec=name))
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
    """The first records of a field in cache order, which is a random one."""
    with open_cache(cache) as opened:
        records = islice(opened.records(f"{column.name}/{field.name}"), samples)
        bar = tqdm(records, "read", samples, unit="record", disable=not progress)
        return [value for _, value in bar]


class _PlainInt8(codecs.Int8):
    """Per-token int8 without the channels' rms."""

    def calibrate(self, arrays: Sequence[np.ndarray]) -> State:
        return {"rms": np.ones(arrays[0].shape[-1], np.float32)}


class _Trial:
    """One codec on its way through the records; the first ReedError ends it."""

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
        """Add the vectors of a group, whose similarities are `before`; apart: each is a record."""
        if self._problem:
            return
        try:
            left = np.stack([self._back(v) for v in group]) if apart else self._back(group)
        except ReedError as error:
            self._problem = str(error)
            return
        after = fidelity.similarities(left)
        self._cosines.append(fidelity.cosines(group, left))
        self._errors.append(np.abs(after - before))
        if len(before) > 1 and before.std() > 0 and after.std() > 0:
            self._correlations.append(float(np.corrcoef(before, after)[0, 1]))

    def _back(self, value: np.ndarray) -> np.ndarray:
        parts = self._codec.encode(value, self._state)
        return self._codec.restore(codecs.decode_one(self._codec, parts, self._state), self._state)

    def row(self, arrays: Sequence[np.ndarray]) -> Row:
        """What was measured; arrays: records to take the time with."""
        if self._problem:
            return Row(self._name, problem=self._problem)
        cosines, errors = np.concatenate(self._cosines), np.concatenate(self._errors)
        stored = [self._codec.encode(array, self._state) for array in arrays[:TIMED]]
        state = {name: torch.from_numpy(array) for name, array in self._state.items()}
        parts = [[torch.from_numpy(np.asarray(part))[None] for part in each] for each in stored]
        if len({tuple(part.shape for part in each) for each in parts}) == 1:  # as a stream does it
            parts = [[torch.cat(same) for same in zip(*parts, strict=True)]]

        def decode(each: Sequence[torch.Tensor]) -> None:
            self._codec.decode([part.clone() for part in each], state)

        return Row(
            self._name,
            bytes=sum(part.nbytes for each in parts for part in each) / len(stored),
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
    """Items/s, the median of some runs."""
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        for item in items:
            work(item)
        seconds.append(time.perf_counter() - began)
    return len(items) / median(seconds)


def table(found: Study) -> Iterator[str]:
    """A study as the lines of a plain table."""
    between = "tokens of a record" if found.kind == "token" else "records"
    yield (
        f"{found.place}: {found.kind}, {found.channels} channels, stored as {found.stored}; "
        f"calibrated on {found.calibrated} records, measured on {found.measured} others"
    )
    if found.stored != "float32":
        yield f"the column itself is {found.stored}: what is called the original has that loss"
    yield f"cosine: to the original; similarity: of the cosines between the {between}"
    if any(row.codec.startswith("pca") and not row.problem for row in found.rows):
        yield (
            f"pca: whitened components have no original, so they are un-whitened back to "
            f"{found.channels} channels and compared there; the lost directions count"
        )
    yield ""
    yield (
        f"{'codec':<14}{'bytes':>9}{'cosine':>10}{'worst':>10}{'sim.error':>11}{'sim.corr':>10}"
        f"{'encode/s':>12}{'decode/s':>12}"
    )
    for row in found.rows:
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
