"""Cached rows as the representations of a guide: a bank to draw from (GMem), or prompts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reed.cache.opened import Cache, open_cache
from reed.errors import ReedError
from reed.guides.guide import Guides
from reed.guides.steer import Steer
from reed.store import mirror

COMPARED = 20_000  # keys among which the nearest is looked for

Check = Callable[[Cache, str], None]  # a cache and the "column/field" of the bank


class CachedBank:
    """The rows of a column, which are read when a sample needs them.

    Args:
        shards: Folder of the cache.
        target: "column/field" of the representations.
        where: Name of the guide, for messages.
        check: Raises ReedError if an opened cache is not that of the run.
    """

    def __init__(self, shards: Path, target: str, where: str, check: Check) -> None:
        self._shards, self._target, self._where = shards, target, where
        self._check = check

    @cached_property
    def _dataset(self) -> Any:
        folder = mirror.local(self._shards).absolute()
        if not folder.is_dir():
            raise ReedError(
                f"{self._where} reads its representations from {self._target} of the cache, and "
                f"there is no cache at {folder}; put it back, or rerun reed-train with the "
                "--shards that it has now"
            )
        cache = open_cache(self._shards)
        self._check(cache, self._target)
        return cache.dataset([self._target])

    def __len__(self) -> int:
        return len(self._dataset)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {key: number for number, key in enumerate(self._dataset.keys)}

    def numbers(self, keys: Sequence[str]) -> list[int]:
        """Return the rows of some keys.

        Raises:
            ReedError: The column has no row of a key.
        """
        for key in keys:
            if key not in self._numbers:
                raise ReedError(
                    f"--prompt-from {key!r}: {self._target} of {self._shards} has no sample of "
                    f"this key.{self._nearest(key)}"
                )
        return [self._numbers[key] for key in keys]

    def _nearest(self, key: str) -> str:
        """Return the nearest key, or an example where comparing all of them would take long."""
        known = list(self._numbers)
        near = difflib.get_close_matches(key, known, n=1) if len(known) <= COMPARED else known[:1]
        word = "Did you mean" if len(known) <= COMPARED else "A key is, say,"
        return f" {word} {near[0]!r}?" if near else f" A key is, say, {known[0]!r}" if known else ""

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """Return decoded representations, [N, ...] float32."""
        rows = [self._dataset[number][self._target] for number in numbers]
        return torch.stack([torch.as_tensor(row) for row in rows]).float()


def open_banks(guides: Guides, shards: Path, check: Check) -> None:
    """Give every guide its column of a cache, which is opened when it is read; see `CachedBank`."""
    for guide in guides.all():
        name, config = guide.spec.name, guide.spec.config
        guide.column = CachedBank(shards, config.target, f"guide.{name}", check)
        guide.bank = guide.column if config.read == "bank" else None


def check_banks(guides: Guides, num: int, steer: Steer) -> None:
    """Check that the cached rows are there that samples need.

    Args:
        guides: The guides of the net.
        num: Number of samples.
        steer: What names rows, or allows that they are used again.

    Raises:
        ReedError: A prompt names no row, or a bank has fewer rows than there are samples.
    """
    for guide in guides.all():
        if steer.prompt:
            assert guide.column is not None, guide.spec.name
            guide.column.numbers(steer.prompt)
        elif guide.bank is not None and len(guide.bank) < num and not steer.replace:
            raise ReedError(
                f"guide.{guide.spec.name}: {num} samples need a row each, and the bank "
                f"{guide.spec.config.target} has {len(guide.bank)}; draw at most that many, or "
                "use --guide-replace"
            )
