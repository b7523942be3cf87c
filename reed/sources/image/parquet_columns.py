"""Which columns of parquet files hold the images, their classes and their captions."""

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
JSON = "json"  # the column that holds what stands beside an image in a tar
CLASSES = ("integer", "true or false", "number", "text")  # kinds that a class may be of
_LIKE_A_LABEL = re.compile(r"(^|[^a-z])(label|labels|cls|class)$", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """The names of the columns that matter, empty where there is none; kinds: of each by name.

    about: the column of JSON in which the class and the caption are that have no column.
    """

    image: str
    label: str
    caption: str
    about: str
    kinds: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Those that there are, each once."""
        return list(self.kinds)


def find(schema: Any, path: Path, label: str = "") -> Columns:
    """The columns of a file; ReedError where it cannot be told which one the image or class is.

    label: the column of the class, where it is not to be found by its name.
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
    """The column of the class: as asked for, of a known name, or the only one of a like name."""
    fit = [name for name, kind in kinds.items() if kind in (*CLASSES, "nothing")]
    if asked:
        if asked not in fit:
            raise ReedError(f"{path} has no column of classes {asked!r}.{suggest(asked, fit)}")
        return asked
    exact = [name for name in LABELS if name in fit]
    like = exact[:1] or [name for name in fit if _LIKE_A_LABEL.search(name)]
    if len(like) > 1:
        raise ReedError(
            f"{path}: the class may be in {', '.join(like)}; say which, such as "
            f"--set source.label={like[0]}"
        )
    return like[0] if like else ""


def kind_of(kind: Any) -> str:
    """What a type is to us, whichever of its forms it is stored in."""
    from pyarrow import types

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
    return next((name for name, each in tests.items() if any(t(kind) for t in each)), str(kind))


def _extension() -> type:
    from pyarrow import BaseExtensionType

    return BaseExtensionType


def compare(first: tuple[Path, Any], other: tuple[Path, Any], columns: Columns) -> None:
    """ReedError where a file lacks a column, or has one of another kind than the first file."""
    (path, schema), (their_path, theirs) = first, other
    for name, kind in columns.kinds.items():
        if name not in theirs.names:
            problem = f"{their_path} has no column {name!r}, the first file does"
            raise ReedError(f"{problem}; name the files of one table with --data")
        ours, found = schema.field(name).type, theirs.field(name).type
        if kind_of(found) not in (kind, "nothing") and kind != "nothing":
            raise ReedError(
                f"{their_path}: column {name!r} is {found}, in {path.name} it is {ours}; write "
                "both with one type, or name the files of one table with --data"
            )


def named(schema: Any, label: str) -> list[str]:
    """The names of the classes by number, where Hugging Face's datasets has noted them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, ValueError, TypeError):
        return []
    good = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if good else []
