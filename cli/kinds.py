"""Options of commands that are the fields of dataclasses, one group of them for each kind of data.

A field with a help text (reed.config.option) is a flag; --set NAME=VALUE sets any field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from reed import config
from reed.config import Option
from reed.errors import ReedError, suggest

# kind of data -> the dataclasses whose fields are options of the command
Kinds = Mapping[str, Sequence[type]]

SET = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any option of the kind of data by its name, also of a domain of your own.",
)


class KindCommand(click.Command):
    """A command that has the flags of every kind; `kinds` tells them, when they are asked for.

    The callback gets the values of the flags that were given as `flags`.
    """

    def __init__(self, *args: Any, kinds: Callable[[], Kinds], **more: Any) -> None:
        super().__init__(*args, **more)
        self._kinds = kinds

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own, then those of the kinds, each once."""
        every = {o.flag: o for o in _options(self._kinds())}
        return [*super().get_params(ctx), *map(_flag, every.values())]

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command with the flags of the kinds as one table."""
        names = {o.flag: _variable(o.flag) for o in _options(self._kinds())}
        values = {flag: ctx.params.pop(name) for flag, name in names.items()}
        ctx.params["flags"] = {f: v for f, v in values.items() if v not in (None, ())}
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options, then a group for each kind."""
        own = [param for param in super().get_params(ctx) if isinstance(param, click.Option)]
        records = [param.get_help_record(ctx) for param in own]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record])
        for kind, classes in self._kinds().items():
            if rows := [_row(ctx, option) for option in _options({kind: classes})]:
                with formatter.section(f"Options of {kind}s"):
                    formatter.write_dl(rows)


def tables(
    flags: Mapping[str, Any], assignments: Iterable[str], kind: str, kinds: Kinds, what: str
) -> list[dict[str, Any]]:
    """What was given, as a table for each dataclass of a kind.

    what: is of that kind, for messages. Raises ReedError for a flag of other kinds, and for the
    name of an option that this kind does not have.
    """
    found: list[dict[str, Any]] = [{} for _ in kinds[kind]]
    for flag, value in flags.items():
        places = [_places(flag, value, cls) for cls in kinds[kind]]
        if not any(places):
            theirs = [k for k, classes in kinds.items() if any(_option(flag, c) for c in classes)]
            named = " and ".join(f"{each}s" for each in theirs)
            raise ReedError(f"--{flag} is for {named}; {what} is of kind {kind!r}")
        for number, more in enumerate(places):
            found[number] = config.merge(found[number], more)
    fields = [_settable(cls) for cls in kinds[kind]]
    for text in assignments:
        table = config.assignment(text)
        (name,) = table
        if not any(name in names for names in fields):
            hint = suggest(name, [each for names in fields for each in names])
            raise ReedError(
                f"--set {text}: samples of kind {kind!r} have no option {name!r}.{hint}"
            )
        for number, names in enumerate(fields):
            if name in names:
                found[number] = config.merge(found[number], table)
    return found


def _options(kinds: Kinds) -> list[Option]:
    return [each for classes in kinds.values() for cls in classes for each in config.options(cls)]


def _option(flag: str, cls: type) -> Option | None:
    return next((each for each in config.options(cls) if each.flag == flag), None)


def _settable(cls: type) -> list[str]:
    return [field.name for field in config.settable(cls)]


def _places(flag: str, value: Any, cls: type) -> dict[str, Any]:
    """The value of a flag as a nested table of a dataclass; empty where it has no such option."""
    option, found = _option(flag, cls), {}
    if option is None:  # a domain of one's own may have the field without a help text
        return {flag: value} if flag in _settable(cls) else {}
    values = value if len(option.places) > 1 else [value]
    for place, each in zip(option.places, values, strict=True):
        nested: Any = each
        for name in reversed(place.split(".")):
            nested = {name: nested}
        found = config.merge(found, nested)
    return found


def _variable(flag: str) -> str:
    return flag.replace("-", "_")


def _flag(option: Option) -> click.Option:
    """The option as click has it, None where it is not given."""
    words: dict[str, Any] = {"help": option.help, "default": None, "metavar": option.metavar}
    if option.kind is bool:
        words |= {"is_flag": True}
    elif option.kind is Path:
        words |= {"type": click.Path(path_type=Path)}
    else:
        words |= {"type": option.kind}
    words |= {"nargs": len(option.places)} if len(option.places) > 1 else {}
    return click.Option(
        [f"--{option.flag}", _variable(option.flag)], multiple=option.several, **words
    )


def _row(ctx: click.Context, option: Option) -> tuple[str, str]:
    """The flag with its values, and its help with the default of this kind."""
    record = _flag(option).get_help_record(ctx)
    assert record is not None
    known = [each for each in option.default if each not in (None, "", ())]
    default = " ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in known)
    said = "" if option.kind is bool else default
    return record[0], f"{option.help}  [default: {said}]" if said else option.help
