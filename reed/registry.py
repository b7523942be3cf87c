"""Registries map names to objects of one package and of installed plugins."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from reed.errors import ReedError, placed, suggest


class Registry:
    """A table of named objects of one kind, filled by the modules in ``package``.

    Entry points of installed distributions are in the table, too, and are imported when they are
    asked for. ``get`` also accepts "package.module:attribute", so a user's own file needs no
    registration.

    Args:
        kind: Kind of object, for error messages.
        package: Package whose modules, at any depth, register their objects when imported.
        group: Group of the entry points; by default the name of the package.

    Attributes:
        prefixes: Functions that make the object for "prefix:rest" from the rest, by prefix.
    """

    def __init__(self, kind: str, package: str, group: str = "") -> None:
        self.kind = kind
        self.prefixes: dict[str, Callable[[str], Any]] = {}
        self._package = package
        self._group = group or package
        self._items: dict[str, Any] = {}
        self._scanned = False

    def register(self, name: str) -> Callable[[Any], Any]:
        """Register the decorated object under ``name``; ReedError if the name is taken."""

        def add(item: Any) -> Any:
            if name in self._items:
                raise ReedError(f"{self.kind} {name!r} is registered twice; rename one of the two")
            self._items[name] = item
            return item

        return add

    def get(self, name: str) -> Any:
        """Return the object called ``name``.

        Args:
            name: A registered name, "prefix:rest" or "package.module:attribute".

        Raises:
            ReedError: There is no such object; the message suggests the nearest name.
        """
        self._load(name)
        prefix, colon, rest = name.partition(":")
        if colon and name not in self._items:
            make = self.prefixes.get(prefix)
            return make(rest) if make else by_path(self.kind, name)
        item = self._plugged(name) if name in self._plugins.names else self._items.get(name)
        if item is None:
            raise ReedError(f"unknown {self.kind} {name!r}.{suggest(name, self.names())}")
        return item

    def names(self) -> list[str]:
        """Return all names, sorted: registered ones and those of plugins."""
        self._scan()
        return sorted({*self._items, *self._plugins.names})

    @cached_property
    def _plugins(self) -> metadata.EntryPoints:
        return metadata.entry_points(group=self._group)

    def _load(self, name: str) -> None:
        """Import the module of a name if that registers it, else all modules."""
        if self._scanned or name in self._items:
            return
        package = importlib.import_module(self._package)
        modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
        if name in modules and name not in self._plugins.names:
            importlib.import_module(f"{self._package}.{name}")
        if name not in self._items:
            self._scan()

    def _scan(self) -> None:
        if self._scanned:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.walk_packages(package.__path__, f"{self._package}."):
            importlib.import_module(module.name)
        self._scanned = True

    def _plugged(self, name: str) -> Any:
        """Load a plugin, unless another distribution or module also offers its name."""
        first, *others = self._plugins.select(name=name)
        item = by_path(self.kind, first.value)
        if others or self._items.get(name, item) is not item:
            rest = ", ".join(_origin(point) for point in others) or self._package
            raise ReedError(
                f"{self.kind} {name!r} is offered by {_origin(first)} and by {rest}; "
                f"uninstall one, or name it by its place, such as {first.value}"
            )
        return item


def find_in(folder: Path) -> None:
    """Import modules from a folder first."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def by_path(kind: str, name: str) -> Any:
    """Import the object that "package.module:attribute" names.

    Modules in the current folder are found, too.

    Args:
        kind: Kind of object, for the error message.
        name: The module and the attribute, joined by a colon.

    Raises:
        ReedError: The module or the attribute does not exist.
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
    except Exception:  # a bug in the user's module, such as a name that is not defined
        with placed(f"{kind} {name!r}"):
            raise


def _origin(point: metadata.EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist else point.value
