"""A set of samples on disk: drawn in parts by any number of processes, written once all are there.

OUT.json       the recipe: all that the samples depend on, and how many the files hold
OUT.parts/     a file per batch of samples, as drawn; more samples are added to these
OUT.npz, ...   what the output of the domain writes from the parts
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from tqdm import tqdm

import reed
from reed import config
from reed.build.engines import Share
from reed.cache import files
from reed.errors import ReedError
from reed.registry import Registry
from reed.sample.sampler import Sampler

OUTPUTS = Registry("output of samples", "reed.sample.outputs", group="reed.outputs")
# what may differ between runs of the command that draw one set: places, and what weights tell, too
FREE = ("num", "files", "run", "checkpoint", "images_seen", "config", "versions")


class Output(Protocol):
    """What becomes of the samples of one domain: registered in OUTPUTS under the domain's name.

    An implementation is a dataclass: its settings are its fields. recipe: what the files depend on
    besides the samples; name: the same in short, empty where it is the default; said: what to tell
    the user.
    """

    recipe: dict[str, Any]
    name: str
    said: list[str]

    def open(self, sampler: Sampler, device: str) -> None:
        """Get ready for the samples of a net; ReedError when that cannot be."""
        ...

    def convert(self, drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What is kept of a batch of samples: name -> array [batch, ...]."""
        ...

    def files(self, out: Path) -> Mapping[Path, Callable[[Path, SampleSet], None]]:
        """Path -> what writes the file (whole or not at all) or folder there."""
        ...


def recipe_of(sampler: Sampler, options: Any, output: Output, batch: int) -> dict[str, Any]:
    """All that the samples depend on, in plain values."""
    table = sampler.about | config.plain(options) | output.recipe
    table |= {"precision": sampler.precision, "batch": batch}
    return json.loads(json.dumps(config.plain(table), default=str))


class SampleSet:
    """Samples 0 to num - 1 of one recipe, at `out` and beside it.

    progress: show bars. Raises ReedError when another recipe's samples are there, or more than
    `num`.
    """

    def __init__(
        self, out: Path, recipe: dict[str, Any], num: int, output: Output, *, progress: bool = True
    ) -> None:
        self.out, self.num, self.batch = out, num, recipe["batch"]
        self._recipe, self._output, self._quiet = recipe, output, not progress
        self._json, self._parts = beside(out, ".json"), beside(out, ".parts")
        self._files = output.files(out)
        self._check()

    @property
    def batches(self) -> int:
        """Parts that the set has when it is complete."""
        return -(-self.num // self.batch)

    def missing(self) -> list[int]:
        """The parts that are not there."""
        there = {path.name for path in self._parts.glob("*.npz")}
        return [number for number in range(self.batches) if self._part(number).name not in there]

    def is_written(self) -> bool:
        """Whether every file holds all samples."""
        return all(self._holds_all(path) for path in self._files)

    def fill(self, sampler: Sampler, options: Any, share: Share) -> None:
        """Draw the missing parts that are ours; those that are there are kept."""
        missing = set(self.missing())
        ours = share.of(range(self.batches))
        todo = [number for number in ours if number in missing]
        with tqdm(
            total=len(ours) * self.batch,
            initial=(len(ours) - len(todo)) * self.batch,
            desc=self.out.name,
            unit="sample",
            disable=self._quiet,
            dynamic_ncols=True,
        ) as bar:
            for number in todo:
                self._add(number, self._output.convert(sampler.batch(number, options, self.batch)))
                bar.update(self.batch)

    def finish(self) -> bool:
        """Write the files if every part is there, one process at a time; whether they are."""
        if self.missing():
            return False
        with _alone(self._parts / "lock"):
            for path, write in self._files.items():
                if not self._holds_all(path):
                    write(path, self)
                    self._record(path)
        return True

    def parts(self) -> Iterator[dict[str, np.ndarray]]:
        """Name -> array, part by part in order, `num` samples in all."""
        numbers = range(self.batches)
        for number in tqdm(numbers, "files", leave=False, unit="part", disable=self._quiet):
            path = self._part(number)
            try:
                with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                    values = dict(arrays.items())
            except (OSError, EOFError, ValueError, BadZipFile) as error:
                raise ReedError(f"cannot read {path}: {error}; delete it and rerun") from error
            rows = {name: len(value) for name, value in values.items()}
            if not rows or set(rows.values()) != {self.batch}:
                raise ReedError(
                    f"{path} holds {rows} samples instead of {self.batch}; delete it and rerun"
                )
            left = self.num - number * self.batch
            yield {name: value[:left] for name, value in values.items()}

    def _part(self, number: int) -> Path:
        return self._parts / f"{number:06d}.npz"

    def _add(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        if not self._json.is_file():
            # of several processes that start at once, one writes it; the others compare
            files.write_atomic(self._json, _dump(self._table({})), overwrite=False)
        self._check()
        with files.open_new(self._part(number)) as file:
            np.savez(file, **arrays)

    def _table(self, held: dict[str, int]) -> dict[str, Any]:
        versions = {"reed": reed.__version__, "torch": str(torch.__version__)}
        num = max(held.values(), default=0)
        return self._recipe | {"num": num, "files": held, "versions": versions}

    def _recorded(self) -> dict[str, Any]:
        """What OUT.json says; empty where there is none."""
        return config.read(self._json) if self._json.is_file() else {}

    def _holds_all(self, path: Path) -> bool:
        return path.exists() and self._recorded().get("files", {}).get(path.name) == self.num

    def _record(self, path: Path) -> None:
        held = self._recorded()["files"] | {path.name: self.num}
        files.write_atomic(self._json, _dump(self._table(held)))

    def _check(self) -> None:
        recorded = self._recorded()
        if not recorded:
            for path in (self.out, self._parts, *self._files):
                if path.exists():
                    raise ReedError(
                        f"{path} is there, but not {self._json}, which would say how it was drawn; "
                        "move it away or choose another --out"
                    )
            return
        kept = [{k: v for k, v in t.items() if k not in FREE} for t in (recorded, self._recipe)]
        for place, old, new in config.differences(*kept, ""):
            raise ReedError(
                f"{self.out} was drawn with {place[1:]} = {old!r}, now it is {new!r}; "
                "choose another --out"
            )
        if recorded["num"] > self.num:
            raise ReedError(
                f"{self.out} has {recorded['num']} samples, more than {self.num}; the first are "
                "the same ones, or choose another --out"
            )


@contextlib.contextmanager
def _alone(path: Path) -> Generator[None]:
    """Wait until no other process is in here; a lock that is held ends with its process."""
    with open(path, "ab") as file:
        with contextlib.suppress(OSError):  # a file system without locks: write it twice, then
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def beside(out: Path, ending: str) -> Path:
    """OUT.npz and the like, for an `out` whose name may hold dots."""
    return out.with_name(out.name + ending)  # with_suffix would cut "cfg1.8"


def _dump(table: dict[str, Any]) -> bytes:
    return (json.dumps(table, indent=1) + "\n").encode()
