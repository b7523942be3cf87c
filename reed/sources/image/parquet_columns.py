"""Choice of the columns of parquet files that hold the images, classes and captions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reed.errors import ReedError, suggest

LABELS = ("label", "labels", "cls", "class")
CAPTIONS = ("caption", "text", "txt")
JSON = "json"  # column in which converted tars keep the .json beside an image
CLASSES = ("integer", "true or false", "number", "text")  # kinds of columns that hold classes
_LIKE_A_LABEL = re.compile(r"(^|[^a-z])(label|labels|cls|class)$", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """The names of the columns to read; empty for a column that the files do not have.

    Attributes:
        image: Column of the images.
        label: Column of the classes.
        caption: Column of the captions.
        about: Column of JSON that holds a class or caption without a column.
        kinds: The kind of each of these columns, by name (see kind_of).
    """

    image: str
    label: str
    caption: str
    about: str
    kinds: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Names of the columns that exist, without repetition."""
        return list(self.kinds)


def find(schema: Any, path: Path, label: str = "") -> Columns:
    """Choose the columns of a file.

    Args:
        schema: Arrow schema of the file.
        path: The file, for messages.
        label: Column of the class; empty to find it by its name.

    Raises:
        ReedError: The column of the images or of the classes is missing or ambiguous.
    """
    kinds = {field.name: kind_of(field.type) for field in schema}
    images = [name for name, kind in kinds.items() if kind == "image"]
    if "image" not in images and len(images) != 1:
        have = f"of such a type are {images}" if images else f"its columns are {schema.names}"
        raise ReedError(f"{path} has no image column: call a binary one 'image'; {have}")
    image = "image" if "image" in images else images[0]
    label = _label(kinds, path, label)
    caption = next((n for n in CAPTIONS if kinds.get(n) in ("text", "nothing")), "")
    about = JSON if kinds.get(JSON) in ("text", "table") and not (label and caption) else ""
    chosen = dict.fromkeys(name for name in (image, label, caption, about) if name)
    return Columns(image, label, caption, about, {name: kinds[name] for name in chosen})


def _label(kinds: Mapping[str, str], path: Path, asked: str) -> str:
    """Return the column that is asked for, or that has a known name, or the only similar name."""
    fit = [name for name, kind in kinds.items() if kind in (*CLASSES, "nothing")]
    if asked:
        if asked not in fit:
            raise ReedError(f"{path} has no column of classes {asked!r}.{suggest(asked, fit)}")
        return asked
    exact = [name for name in LABELS if name in fit]
    candidates = exact[:1] or [name for name in fit if _LIKE_A_LABEL.search(name)]

    # Guessing between coarse and fine labels would train on the wrong one without a word.
    if len(candidates) > 1:
        raise ReedError(
            f"{path}: the class may be in {', '.join(candidates)}; say which, such as "
            f"--set source.label={candidates[0]}"
        )
    return candidates[0] if candidates else ""


def kind_of(kind: Any) -> str:
    """Return the kind of an Arrow type, the same for all forms in which it can be stored.

    Returns:
        ``image``, ``table``, ``text``, ``integer``, ``true or false``, ``number`` or ``nothing``;
        for any other type, its own name.
    """
    from pyarrow import types

    # Extension and dictionary types wrap the type of the values.
    if isinstance(kind, _extension()):
        kind = kind.storage_type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        inner = [f for f in kind if f.name == "bytes" and kind_of(f.type) == "image"]
        return "image" if inner else "table"

    tests: dict[str, Sequence[Callable[[Any], bool]]] = {
        "image": (types.is_binary, types.is_large_binary, types.is_binary_view),
        "text": (types.is_string, types.is_large_string, types.is_string_view),
        "integer": (types.is_integer,),
        "true or false": (types.is_boolean,),
        "number": (types.is_floating,),
        "nothing": (types.is_null,),
    }
    matches = (name for name, checks in tests.items() if any(check(kind) for check in checks))
    return next(matches, str(kind))


def _extension() -> type:
    from pyarrow import BaseExtensionType

    return BaseExtensionType


def compare(first: tuple[Path, Any], other: tuple[Path, Any], columns: Columns) -> None:
    """Check that a file has the columns of the first file, of the same kinds.

    Args:
        first: Path and Arrow schema of the first file.
        other: Path and Arrow schema of the other file.
        columns: The columns that are read.

    Raises:
        ReedError: The file lacks a column, or has one of another kind.
    """
    (path, schema), (other_path, other_schema) = first, other
    for name, kind in columns.kinds.items():
        if name not in other_schema.names:
            problem = f"{other_path} has no column {name!r}, the first file does"
            raise ReedError(f"{problem}; name the files of one table with --data")

        # A column without a single value has the type null, which fits any kind.
        first_type, other_type = schema.field(name).type, other_schema.field(name).type
        if kind_of(other_type) not in (kind, "nothing") and kind != "nothing":
            raise ReedError(
                f"{other_path}: column {name!r} is {other_type}, in {path.name} it is "
                f"{first_type}; write both with one type, or name the files of one table with "
                "--data"
            )


def named(schema: Any, label: str) -> list[str]:
    """Return the names of the classes by number, if Hugging Face's datasets recorded them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, ValueError, TypeError):
        return []
    are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if are_names else []
