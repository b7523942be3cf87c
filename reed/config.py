"""Configuration: TOML or JSON and --set, merged as plain dicts, built once into dataclasses."""

from __future__ import annotations

import dataclasses
import functools
import json
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from reed.errors import ReedError, suggest

T = TypeVar("T")
_PLAIN = (bool, int, float, str)


def read(path: Path | str) -> dict[str, Any]:
    """The table in a .toml or .json file; ReedError when it is absent or does not parse."""
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
    """`base` with `over` laid on top, table by table; anything but a table is replaced whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        merged[key] = merge(old, value) if both else value
    return merged


def assignment(text: str) -> dict[str, Any]:
    """The nested table of one "a.b=value"; the value is TOML, or a bare word read as a string.

    A part of the name that holds dots is quoted: 'align."v1.5".tap=4'.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ReedError(f"--set {text!r} is not of the form name=value (such as optim.lr=2e-4)")
    for candidate in (value, json.dumps(value, ensure_ascii=False)):
        try:
            return tomllib.loads(f"{name} = {candidate}")
        except tomllib.TOMLDecodeError:
            continue
    raise ReedError(f"--set {text!r}: {name!r} is not a dotted name (such as optim.lr)")


def build(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """An instance of the dataclass `cls` from plain data, strictly.

    where: the dotted place, for messages. Raises ReedError on an unknown key (with the nearest
    one), a missing key or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ReedError(f"{where or 'the configuration'} must be a table, got {data!r}")
    assert dataclasses.is_dataclass(cls), cls
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    values = {}
    for key, value in data.items():
        if key not in fields:
            raise ReedError(f"unknown setting {_join(where, key)!r}.{suggest(key, fields)}")
        values[key] = _convert(hints[key], value, _join(where, key))
    for name, field in fields.items():
        defaults = (field.default, field.default_factory)
        if name not in values and all(value is dataclasses.MISSING for value in defaults):
            raise ReedError(f"setting {_join(where, name)!r} is missing")
    return cls(**values)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def plain(value: Any) -> Any:
    """The JSON form of a configuration: dataclasses as tables, tuples as lists, paths as text."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def differences(old: Any, new: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """The dotted places where two plain tables differ, and both values (None: absent)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{where}.{key}")
    elif old != new:
        yield where, old, new


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(hint: Any, value: Any, where: str) -> Any:
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
        return {key: _convert(args[1], item, _join(where, key)) for key, item in value.items()}
    if origin in (list, tuple):
        return _convert_sequence(origin, args, value, where)
    return _convert_plain(hint, value, where)


def _first_that_fits(options: tuple[Any, ...], value: Any, where: str) -> Any:
    problems = []
    for option in options:
        try:
            return _convert(option, value, where)
        except ReedError as error:
            if option is not type(None):  # what X says is the reason that `X | None` refuses
                problems.append(error)
    raise problems[-1] if len(problems) == 1 else ReedError(f"{where} cannot be {value!r}")


def _convert_sequence(origin: type, args: tuple, value: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ReedError(f"{where} must be a list, got {value!r}")
    same = origin is list or args[-1] is Ellipsis
    if not same and len(args) != len(value):
        raise ReedError(f"{where} must have {len(args)} entries, got {len(value)}: {value!r}")
    if same and args[0] in _PLAIN and set(map(type, value)) <= {args[0]}:
        return origin(value)  # the many keys of a marker, without a look at each
    hints = [args[0]] * len(value) if same else args
    items = zip(hints, value, strict=True)
    return origin(_convert(h, item, f"{where}[{i}]") for i, (h, item) in enumerate(items))


def _convert_plain(hint: Any, value: Any, where: str) -> Any:
    if hint is type(None) and value is None:
        return None
    if hint is float and type(value) is int and abs(value) < 2**1023:  # beyond, float() fails
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    wrong_bool = isinstance(value, bool) and hint is not bool
    if hint is type(None) or not isinstance(value, hint) or wrong_bool:
        name = "null" if hint is type(None) else hint.__name__
        raise ReedError(f"{where} must be {name}, got {type(value).__name__} {value!r}")
    return value
