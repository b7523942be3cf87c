"""Configuration from TOML, JSON and --set: merged as plain dicts, then built into dataclasses."""

from __future__ import annotations

import dataclasses
import functools
import json
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from reed.errors import ReedError, suggest
from reed.store import urls

T = TypeVar("T")
_PLAIN = (bool, int, float, str)
OMITTED = {"if": "empty"}  # metadata of a dataclass field that `plain` leaves out where it is empty


@dataclasses.dataclass(frozen=True)
class Option:
    """A dataclass field with a help text, as an option of the command line.

    Attributes:
        flag: Name of the option.
        places: Names of the fields that it sets, one for each of its values; dotted for fields of a
            nested dataclass.
        kind: Type of a value.
        several: Whether the option may be repeated.
        default: Default of each value.
        help: Help text.
        metavar: Name of the value in the help; None for the default.
        hidden: Whether the help leaves it out: an old name.
        choices: Values that it takes; empty for any. The dataclass checks them.
    """

    flag: str
    places: tuple[str, ...]
    kind: type
    several: bool
    default: tuple[Any, ...]
    help: str
    metavar: str | None
    hidden: bool = False
    choices: tuple[str, ...] = ()


def option(
    default: Any,
    help: str,
    *,
    flag: str = "",
    metavar: str | None = None,
    hidden: bool = False,
    choices: Iterable[str] = (),
) -> Any:
    """Return a dataclass field with a help text, which makes it an option of the command line.

    Args:
        default: Default of the field.
        help: Help text.
        flag: Name of the option, by default that of the field. Fields with the same flag are the
            values of one option.
        metavar: Name of the value in the help.
        hidden: Whether the help leaves it out.
        choices: Values that it takes, for the completion of the shell; empty for any.
    """
    metadata = {"help": help, "flag": flag, "metavar": metavar, "hidden": hidden}
    return dataclasses.field(default=default, metadata=metadata | {"choices": tuple(choices)})


def options(cls: type, where: str = "") -> list[Option]:
    """Return the options of a dataclass and of the dataclasses nested in it.

    Args:
        cls: The dataclass.
        where: Dotted name of the field that holds it, if it is nested.
    """
    by_flag: dict[str, Option] = {}
    hints = _hints(cls)

    for field in settable(cls):
        hint, place = hints[field.name], _join(where, field.name)
        if dataclasses.is_dataclass(hint):
            nested = options(typing.cast(type, hint), place)
            by_flag |= {option.flag: option for option in nested}
        elif help := field.metadata.get("help"):
            flag, metavar = field.metadata["flag"] or field.name, field.metadata["metavar"]
            several, args = typing.get_origin(hint) is tuple, typing.get_args(hint)
            kind = args[0] if args else hint  # X of tuple[X, ...] and of X | None
            default, places = (field.default,), (place,)
            # Fields with the same flag become one option, with the help of the first.
            if first := by_flag.get(flag):
                default, places = (*first.default, *default), (*first.places, *places)
                help, metavar = first.help, first.metavar
            more = {name: field.metadata[name] for name in ("hidden", "choices")}
            by_flag[flag] = Option(flag, places, kind, several, default, help, metavar, **more)

    return list(by_flag.values())


def read(path: Path | str) -> dict[str, Any]:
    """Read the table in a .toml or .json file; ReedError if the file is absent or not valid."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise ReedError(f"no configuration file at {path}") from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise ReedError(f"cannot read {path}: {error}") from error
    if not isinstance(table, dict):
        raise ReedError(f"cannot read {path}: it holds no table, but {type(table).__name__}")
    return table


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two tables: values of `over` replace those of `base`; nested tables are merged."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        are_tables = isinstance(value, Mapping) and isinstance(old, Mapping)
        merged[key] = merge(old, value) if are_tables else value
    return merged


def assignment(text: str, option: str = "--set") -> dict[str, Any]:
    """Parse "a.b=value" into a nested table.

    The value is TOML or, if it is not valid TOML, a string without quotes. A part of the name that
    has dots is quoted: 'align."v1.5".tap=4'. `option` is named in messages.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ReedError(f"{option} {text!r} is not of the form name=value (such as optim.lr=2e-4)")
    for candidate in (value, json.dumps(value, ensure_ascii=False)):
        try:
            return tomllib.loads(f"{name} = {candidate}")
        except tomllib.TOMLDecodeError:
            continue
    raise ReedError(f"{option} {text!r}: {name!r} is not a dotted name (such as optim.lr)")


