"""The folders that stand for caches in object stores: each is a mirror of the small files."""

from __future__ import annotations

import os
from pathlib import Path

from reed.store import hub, names
from reed.store.store import OURS, Store
from reed.store.urls import url_of

_open: dict[str, Store | None] = {}


def local(place: Path | str) -> Path:
    """Return the folder of a cache: that of a URL is its mirror, with what the store has now.

    Raises:
        StoreError: The store cannot be read.
    """
    url = url_of(place)
    if not url or url.startswith("file:"):
        return folder_of(place)
    if url.startswith("hf:"):  # later commits are not seen
        url = hub.pinned(url, home())
    folder = folder_of(url)
    store = _open[str(folder)] = of(folder) or Store(folder, url)
    store.refresh()
    return folder


def folder_of(place: Path | str) -> Path:
    """Return the folder of a cache without asking its store for anything."""
    url = url_of(place)
    if not url:
        return Path(place)
    if url.startswith("file:"):
        return Path(url.removeprefix("file://"))
    if url.startswith("hf:"):
        url = hub.last_pinned(url, home())
    return home().joinpath(*names.folders(url))


def home() -> Path:
    """Return the folder of all mirrors: reed in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "reed"


def of(folder: Path) -> Store | None:
    """Return the store of a folder that is a mirror; None for other folders."""
    key = str(folder)
    if key not in _open:
        about = folder / OURS / "url"
        _open[key] = Store(folder, about.read_text("utf-8")) if about.is_file() else None
    return _open[key]


def of_file(path: Path) -> tuple[Store, str] | None:
    """Return the store of a file of a mirror and the file's name there; None for other files."""
    for folder in (path.parent, path.parent.parent):
        if store := of(folder):
            name = path.relative_to(folder).as_posix()
            return (store, name) if names.is_ours(name) else None
    return None


def shown(path: Path) -> str:
    """Return a folder or a file of a cache as a message names it: as a URL where it is in a store.

    Args:
        path: The folder of the cache, or a file.
    """
    if store := of(path):
        return store.url
    found = of_file(path)
    return f"{found[0].url}/{found[1]}" if found else str(path)
