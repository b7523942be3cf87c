"""The class names of a cache: frozen with the plan, so that no class ever changes its number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from reed.cache import schema
from reed.cache.schema import Manifest
from reed.errors import ReedError, suggest


def check(
    cache: Path, manifest: Manifest, keys: Sequence[str], named: Sequence[str], *, is_new: bool
) -> None:
    """Refuse class names that would give a class of the cache another number than before.

    Args:
        cache: Folder of the cache, for the messages.
        manifest: Manifest of the cache.
        keys: Keys of the plan.
        named: Class names that the source gives now, by number; empty if it names none.
        is_new: Whether the plan is to be extended.

    Raises:
        ReedError: A class would change its number.
    """
    frozen = manifest.classes
    for number, was in enumerate(frozen if named else ()):
        now = named[number] if number < len(named) else None
        if now != was:
            raise ReedError(
                f"{cache}: class {number} is {was!r}, the source now says {now!r}; restore the "
                "names, or start anew with --rebuild"
            )

    # An older cache has no frozen list; its numbers followed from the folders of its keys.
    moved = first_moved(manifest, keys, named)
    if is_new and moved:
        before = folders(keys[: manifest.segments[0]], named)
        raise ReedError(
            f"{cache} was planned before class lists were frozen, and with what is new {moved!r} "
            f"would be class {named.index(moved)}, it was {before.index(moved)}; extend it with "
            f"--set 'source.classes={json.dumps(before, ensure_ascii=False)}'"
        )


def number_of(label: str, names: Sequence[str], count: int) -> int:
    """Return the number of a class that a user names.

    Folders may be called 1, 2 and 10, which are the classes 0, 2 and 1: then only names count, so
    that no label has two meanings.

    Args:
        label: Its name, or its number if no other class has that as its name.
        names: Names of the classes, by number; empty if they have none.
        count: Number of classes.

    Raises:
        ReedError: There is no such class.
    """
    if label in names:
        return list(names).index(label)
    is_clear = not any(
        name.isdecimal() and int(name) < count and int(name) != number
        for number, name in enumerate(names)
    )
    if label.isdecimal() and int(label) < count and is_clear:
        return int(label)

    # What is allowed is said in the same way in which the label was read.
    known = f"numbers go from 0 to {count - 1}" if is_clear else "names are numbers here, and count"
    hint = suggest(label, names) if names else ""
    raise ReedError(f"--label {label!r} is no class: {known}.{hint}")


def first_moved(manifest: Manifest, keys: Sequence[str], named: Sequence[str]) -> str | None:
    """Return the first class that now has another number, of a cache without a frozen list.

    Such a cache numbered the top folders of the keys of its first build, sorted. The result is None
    if no number has changed or the list is frozen.
    """
    before = [] if manifest.classes else folders(keys[: manifest.segments[0]], named)
    return next((was for was, now in zip(before, named, strict=False) if was != now), None)


def folders(keys: Sequence[str], named: Sequence[str]) -> list[str]:
    """Return the top folders of the keys that are classes, sorted."""
    return sorted({key.partition("/")[0] for key in keys} & set(named)) if named else []


def has_labels(cache: Path, name: str) -> bool:
    """Whether a column holds class numbers."""
    return any(field.kind == "label" for field in schema.load_column(cache, name).fields)
