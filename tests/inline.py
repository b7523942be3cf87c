"""Pools of processes for a test; read it by runpy."""

from __future__ import annotations

from concurrent.futures import Future


class Inline:
    """In place of a pool: submitted work is done at once."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, work, *arguments) -> Future:
        done = Future()
        done.set_result(work(*arguments))
        return done
