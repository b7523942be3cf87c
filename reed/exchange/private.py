"""What a cache holds of one machine alone: paths, which are left out of what is published."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from reed.cache import schema, sealed
from reed.cache.schema import Column

_IN_TEXT = re.compile(r"(?<![\w.:/~-])(?:~|[A-Za-z]:)?[/\\](?:[^\s'\"/\\]+[/\\])+")


def is_path(value: Any) -> bool:
    """Whether a setting is a path of this machine: an absolute one, or one below a home folder."""
    if not isinstance(value, str):
        return False
    text = value.removeprefix("file://")
    is_absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    return is_absolute or text.startswith(("~/", "../"))


def without_paths(value: Any, at: str = "") -> tuple[Any, list[str]]:
    """Return settings without those that are paths or hold one, and the names of these.

    Args:
        value: A table of settings.
        at: What comes before the names.
    """
    kept: dict[str, Any] = {}
    gone: list[str] = []
    for name, each in value.items():
        if isinstance(each, dict):
            kept[name], below = without_paths(each, f"{at}{name}.")
            gone += below
        elif is_path(each) or (isinstance(each, list | tuple) and any(map(is_path, each))):
            gone.append(f"{at}{name}")
        else:
            kept[name] = each
    return kept, gone


def manifest(cache: Path) -> tuple[bytes, list[str]]:
    """Return the manifest to publish, and the names of the settings that it lacks.

    The names of classes stay, whatever they look like: labels are numbers of them.
    """
    found = schema.load_manifest(cache)
    options, gone = without_paths({k: v for k, v in found.options.items() if k != "classes"})
    options |= {k: v for k, v in found.options.items() if k == "classes"}
    data = (cache / "manifest.json").read_bytes()
    return (sealed.dump(replace(found, options=options)) if gone else data), gone


def column(cache: Path, found: Column) -> tuple[bytes, list[str]]:
    """Return the column.json to publish, and the names of the settings that it lacks.

    The identity of the column stays the same: settings are not part of it.
    """
    options, gone = without_paths(found.options, f"{found.name}.")
    data = (cache / found.name / "column.json").read_bytes()
    return (sealed.dump(replace(found, options=options)) if gone else data), gone


def marker(path: Path) -> bytes:
    """Return the marker to publish: of a path in the reason of a failure, the last name stays."""
    data = path.read_bytes()
    table = sealed.read(path)
    failed = {key: text(reason) for key, reason in table["failed"].items()}
    return data if failed == table["failed"] else sealed.dump(table | {"failed": failed})


def text(reason: str) -> str:
    """Return a text in which only the last name stays of each path of this machine."""
    return _IN_TEXT.sub("", reason)


def stays(found: Column) -> list[str]:
    """Return lines on what is published of a column although it names a path of this machine.

    The identity depends on the encoder's name and revision, so these cannot be left out.
    """
    told = {"encoder": found.encoder, "revision": found.revision}
    return [
        f"{found.name}: {what} is {value}, a path of this machine, which others will see"
        for what, value in told.items()
        if any(is_path(part) for part in (value, value.partition(":")[2]))
    ]
