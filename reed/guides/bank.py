"""The bank of a guide: rows of the cached column that its representations come from (GMem)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reed.cache.opened import Cache, open_cache
from reed.errors import ReedError
from reed.guides.guide import Guides

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
        self._shards, self._target, self._where = shards.absolute(), target, where
        self._check = check

    @cached_property
    def _dataset(self) -> Any:
        if not self._shards.is_dir():
            raise ReedError(
                f"{self._where} draws its representations from {self._target} of the cache, and "
                f"there is no cache at {self._shards}; put it back, or rerun reed-train with the "
                "--shards that it has now"
            )
        cache = open_cache(self._shards)
        self._check(cache, self._target)
        return cache.dataset([self._target])

    def __len__(self) -> int:
        return len(self._dataset)

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """Return decoded representations, [N, ...] float32."""
        rows = [self._dataset[number][self._target] for number in numbers]
        return torch.stack([torch.as_tensor(row) for row in rows]).float()


def open_banks(guides: Guides, shards: Path, check: Check) -> None:
    """Give every guide that reads a bank the column of a cache; see `CachedBank`."""
    for guide in guides.all():
        name, config = guide.spec.name, guide.spec.config
        if config.read == "bank":
            guide.bank = CachedBank(shards, config.target, f"guide.{name}", check)


def check_banks(guides: Guides, num: int, replace: bool) -> None:
    """Check that every bank has a row for each of `num` samples, unless rows may be used again."""
    for guide in guides.all():
        if guide.bank is not None and len(guide.bank) < num and not replace:
            raise ReedError(
                f"guide.{guide.spec.name}: {num} samples need a row each, and the bank "
                f"{guide.spec.config.target} has {len(guide.bank)}; draw at most that many, or "
                "use --guide-replace"
            )
