"""Frozen encoders and generators, by name; one file per family."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from reed.build.shard import Encoder
from reed.registry import Registry

Makes = TypeVar("Makes", bound=Callable[..., Encoder])


class Encoders(Registry):
    """A registry of callables that return an Encoder; a type checker verifies every entry."""

    def register(self, name: str) -> Callable[[Makes], Makes]:
        """Return a decorator that registers a class, or a partial of one, under ``name``."""
        return super().register(name)


ENCODERS = Encoders("encoder", "reed.encoders")
