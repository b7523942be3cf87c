"""Command-line options made from the fields of dataclasses, in groups by kind of data.

A field with a help text (reed.config.option) becomes a flag; --set NAME=VALUE sets any field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from reed import config
from reed.cli import completion
from reed.cli.common import Refused
from reed.config import Option
from reed.errors import ReedError, suggest

# kind of data -> the dataclasses whose fields are options of the command
Kinds = Mapping[str, Sequence[type]]

Early = Callable[[click.Command, list[click.Parameter], list[str]], None]

SET = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any option that is listed below or that your own domain has, by name; may be repeated.",
)


class KindCommand(click.Command):
    """A click command that also has the flags of every kind of data.

    The callback gets the values of the given flags as the argument `flags`.

    Args:
        kinds: Function that returns the kinds. It is called when the options are needed for the
            first time, because it imports the domains and with them torch.
        early: Function that checks the words before that; its arguments are the command, its own
            options and the words.
        flags: The flags of all kinds with the values that they take, for the completion of the
            shell, which does not wait for the kinds.
    """

    def __init__(
        self,
        *args: Any,
        kinds: Callable[[], Kinds],
        early: Early | None = None,
        flags: Mapping[str, tuple[str, ...]] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
        self._kinds, self._early, self._known = kinds, early, flags or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Check what can be checked without the options of the kinds, then parse the words."""
        asks = {"--help", "--version"} & set(args)
        if self._early and not asks and not ctx.resilient_parsing:
            try:
                self._early(self, super().get_params(ctx), args)
            except ReedError as error:
                raise Refused(str(error)) from error
            except OSError as error:  # such as a folder that may not be entered
                raise Refused(f"{error.filename}: {error.strerror}") from error
        completion.remember(ctx, args)
        return super().parse_args(ctx, args)

    @cached_property
    def _groups(self) -> dict[str, list[Option]]:
        """The options of each kind."""
        return {kind: _options(classes) for kind, classes in self._kinds().items()}

    @cached_property
    def _flags(self) -> dict[str, click.Option]:
        """The options of all kinds for click, by flag; kinds may share a flag."""
        options = {each.flag: each for group in self._groups.values() for each in group}
        return {flag: _flag(option) for flag, option in options.items()}

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options of the command itself, then those of the kinds."""
        if ctx.resilient_parsing:
            return [*super().get_params(ctx), *completion.options(self._known)]
        return [*super().get_params(ctx), *self._flags.values()]

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command, with the flags of the kinds collected in one table."""
        values = {flag: ctx.params.pop(_variable(flag)) for flag in self._flags}
        ctx.params["flags"] = {f: v for f, v in values.items() if v not in (None, ())}
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of the command itself, then one section for each kind."""
        own = [param for param in super().get_params(ctx) if isinstance(param, click.Option)]
        records = [param.get_help_record(ctx) for param in own]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record])
        for kind, options in self._groups.items():
            if rows := [_row(ctx, option) for option in options if not option.hidden]:
                with formatter.section(f"Options of {kind}s"):
                    formatter.write_dl(rows)


def tables(
    flags: Mapping[str, Any], assignments: Iterable[str], kind: str, kinds: Kinds, source: str
) -> list[dict[str, Any]]:
    """Sort what was given into one table for each dataclass of a kind.

    Args:
        flags: Values of the given flags.
        assignments: Values of --set, as "NAME=VALUE".
        kind: Kind of data whose dataclasses the tables are for.
        kinds: All kinds, to name the right one in the message about a wrong flag.
        source: Run, checkpoint or samples of that kind, for messages.

    Raises:
        ReedError: A flag belongs to other kinds, or the kind has no option of a name.
    """
    results: list[dict[str, Any]] = [{} for _ in kinds[kind]]
    for flag, value in flags.items():
        parts = [_nested(flag, value, cls) for cls in kinds[kind]]
        if not any(parts):
            owners = [k for k, classes in kinds.items() if any(_option(flag, c) for c in classes)]
            names = " and ".join(f"{owner}s" for owner in owners)
            raise ReedError(f"--{flag} is for {names}; {source} is of kind {kind!r}")
        for number, part in enumerate(parts):
            results[number] = config.merge(results[number], part)

    # Assignments come after flags, so that --set wins.
    fields = [_settable(cls) for cls in kinds[kind]]
    for text in assignments:
        table = config.assignment(text)
        (name,) = table
        if not any(name in names for names in fields):
            hint = suggest(name, [field for names in fields for field in names])
            raise ReedError(
                f"--set {text}: samples of kind {kind!r} have no option {name!r}.{hint}"
            )
        for number, names in enumerate(fields):
            if name in names:
                results[number] = config.merge(results[number], table)
    return results


def _options(classes: Sequence[type]) -> list[Option]:
    return [option for cls in classes for option in config.options(cls)]


def _option(flag: str, cls: type) -> Option | None:
    return next((option for option in config.options(cls) if option.flag == flag), None)


def _settable(cls: type) -> list[str]:
    return [field.name for field in config.settable(cls)]


def _nested(flag: str, value: Any, cls: type) -> dict[str, Any]:
    """Return the value of a flag as a nested table of a dataclass.

    The table is empty if the dataclass has no such option.
    """
    option, table = _option(flag, cls), {}
    if option is None:  # a user's own domain may have the field without a help text
        return {flag: value} if flag in _settable(cls) else {}
    values = value if len(option.places) > 1 else [value]
    for path, item in zip(option.places, values, strict=True):
        nested: Any = item
        for name in reversed(path.split(".")):
            nested = {name: nested}
        table = config.merge(table, nested)
    return table


def _variable(flag: str) -> str:
    return flag.replace("-", "_")


def _flag(option: Option) -> click.Option:
    """Return the option for click; its value is None if it is not given."""
    settings: dict[str, Any] = {"help": option.help, "default": None, "metavar": option.metavar}
    settings["hidden"] = option.hidden
    if option.kind is bool:
        settings |= {"is_flag": True}
    elif option.kind is Path:
        settings |= {"type": click.Path(path_type=Path)}
    else:
        settings |= {"type": option.kind}
    settings |= {"nargs": len(option.places)} if len(option.places) > 1 else {}
    return click.Option(
        [f"--{option.flag}", _variable(option.flag)], multiple=option.several, **settings
    )


def _row(ctx: click.Context, option: Option) -> tuple[str, str]:
    """Return the flag with its values, and its help text with the default of this kind."""
    record = _flag(option).get_help_record(ctx)
    assert record is not None
    values = [each for each in option.default if each not in (None, "", ())]
    default = " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
    shown = default and option.kind is not bool
    return record[0], f"{option.help}  [default: {default}]" if shown else option.help
