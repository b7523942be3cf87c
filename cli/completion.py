"""What a shell completes after the options of commands, found without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from reed import config, pipelines
from reed.cache import plan, schema
from reed.cli import typos
from reed.cli.common import completed, read_data
from reed.errors import ReedError

MOST = 100  # keys that are offered
FILES = ("structure", "vae", "esmfold", "weights")  # flags of kinds that take a path
_WORDS = "reed.words"

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def options(flags: Mapping[str, tuple[str, ...]]) -> list[click.Option]:
    """Return the options of all kinds as `typos` knows them, to be completed and not to be called.

    Args:
        flags: Flag -> the values that it takes; empty for any.
    """
    made = []
    for flag, choices in flags.items():
        about: dict[str, Any] = typos.takes(flag) | {"hidden": flag in typos.HIDDEN}
        if flag in FILES:
            about["type"] = click.Path()
        elif flag in _OF_RUN:
            about["shell_complete"] = of_run(_OF_RUN[flag])
        elif choices:
            names = completed(lambda choices=choices: choices)
            about["shell_complete"] = _listed(choices) if flag == "metrics" else names
        made.append(click.Option([f"--{flag}", typos.parameter(flag)], **about))
    return made


def of_run(names: Callable[[Path], Iterable[str]]) -> Complete:
    """Return a function for shell_complete that offers the names that a run or a cache has.

    Args:
        names: Function of the folder that was typed: of the run, else of the cache.
    """

    def complete(context: click.Context, _parameter: Any, typed: str) -> list[CompletionItem]:
        given = (context.params.get(name) for name in ("place", "run", "shards"))
        words = context.meta.get(_WORDS, ())
        runs = (word for word in words if Path(word, "config.json").is_file())
        place = next((Path(str(each)) for each in (*given, *runs) if each), None)
        if place is None:
            return []
        try:
            found = (name for name in names(place) if name.startswith(typed))
            return [CompletionItem(name) for name in islice(found, MOST)]
        except (ReedError, OSError):  # a wrong run is told when the command runs
            return []

    return complete


def remember(context: click.Context, words: Iterable[str]) -> None:
    """Keep the words of a command that is completed, for `of_run`.

    click gives up at an option whose value is still to come, and then knows no positional words.
    """
    if context.resilient_parsing:
        context.meta[_WORDS] = list(words)


def labels(run: Path) -> Iterable[str]:
    """Return the names of a run's classes, or their numbers if they have none."""
    count = config.read(run / "config.json").get("domain", {}).get("classes", 0)
    return read_data(run).get("classes") or map(str, range(count))


def keys(run: Path) -> Iterable[str]:
    """Return the keys of the cache that a run was trained on."""
    return plan.load(Path(config.read(run / "config.json")["shards"])).keys


def steps(run: Path) -> Iterable[str]:
    """Return the steps of a run's checkpoints."""
    return sorted(str(int(path.name.removeprefix("step-"))) for path in run.glob("step-*[0-9]"))


def averages(run: Path) -> Iterable[str]:
    """Return the names of the averages of a run, and of those reconstructed at its last step."""
    table = config.read(run / "config.json")
    width = table.get("ema_sigma_rel")
    one = f"sigma_rel={width}" if width else table.get("ema_decay", "")
    own = [_average(str(entry)) for entry in table.get("ema") or [one]]
    last = sorted(run.glob("step-*"))[-1:]
    made = [path.name[4:-12] for folder in last for path in folder.glob("ema.*.safetensors")]
    return dict.fromkeys([*own, *made])


def _average(entry: str) -> str:
    """Return the name of an average, in which the number is written in one way."""
    kind, equals, number = entry.rpartition("=")
    return f"{kind}{equals}{float(number)}"


def variants(cache: Path) -> Iterable[str]:
    """Return the variants of the recipe of a cache's pipeline."""
    return pipelines.variants(schema.load_manifest(cache).pipeline)


_OF_RUN = {"label": labels, "prompt-from": keys}


def _listed(choices: Iterable[str]) -> Complete:
    """Return a function for shell_complete that offers the names of a list with commas."""

    def complete(_context: click.Context, _parameter: Any, typed: str) -> list[CompletionItem]:
        before, comma, begun = typed.rpartition(",")
        left = [name for name in choices if name not in before.split(",")]
        return [CompletionItem(f"{before}{comma}{n}") for n in left if n.startswith(begun)]

    return complete
