"""Recognition of the layout at the path or pattern that --data names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from re import split

from reed import image_files as kinds
from reed.errors import ReedError
from reed.sources.image.layouts import SPLITS, Layout, Passed
from reed.sources.image.parquet import Parquet
from reed.sources.image.tars import Tars
from reed.sources.image.trees import Tree, scan
from reed.sources.image.zips import Zip

PACKED: dict[str, Callable[[Sequence[Path], str], Layout]] = {
    ".zip": lambda paths, label: Zip(paths[0]),
    ".tar": Tars,
    ".parquet": Parquet,
}


def recognise(data: Path, label: str = "") -> tuple[Layout, Passed]:
    """Return the layout of a path or pattern, and the files beside archives that are passed over.

    Args:
        data: A folder, a file, or a pattern with ``*`` in its last part.
        label: Column of parquet files, or entry of the JSON in tars, that holds the class.

    Raises:
        ReedError: There is no layout, or more than one.
    """
    passed: Passed = {}
    if "*" in data.name:
        packed = sorted(data.parent.glob(data.name))
    elif data.is_dir():
        packed = _packed(data, passed) or _packed(data / "data", passed)
    else:
        packed = [data]

    if label and not any(path.suffix.lower() in (".tar", ".parquet") for path in packed):
        problem = f"source.label is {label!r}, but {data} is neither tars nor parquet files"
        raise ReedError(f"{problem}; leave it out")
    if not packed and data.is_dir():
        return Tree(data), {}
    if not packed or not packed[0].is_file():
        raise ReedError(f"there is nothing at {data}: name the data with --data")

    # Two splits in one folder would become one training set, with the validation images in it.
    ending = _one_kind(data, packed)
    splits = {part for path in packed for part in split(r"[-_.]", path.stem) if part in SPLITS}
    if len(splits) > 1:
        first = f'--data "{packed[0].parent}/*{min(splits)}*{ending}"'
        raise ReedError(f"{data} holds the splits {', '.join(sorted(splits))}: name one, {first}")
    return PACKED[ending](packed, label), passed


def _one_kind(data: Path, packed: Sequence[Path]) -> str:
    """Return the ending that all files share.

    Raises:
        ReedError: The files are several data sets, or of an unknown kind.
    """
    endings = sorted({path.suffix.lower() for path in packed})
    if len(endings) > 1 or (endings == [".zip"] and len(packed) > 1):
        names = ", ".join(path.name for path in packed[:4])
        raise ReedError(f"{data} holds several data sets ({names}, …): name one of them")
    if endings[0] not in PACKED:
        known = ", ".join(PACKED)
        problem = f"{packed[0]} is not a folder, and its ending is none of {known}"
        raise ReedError(f"{problem}: unpack or convert it")
    return endings[0]


def _packed(folder: Path, passed: Passed) -> list[Path]:
    """Return the archives and parquet files in a folder, and add other files to ``passed``.

    Raises:
        ReedError: Images or folders lie beside the archives.
    """
    hidden: list[str] = []
    entries = scan(folder, hidden) if folder.is_dir() else []
    packed = sorted(e.name for e in entries if os.path.splitext(e.name)[1].lower() in PACKED)

    # Both may be data sets, so the user has to choose.
    for entry in entries if packed else ():
        if kinds.is_image(entry.name) or entry.is_dir():
            both = f"both {packed[0]} and {entry.name}"
            raise ReedError(f"{folder} holds {both}: name what is meant with --data")

    others = [e.name for e in entries if not e.is_dir() and e.name not in set(packed)]
    kinds.by_reason(others, passed)
    if hidden:
        passed.setdefault("hidden", []).extend(hidden)
    return [folder / name for name in packed]
