"""Names to objects: of the modules of one package, imported on first use, and of plugins."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from reed.errors import ReedError, suggest


class Registry:
    """A table of named things of one kind, filled by the modules at and below `package`.

    What an installed distribution offers as entry points of `group` (by default the name of the
    package) is in it, too, and imported when asked for by its name. `get` also accepts
    "package.module:attribute", so a user's own file needs no registration.
    prefixes: what makes the object for "prefix:rest" from the rest, filled by the modules too.
    """

    def __init__(self, kind: str, package: str, group: str = "") -> None:
        self.kind = kind
        self.prefixes: dict[str, Callable[[str], Any]] = {}
        self._package = package
        self._group = group or package
        self._items: dict[str, Any] = {}
        self._plugins = metadata.EntryPoints()
        self._scanned = False

    def register(self, name: str) -> Callable[[Any], Any]:
        """Decorator that files the decorated object under `name`; ReedError if that is taken."""

        def add(item: Any) -> Any:
            if name in self._items:
                raise ReedError(f"{self.kind} {name!r} is registered twice; rename one of the two")
            self._items[name] = item
            return item

        return add

    def get(self, name: str) -> Any:
        """The object called `name`, or what "prefix:rest" or "module:attribute" points to.

        Raises ReedError with the nearest name when there is none.
        """
        self._scan()
        prefix, colon, rest = name.partition(":")
        if colon and name not in self._items:
            make = self.prefixes.get(prefix)
            return make(rest) if make else by_path(self.kind, name)
        found = self._plugged(name) if name in self._plugins.names else self._items.get(name)
        if found is None:
            raise ReedError(f"unknown {self.kind} {name!r}.{suggest(name, self.names())}")
        return found

    def names(self) -> list[str]:
        """All names, sorted: those that are registered and those of plugins."""
        self._scan()
        return sorted({*self._items, *self._plugins.names})

    def _scan(self) -> None:
        if self._scanned:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.walk_packages(package.__path__, f"{self._package}."):
            importlib.import_module(module.name)
        self._plugins = metadata.entry_points(group=self._group)
        self._scanned = True

    def _plugged(self, name: str) -> Any:
        """What one installed distribution offers under a name that nothing else has."""
        first, *others = self._plugins.select(name=name)
        found = by_path(self.kind, first.value)
        if others or self._items.get(name, found) is not found:
            rest = ", ".join(_origin(point) for point in others) or self._package
            raise ReedError(
                f"{self.kind} {name!r} is offered by {_origin(first)} and by {rest}; "
                f"uninstall one, or name it by its place, such as {first.value}"
            )
        return found


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


def _origin(point: metadata.EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist else point.value
