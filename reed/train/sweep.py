"""A sweep: the runs of all combinations of some values of settings, and their names."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from itertools import product
from math import isfinite, prod
from pathlib import Path
from typing import Any

from reed import config, pipelines
from reed.cache import schema
from reed.errors import ReedError
from reed.train.request import Request, cache_of, merged, name_of, over_recipe, recipe_of

VARIANT, NONE = "variant", "none"  # the setting that is no setting; the recipe without a variant
MOST = 1000  # runs of a sweep: more are a typing error
LONG = 120  # characters of a name, from which on it is shortened
_RANGE = re.compile(r"([+-]?\d+)\.\.([+-]?\d+)")
_LIKE_RANGE = re.compile(r"[+-]?[\d.]*\d[\deE.+-]*\.\.[+-]?[\d.]*\d[\deE.+-]*")
_UNSAFE = re.compile(r"[^\w.=+,@%~-]+")  # characters that a name of a folder does not get


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it gets.

    Attributes:
        name: Its dotted name, without quotes.
        values: The values.
        tables: The same as tables to merge into the settings.
    """

    name: str
    values: tuple[Any, ...]
    tables: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Planned:
    """A run of a sweep.

    Attributes:
        name: Its name, which is that of its folder.
        table: Its settings.
    """

    name: str
    table: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep.

    Attributes:
        folder: Their folder.
        runs: The runs, in the order in which they are trained.
    """

    folder: Path
    runs: tuple[Planned, ...]


def refuse_launch() -> None:
    """Raise ReedError under a launcher, whose processes would all start the same runs."""
    if {"RANK", "LOCAL_RANK"} & os.environ.keys():
        raise ReedError(
            "--sweep starts its runs itself and takes no launcher: start it without torchrun or "
            "accelerate launch, once per GPU (CUDA_VISIBLE_DEVICES) to share the runs among them; "
            "to train one run on several GPUs, launch it alone, with --set in place of --sweep and "
            "its folder from --dry-run as --run"
        )


def of(request: Request, texts: Sequence[str]) -> Sweep:
    """Return the runs that some --sweep options ask for.

    Args:
        request: What all runs have in common; its `run` is the folder of the sweep.
        texts: Values of --sweep, as "name=values".

    Raises:
        ReedError: A name or a value cannot be swept, or two runs would have the same name.
    """
    axes = [axis(text) for text in texts]
    _check(request, axes)
    given = request.given()
    folder = _folder(request, given, axes)
    if (folder / "config.json").is_file():
        raise ReedError(
            f"{folder} is a run, and a sweep has a folder of its own: name another one by --run"
        )

    # The folder is all that tells one run from another, so its name must be its own.
    recipe, runs = cache(recipe_of), {}
    for choice in product(*(zip(each.values, each.tables, strict=True) for each in axes)):
        named = zip((each.name for each in axes), (value for value, _ in choice), strict=True)
        name = name_of_run(named)
        if name in runs:
            raise ReedError(
                f"--sweep makes two runs of the name {name}: give each value once; values that "
                "differ only in what a name of a folder cannot hold need sweeps of their own"
            )
        tables = [*(table for _, table in choice), {"run": str(folder / name)}]
        runs[name] = Planned(name, _table(given, tables, request.variant, recipe))
    return Sweep(folder, tuple(runs.values()))


def axis(text: str) -> Axis:
    """Parse "name=values".

    Values are separated by commas. Each is a value of --set, or a range of whole numbers with both
    ends, such as 0..4.

    Raises:
        ReedError: It has another form, or no values.
    """
    name, equals, rest = text.partition("=")
    if not equals or not name.strip():
        raise ReedError(
            f"--sweep {text!r} is not of the form name=values (such as optim.lr=1e-4,2e-4)"
        )
    parts = [part.strip() for part in _split(rest)]
    if not all(parts):
        raise ReedError(f"--sweep {text!r} has an empty value; an empty text is written '\"\"'")

    path = _path(name, "--sweep")
    values = [value for part in parts for value in _values(part, text)]
    return Axis(".".join(path), tuple(values), tuple(_nested(path, value) for value in values))


def name_of_run(choice: Iterable[tuple[str, Any]]) -> str:
    """Return a name such as "optim.lr=1e-4-seed=0", the same for equal numbers.

    Args:
        choice: Names of settings and their values.
    """
    name = "-".join(f"{setting}={_text(value)}" for setting, value in choice)
    name = _UNSAFE.sub("_", name)
    if len(name) <= LONG:
        return name
    return f"{name[: LONG - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _check(request: Request, axes: Sequence[Axis]) -> None:
    """Check which settings are swept, and how many runs that makes."""
    taken = {".".join(_path(text.partition("=")[0], "--set")) for text in request.assignments}
    taken |= {VARIANT} if request.variant else set()

    # One of two values would silently win.
    for number, each in enumerate(axes):
        if each.name == "run":
            raise ReedError("run cannot be swept: each run has a folder of its own, below --run")
        if each.name in [other.name for other in axes[:number]]:
            raise ReedError(f"--sweep {each.name} is given twice; give all its values at once")
        if each.name in taken:
            option = "--variant" if each.name == VARIANT else f"--set {each.name}"
            raise ReedError(f"--sweep {each.name} and {option} are both given; give one of them")

    total = prod(len(each.values) for each in axes)
    if total > MOST:
        raise ReedError(f"--sweep makes {total:,} runs, the most are {MOST:,}; give fewer values")


def _folder(request: Request, given: Mapping[str, Any], axes: Sequence[Axis]) -> Path:
    """Return the folder of a sweep: that of --run, or runs/CACHE[-VARIANT]-sweep."""
    if request.run and not request.names_run_alone:
        return request.run
    if "run" in given:  # a sweep with the settings of this run
        run = Path(given["run"])
        return run.with_name(f"{run.name}-sweep")
    if any(each.name == "shards" for each in axes):
        raise ReedError("the runs have several caches: name the folder of the sweep by --run")
    return Path("runs", f"{name_of(cache_of(given), request.variant)}-sweep")


def _table(
    given: Mapping[str, Any],
    chosen: Sequence[Mapping[str, Any]],
    variant: str,
    recipe: Callable[[Path, str], dict[str, Any]],
) -> dict[str, Any]:
    """Return the settings of a run, as Request.table does with the chosen values as --set."""
    settings = merged(given, chosen)
    shards = cache_of(settings)
    manifest = schema.load_manifest(shards)
    if VARIANT in settings:
        variant = settings.pop(VARIANT)
        if not isinstance(variant, str):
            raise ReedError(f"--sweep {VARIANT}: {variant!r} is no name of a variant")
        known = pipelines.variants(manifest.pipeline)
        variant = "" if variant == NONE and NONE not in known else variant
    return over_recipe(recipe(shards, variant), settings, manifest.domain)


def _path(name: str, option: str) -> list[str]:
    """Return the parts of a dotted name."""
    path, inner = [], config.assignment(f"{name}=0", option)
    while isinstance(inner, dict):
        ((key, inner),) = inner.items()
        path.append(key)
    return path


def _nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return value


def _split(text: str) -> Iterator[str]:
    """Split a text at its commas, but for those in brackets or quotes."""
    depth, quote, begin = 0, "", 0
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{]}":
            depth += 1 if letter in "[{" else -1
        elif letter == "," and not depth:
            yield text[begin:at]
            begin = at + 1
    yield text[begin:]


def _values(part: str, text: str) -> list[Any]:
    """Return the values of one part between commas; `text` is all that was given."""
    if found := _RANGE.fullmatch(part):
        first, last = int(found[1]), int(found[2])
        if last < first:
            raise ReedError(f"--sweep {text!r}: {part} is empty; write {last}..{first}")
        if last - first >= MOST:
            raise ReedError(
                f"--sweep {text!r}: {part} makes {last - first + 1:,} runs, the most are {MOST:,}; "
                "give fewer values"
            )
        return list(range(first, last + 1))

    # Else it would be a text, and the message on its type would not say what is wrong.
    if _LIKE_RANGE.fullmatch(part):
        raise ReedError(
            f"--sweep {text!r}: a range has two whole numbers, such as 0..4; list other values, "
            "separated by commas"
        )
    return [config.assignment(f"x={part}", "--sweep")["x"]]


def _text(value: Any) -> str:
    """Return a value as it is written in a name; floats in the shorter of both notations."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and isfinite(value):
        number = Decimal(repr(value)).normalize()
        forms = f"{number:f}", f"{number:e}".replace("+", "")
        return min(forms, key=len)
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if isinstance(value, dict):
        return ",".join(f"{name}={_text(item)}" for name, item in value.items())
    return NONE if value == "" else str(value)