def build(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass from plain data; every key and type must be right.

    Args:
        cls: The dataclass.
        data: Field name -> value; nested dataclasses are tables.
        where: Dotted name of the table, for messages.

    Raises:
        ReedError: A key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ReedError(f"{where or 'the configuration'} must be a table, got {data!r}")
    hints = _hints(cls)
    fields = {field.name: field for field in settable(cls)}
    values = {}
    for key, value in data.items():
        if key not in fields:
            raise ReedError(f"unknown setting {_join(where, key)!r}.{suggest(key, fields)}")
        values[key] = convert(hints[key], value, _join(where, key))
    for name, field in fields.items():
        defaults = (field.default, field.default_factory)
        if name not in values and all(value is dataclasses.MISSING for value in defaults):
            raise ReedError(f"setting {_join(where, name)!r} is missing")
    return cls(**values)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def settable(cls: type) -> list[dataclasses.Field]:
    """Return the fields of a dataclass that settings may give."""
    assert dataclasses.is_dataclass(cls), cls
    return [field for field in dataclasses.fields(cls) if field.init]


_LEAVES = {int, float, str, bool, type(None)}


def plain(value: Any) -> Any:
    """Return plain data for JSON: dataclasses become tables, tuples lists, and paths text."""
    if dataclasses.is_dataclass(value):
        entries = {f: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return {f.name: plain(v) for f, v in entries.items() if v or f.metadata != OMITTED}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        is_plain = _LEAVES.issuperset(map(type, value))  # long lists of numbers are
        return list(value) if is_plain else [plain(item) for item in value]
    return urls.text(value) if isinstance(value, Path) else value


def shown(value: Any) -> str:
    """Return a plain value of a setting as text; None is a setting that is absent."""
    return "absent" if value is None else value if isinstance(value, str) else json.dumps(value)


def differences(old: Any, new: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted name and both values (None if absent) where two plain tables differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{where}.{key}")
    elif old != new:
        yield where, old, new


def differing(tables: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the dotted names in which plain tables differ, each with the values of all tables."""
    names = dict.fromkeys(
        name[1:] for table in tables[1:] for name, _, _ in differences(tables[0], table, "")
    )
    return {name: [_at(table, name) for table in tables] for name in names}


def _at(table: Any, name: str) -> Any:
    """Return the value with a dotted name, or None; parts of the name may contain dots."""
    if not name:
        return table
    if isinstance(table, dict):
        for key in table:
            if name == key or name.startswith(f"{key}."):
                return _at(table[key], name[len(key) + 1 :])
    return None


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def convert(hint: Any, value: Any, where: str) -> Any:
    """Check a value against its type hint, and build the dataclasses in it.

    Raises:
        ReedError: The value has another type; the message begins with `where`.
    """
    if hint is Any:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(args, value, where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ReedError(f"{where} must be a table, got {value!r}")
        return {key: convert(args[1], item, _join(where, key)) for key, item in value.items()}
    if origin in (list, tuple):
        return _convert_sequence(origin, args, value, where)
    return _convert_plain(hint, value, where)


def _first_that_fits(options: tuple[Any, ...], value: Any, where: str) -> Any:
    """Convert a value to the first type of a union that accepts it."""
    problems = []
    for option in options:
        try:
            return convert(option, value, where)
        except ReedError as error:
            if option is not type(None):  # for `X | None`, the error of X is the one to show
                problems.append(error)
    raise problems[-1] if len(problems) == 1 else ReedError(f"{where} cannot be {value!r}")


def _convert_sequence(origin: type, args: tuple, value: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ReedError(f"{where} must be a list, got {value!r}")
    same = origin is list or args[-1] is Ellipsis
    if not same and len(args) != len(value):
        raise ReedError(f"{where} must have {len(args)} entries, got {len(value)}: {value!r}")
    if same and args[0] in _PLAIN and set(map(type, value)) <= {args[0]}:
        return origin(value)  # fast for long lists, such as the keys in a marker
    hints = [args[0]] * len(value) if same else args
    items = zip(hints, value, strict=True)
    return origin(convert(h, item, f"{where}[{i}]") for i, (h, item) in enumerate(items))


def _convert_plain(hint: Any, value: Any, where: str) -> Any:
    if hint is type(None) and value is None:
        return None
    if hint is float and type(value) is int and abs(value) < 2**1023:  # float() fails above
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    wrong_bool = isinstance(value, bool) and hint is not bool
    if hint is type(None) or not isinstance(value, hint) or wrong_bool:
        name = "null" if hint is type(None) else hint.__name__
        raise ReedError(f"{where} must be {name}, got {type(value).__name__} {value!r}")
    return value
