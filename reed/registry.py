"""Names to objects, found by importing the modules of one package on first use."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reed.errors import ReedError, suggest


class Registry:
    """A table of named things of one kind, filled by the modules of `package`.

    `get` also accepts "package.module:attribute", so a user's own file needs no registration.
    prefixes: what makes the object for "prefix:rest" from the rest, filled by the modules too.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.prefixes: dict[str, Callable[[str], Any]] = {}
        self._package = package
        self._items: dict[str, Any] = {}
        self._scanned = False

    def register(self, name: str) -> Callable[[Any], Any]:
        """Decorator that files the decorated object under `name`; a second use is our own bug."""

        def add(item: Any) -> Any:
            assert name not in self._items, f"{self.kind} {name!r} is registered twice"
            self._items[name] = item
            return item

        return add

    def get(self, name: str) -> Any:
        """The object called `name`, or what "prefix:rest" or "module:attribute" points to.

        Raises ReedError with the nearest name when there is none.
        """
        self._scan()
        prefix, colon, rest = name.partition(":")
        if colon:
            make = self.prefixes.get(prefix)
            return make(rest) if make else by_path(self.kind, name)
        if name not in self._items:
            raise ReedError(f"unknown {self.kind} {name!r}.{suggest(name, self._items)}")
        return self._items[name]

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._scan()
        return sorted(self._items)

    def forms(self) -> list[str]:
        """All registered names, sorted, then PREFIX:NAME for every prefix."""
        return [*self.names(), *(f"{prefix}:NAME" for prefix in sorted(self.prefixes))]

    def _scan(self) -> None:
        if self._scanned:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        self._scanned = True


def find_in(folder: Path) -> None:
    """Let modules be imported from a folder, before all others."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def by_path(kind: str, name: str) -> Any:
    """What "package.module:attribute" points to; a file in the current folder is found, too.

    kind: of thing, for the message. Raises ReedError where there is none.
    """
    find_in(Path.cwd())
    module_name, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ReedError(
            f"cannot load {kind} {name!r}: {error}; looked for in {Path.cwd()} and among the "
            "installed packages"
        ) from error
