"""Checks of what was typed that need no torch, so that a typo is told at once.

Options of kinds and settings of recipes are fields of dataclasses whose modules import torch. Their
names are repeated here; a test compares them with the dataclasses.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from reed import config
from reed.cache import classes
from reed.cli.common import either, kind_of, read_data
from reed.errors import ReedError, suggest

_OF_GUIDES = ("guide-scale", "guide-interval", "guide-mixture", "guide-replace", "prompt-from")
# Flag of reed-sample, of any kind -> the values that it takes; empty for any.
SAMPLE: dict[str, tuple[str, ...]] = {
    "sampler": ("euler", "heun", "sde"),
    "labels": ("balanced", "random"),
    "rounding": ("nearest", "down"),
    "grid": ("log", "linear"),
    "order": ("purity", "random"),
    **dict.fromkeys("steps guidance interval label seed vae png tars shards".split(), ()),
    **dict.fromkeys("noise atoms temperature structure".split(), ()),
    **dict.fromkeys(_OF_GUIDES, ()),
}
NOT_SET = ("interval", *_OF_GUIDES)  # flags that are no fields of their own
MORE_FIELDS = ("structures", "each", "z")  # fields that are no flags
EVALUATION: dict[str, tuple[str, ...]] = {
    "metrics": ("fd", "fid", "sfid", "is", "pr", "fd-dinov2", "kid", "cmmd"),
    "features": (
        "clip-l-336",
        "digits-mlp",
        "dinov2-l",
        "inception",
        "random-conv",
        "scenes-judge",
    ),
    "precision": ("fp32", "tf32", "bf16"),
    **dict.fromkeys("weights background posebusters steps esmfold".split(), ()),
}  # the same of reed-eval; metrics are a list, and other spaces can be installed
SWITCHES, PAIRS = (
    ("png", "tars", "shards", "posebusters", "guide-mixture", "guide-replace"),
    ("interval", "guide-interval"),
)  # flags without a value, and with two
SEVERAL, HIDDEN = ("label", "prompt-from", "structure", "weights"), ("shards",)

# Table of a recipe -> its settings; the empty name is for the top of the file.
RECIPE: dict[str, tuple[str, ...]] = {
    "": tuple(
        "shards run steps data domain batch tokens one_per align guide curriculum optim accumulate "
        "seed precision compile fsdp ema_decay ema_sigma_rel ema stop_after_bad init tracker keep "
        "wait_minutes every preview loader reference".split()
    ),
    "optim": ("lr", "betas", "eps", "weight_decay", "clip", "schedule", "groups"),
    "every": ("log", "save", "keep", "snapshot", "average"),
    "preview": ("every", "num", "options"),
    "loader": ("threads", "ahead", "cache_dir", "cache_bytes"),
}
# Table of a recipe that has a table for each name -> the settings of that.
ENTRIES: dict[str, tuple[str, ...]] = {
    "align": tuple(
        "target tap hidden time_weight probe head normalize resize loss token_weight "
        "release".split()
    ),
    "guide": tuple(
        "target when read enter drop tap norm noise truth loss lag hidden depth".split()
    ),
}
# Dotted name of a setting -> its type; others, such as those of align.NAME, are not known here.
TYPES: dict[str, type] = {
    **dict.fromkeys("steps batch tokens accumulate seed stop_after_bad keep".split(), int),
    **dict.fromkeys(
        ("every.log", "every.save", "every.keep", "every.snapshot", "preview.every"), int
    ),
    **dict.fromkeys(("every.average", "preview.num", "loader.threads", "loader.ahead"), int),
    "loader.cache_bytes": int,
    **dict.fromkeys(("optim.lr", "optim.eps", "optim.weight_decay", "optim.clip"), float),
    **dict.fromkeys(("ema_decay", "ema_sigma_rel", "wait_minutes"), float),
    **dict.fromkeys("one_per precision compile init tracker loader.cache_dir".split(), str),
}


def check_recipe(table: Mapping[str, Any]) -> None:
    """Raise ReedError for a setting that no recipe has, or a number that is none."""
    tables = {where: table.get(where, {}) if where else table for where in RECIPE}
    known = dict(RECIPE)
    for where, names in ENTRIES.items():
        entries = table.get(where, {})
        for name, part in entries.items() if isinstance(entries, Mapping) else ():
            tables[f"{where}.{name}"], known[f"{where}.{name}"] = part, names

    # What is no table at all is told when the recipe is built.
    for where, part in tables.items():
        for name, value in part.items() if isinstance(part, Mapping) else ():
            full = f"{where}.{name}".removeprefix(".")
            if name not in known[where]:
                raise ReedError(f"unknown setting {full!r}.{suggest(name, known[where])}")
            if full in TYPES:
                config.convert(TYPES[full], value, full)


def check_run(run: Path) -> None:
    """Raise ReedError unless a folder is a run with a checkpoint."""
    if not any(run.glob("step-*")):
        raise ReedError(f"{run} has no checkpoint yet; train it with reed-train")


def check_sample(command: click.Command, own: list[click.Parameter], args: Iterable[str]) -> None:
    """Check the words of a reed-sample command: its run, and the options of the run's kind.

    Args:
        command: The command.
        own: Its own options, without those of the kinds.
        args: The words.

    Raises:
        ReedError: There is no such run, or its kind has no such option or value.
    """
    typed = _typed(command, own, args, SAMPLE)
    run = either(*(name and Path(name) for name in (typed["place"], typed["run"])))
    if run is None or typed["checkpoint"] or _is_flag(run):  # click says so
        return

    # What options a kind of the user's own has is known only once its module is imported.
    check_run(run)
    kind = kind_of(run)
    if not kind or ":" in kind or kind in metadata.entry_points(group="reed.domains").names:
        return

    given = {flag: value for flag in SAMPLE if (value := typed.get(parameter(flag)))}
    names = [*(flag for flag in SAMPLE if flag not in NOT_SET), *MORE_FIELDS]
    for text in typed["assignments"] or ():
        ((name, value),) = config.assignment(text).items()
        if name not in names:
            problem = f"samples of kind {kind!r} have no option {name!r}"
            raise ReedError(f"--set {text}: {problem}.{suggest(name, names)}")
        given[name] = value
    for name, value in given.items():
        _check_choice(name, value, SAMPLE.get(name, ()))
    _check_run(run, given)


def _check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    if known and value not in known:
        raise ReedError(f"{name} is {value!r}, it must be one of {', '.join(known)}")


def _check_run(run: Path, given: Mapping[str, Any]) -> None:
    """Raise ReedError for a label or a prompt that a run cannot have."""
    table = config.read(run / "config.json")
    count = table.get("domain", {}).get("classes")
    for label in given.get("label", ()):
        if isinstance(count, int):
            classes.number_of(str(label), read_data(run).get("classes", ()), count)
    if (keys := given.get("prompt-from")) and not table.get("guide"):
        raise ReedError(f"prompt-from is {keys[0]!r}, and this net has no guides; leave it out")


def check_evaluation(
    command: click.Command, own: list[click.Parameter], args: Iterable[str]
) -> None:
    """Raise ReedError for a choice that there is not, or a path to nothing; see `check_sample`."""
    typed = _typed(command, own, args, EVALUATION)
    if precision := typed[parameter("precision")]:
        _check_choice("precision", precision, EVALUATION["precision"])
    for name in (typed[parameter("metrics")] or "").split(","):
        if (name := name.strip()) and name not in EVALUATION["metrics"]:
            raise ReedError(f"unknown metric {name!r}.{suggest(name, EVALUATION['metrics'])}")

    # Other feature spaces are named by a path, installed, or registered by this program.
    space = typed[parameter("features")] or ""
    spaces = [*EVALUATION["features"], *metadata.entry_points(group="reed.metrics").names]
    is_own = ":" in space or "reed.metrics" in sys.modules
    if space and not is_own and space not in spaces:
        raise ReedError(f"unknown feature space {space!r}.{suggest(space, spaces)}")

    # Click says that it is missing, or which option there is not.
    if typed["reference"] is None or any(map(_is_flag, typed["samples"])):
        return
    for what, place in (
        *(("samples", place) for place in typed["samples"] or [typed["run"]]),
        ("the reference", typed["reference"]),
    ):
        if place is not None and not Path(place).exists():
            raise ReedError(f"cannot read {what} from {place}: there is nothing")


def _typed(
    command: click.Command, own: list[click.Parameter], args: Iterable[str], flags: Iterable[str]
) -> dict[str, Any]:
    """Return what was typed, as click reads it; what it does not know is left out."""
    more = [click.Option([f"--{flag}", parameter(flag)], **takes(flag)) for flag in sorted(flags)]
    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    parser = click.Command(command.name, params=[*own, *more], context_settings=settings)
    return parser.make_context("", list(args), resilient_parsing=True).params


def _is_flag(word: Any) -> bool:
    """Return whether a word that was taken for a path is an option that there is not."""
    return str(word).startswith("--") and not Path(word).exists()


def parameter(flag: str) -> str:
    """Return the name of a flag of some kind among the parameters of a command."""
    return f"kind_{flag.replace('-', '_')}"


def takes(flag: str) -> dict[str, Any]:
    """Return how click reads a flag."""
    if flag in SWITCHES:
        return {"is_flag": True}
    return {"multiple": True} if flag in SEVERAL else {"nargs": 2 if flag in PAIRS else 1}
