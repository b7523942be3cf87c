"""A set of samples on disk: any number of processes draw its parts, and the last writes its files.

OUT.json       the kind of data, the recipe (all that the samples depend on), the number of samples
OUT.parts/     one file per batch of samples; a larger set adds files
OUT.npz, ...   the files that the domain's output writes from the parts
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from tqdm import tqdm

import reed
from reed import config
from reed.build.engines import Share
from reed.bytes import check_readable
from reed.cache import files
from reed.errors import ReedError
from reed.registry import Registry
from reed.sample.sampler import BATCH, PROBLEM, Sampler
from reed.wording import changed

OUTPUTS = Registry("output of samples", "reed.sample.outputs", group="reed.outputs")
PLAIN = "arrays"  # output of kinds that have no output of their own
# Entries of OUT.json that may differ between the commands that draw one set: paths, and facts that
# the hash of the weights already determines.
FREE = tuple(
    "num files problems run checkpoint weak_checkpoint images_seen config versions kind".split()
)


@dataclass
class Output:
    """Base class of outputs, which convert samples of one kind and write them to files.

    An output is a dataclass that extends this one, registered in OUTPUTS under the name of its
    domain. Its fields are its options (see reed.config.option).

    Attributes:
        recipe: What the files depend on besides the drawn samples; set by ``open``.
        said: Messages for the user; set by ``open``.
    """

    recipe: dict[str, Any] = field(default_factory=dict, init=False)
    said: list[str] = field(default_factory=list, init=False)

    @property
    def name(self) -> str:
        """The options that differ from their defaults, as part of a file's name."""
        return ""

    def sets(self) -> list[Any]:
        """Return one output per set of samples that these options ask for."""
        return [self]

    def open(self, sampler: Sampler, device: str) -> None:
        """Prepare for the samples of a sampler; ReedError if that is impossible."""

    def sampling(self, options: Any) -> Any:
        """Return the options of the domain, completed by what only the output knows."""
        return options

    def convert(self, drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the arrays [batch, ...] to keep of a batch of samples, by name."""
        return drawn

    def files(self, out: Path) -> Mapping[Path, Writer]:
        """Return {path: function that writes the file (whole or not at all) or folder there}."""
        raise NotImplementedError


# A function that writes a file; it returns the samples that the file cannot hold, with the reason.
Writer = Callable[[Path, "SampleSet"], Mapping[int, str] | None]


def output_of(kind: str) -> type[Output]:
    """Return the output class of a kind; if it has none, that of plain arrays."""
    return OUTPUTS.get(kind if kind in OUTPUTS.names() else PLAIN)


def recipe_of(sampler: Sampler, options: Any, output: Output, batch: int) -> dict[str, Any]:
    """Return the kind of data and everything that the samples depend on, as plain data."""
    plain = config.plain(options)
    if "guides" not in sampler.about:
        plain.pop("z", None)  # the options of guides; sets of before they came do not have them
    table = {"kind": sampler.kind} | sampler.about | plain | output.recipe
    table |= {"precision": sampler.precision, "batch": batch}
    return json.loads(json.dumps(config.plain(table), default=str))


def batch_of(out: Path, num: int) -> int:
    """Return the default batch size: that of the samples already drawn, else BATCH or `num`."""
    path = beside(out, ".json")
    used = config.read(path).get("batch") if path.is_file() else None
    return used if isinstance(used, int) and used > 0 else min(BATCH, num)


class SampleSet:
    """Samples 0 to num - 1 of one recipe, in files at `out` and beside it.

    Args:
        out: Path of the files without an ending.
        recipe: What the samples depend on, see ``recipe_of``.
        num: Number of samples.
        output: Output that converts the samples and writes the files.
        progress: Whether to show progress bars.

    Raises:
        ReedError: There are samples of another recipe, or more than `num`.
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
        """Number of parts of the complete set."""
        return -(-self.num // self.batch)

    def missing(self) -> list[int]:
        """Return the numbers of the parts that are not drawn yet."""
        drawn = {path.name for path in self._parts.glob("*.npz")}
        return [number for number in range(self.batches) if self._part(number).name not in drawn]

    def empty_share(self, share: Share) -> str:
        """Return a message if a share has no parts, because the set has fewer than shares."""
        if share.of(range(self.batches)):
            return ""
        size, least = self.batch, max(1, self.num // share.world)
        advice = f"at most {self.num} shares" if size == 1 else f"a new --out with --batch {least}"
        return (
            f"{self.out}: share {share.rank}/{share.world} has nothing to draw, because shares are "
            f"whole batches: {self.num} samples in batches of {size} are {self.batches} in all; to "
            f"give every job a share, use {advice} in all jobs"
        )

    def is_written(self) -> bool:
        """Return whether every file holds all samples."""
        return all(self._holds_all(path) for path in self._files)

    def fill(self, sampler: Sampler, options: Any, share: Share) -> None:
        """Draw the missing parts of a share; parts that exist are kept."""
        missing = set(self.missing())
        numbers = share.of(range(self.batches))
        todo = [number for number in numbers if number in missing]

        with tqdm(
            total=len(numbers) * self.batch,
            initial=(len(numbers) - len(todo)) * self.batch,
            desc=self.out.name,
            unit="sample",
            disable=self._quiet,
            dynamic_ncols=True,
        ) as bar:
            # One bad sample must not cost the others of its batch, nor those of later batches.
            for number in todo:
                drawn = sampler.batch(number, options, self.batch, False)
                named = {PROBLEM: drawn.pop(PROBLEM)} if PROBLEM in drawn else {}
                self._add(number, self._output.convert(drawn) | named)
                bar.update(self.batch)

    def finish(self) -> bool:
        """Write the files if every part is drawn, one process at a time; return whether it is."""
        if self.missing():
            return self.is_written()  # another process may have removed the parts
        with files.only_writer(self._parts, wait=True):
            todo = {path: w for path, w in self._files.items() if not self._holds_all(path)}
            unsound = self._unsound() if todo else {}
            for path, write in todo.items():
                self._record(path, unsound, write(path, self) or {})
        return True

    def remove_parts(self) -> None:
        """Remove the drawn parts, from which no more files can be written then."""
        shutil.rmtree(self._parts, ignore_errors=True)

    @property
    def problems(self) -> dict[str, str]:
        """Reason by the number of a sample that is not sound, or that a file cannot hold."""
        return self._recorded().get("problems", {})

    def parts(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield the arrays of each part by name, in order, `num` samples in total."""
        quiet = self._quiet
        for number in tqdm(range(self.batches), "files", leave=False, unit="part", disable=quiet):
            left = self.num - number * self.batch
            values = self._read(number)
            values.pop(PROBLEM, None)
            yield {name: value[:left] for name, value in values.items()}

    def _part(self, number: int) -> Path:
        return self._parts / f"{number:06d}.npz"

    def _read(self, number: int, *names: str) -> dict[str, np.ndarray]:
        """Read the arrays of a part; of these names alone if there are any."""
        path = self._part(number)
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                values = {name: arrays[name] for name in arrays.files if name in (names or arrays)}
        except (OSError, EOFError, ValueError, BadZipFile) as error:
            check_readable(path)
            raise ReedError(f"cannot read {path}: {error}; delete it and rerun") from error

        # A part without the named arrays is sound.
        rows = {name: len(value) for name, value in values.items()}
        if not (rows or names) or set(rows.values()) - {self.batch}:
            raise ReedError(
                f"{path} holds {rows} samples instead of {self.batch}; delete it and rerun"
            )
        return values

    def _unsound(self) -> dict[int, str]:
        """Return what was wrong with samples when they were drawn, by their number."""
        found = {}
        for number in range(self.batches):
            for row, problem in enumerate(self._read(number, PROBLEM).get(PROBLEM, ())):
                if problem and number * self.batch + row < self.num:
                    found[number * self.batch + row] = str(problem)
        return found

    def _add(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        if not self._json.is_file():
            # Of several processes that start at once, one writes it and the others compare.
            files.write_atomic(self._json, _dump(self._table({})), overwrite=False)
        self._check()
        with files.open_new(self._part(number)) as file:
            np.savez(file, allow_pickle=False, **arrays)

    def _table(self, held: dict[str, int]) -> dict[str, Any]:
        versions = {"reed": reed.__version__, "torch": str(torch.__version__)}
        num = max(held.values(), default=0)
        return self._recipe | {"num": num, "files": held, "versions": versions}

    def _recorded(self) -> dict[str, Any]:
        """Return the content of OUT.json; empty if it does not exist."""
        return config.read(self._json) if self._json.is_file() else {}

    def _holds_all(self, path: Path) -> bool:
        return path.exists() and self._recorded().get("files", {}).get(path.name) == self.num

    def _record(self, path: Path, unsound: Mapping[int, str], refused: Mapping[int, str]) -> None:
        """Record that a file holds all samples, and which samples are not sound or not in it."""
        held = self._recorded()["files"] | {path.name: self.num}
        problems = self.problems

        # A sample may be unsound as drawn, and for that reason not fit into a file either.
        for more in (unsound, refused):
            for number, reason in more.items():
                said = problems.get(f"{number:06d}", "")
                problems[f"{number:06d}"] = said if reason in said else f"{said}; {reason}"
        problems = {number: problems[number].removeprefix("; ") for number in sorted(problems)}
        table = self._table(held) | ({"problems": problems} if problems else {})
        files.write_atomic(self._json, _dump(table))

    def _check(self) -> None:
        recorded = self._recorded()
        if not recorded:
            # Without OUT.json nobody can tell whether existing files have the same recipe.
            for path in filter(Path.exists, (self.out, self._parts, *self._files)):
                raise ReedError(
                    f"{path} is there, but not {self._json}, which would say how it was drawn; "
                    "move it away or choose another --out"
                )
            return

        # An option that did not exist when the samples were drawn is one that is empty now.
        kept = [{k: t[k] for k in t if k not in FREE} for t in (recorded, self._recipe)]
        for name, old, new in config.differences(*kept, ""):
            if old not in (None, []) or new not in (None, []):
                said = changed(name[1:], old, new)
                raise ReedError(f"{self.out} was drawn {said}; choose another --out")
        if recorded["num"] > self.num:
            raise ReedError(
                f"{self.out} has {recorded['num']} samples, more than {self.num}; the first are "
                "the same ones, or choose another --out"
            )


def beside(out: Path, ending: str) -> Path:
    """Return `out` with an ending appended, such as OUT.npz; its name may contain dots."""
    return out.with_name(out.name + ending)  # with_suffix would cut "cfg1.8"


def _dump(table: dict[str, Any]) -> bytes:
    return (json.dumps(table, indent=1) + "\n").encode()
