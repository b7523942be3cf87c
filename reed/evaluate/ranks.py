"""The processes of a launch, which divide the batches of every pass through a feature space.

Batch k is computed by process k mod N, with the size that it has in a single process; process 0
receives the features in the order of the batches and computes the metrics. So the numbers are
those of a single process, bit for bit.
"""

from __future__ import annotations

import atexit
import json
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np

from reed.build.engines import Share
from reed.errors import ReedError

Rows = dict[str, np.ndarray]  # output of a space -> features [N, D]

AHEAD = 2  # batches of a process that process 0 has not received yet
PATIENCE = timedelta(days=7)  # process 0 computes metrics while the others wait


@dataclass(frozen=True)
class Ranks:
    """This process among those of a launch.

    Attributes:
        share: Rank and number of the processes.
    """

    share: Share = field(default_factory=Share)

    @property
    def leads(self) -> bool:
        """Whether this process computes the metrics."""
        return self.share.rank == 0

    def ask(self, about: dict[str, Any]) -> None:
        """Tell the other processes which pass is next; an empty table ends their work."""
        if self.share.world == 1:
            return
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        with self._connected() as (torch, dist):
            dist.broadcast(torch.tensor([len(text)]), 0)
            dist.broadcast(torch.tensor(text), 0)

    def asked(self) -> dict[str, Any]:
        """Wait until process 0 says which pass is next; see `ask`."""
        with self._connected() as (torch, dist):
            length = torch.zeros(1, dtype=torch.int64)
            dist.broadcast(length, 0)
            text = torch.zeros(int(length), dtype=torch.uint8)
            dist.broadcast(text, 0)
        return json.loads(text.numpy().tobytes())

    def send(self, own: Iterable[Rows]) -> None:
        """Send the features of this process's batches to process 0.

        Args:
            own: Features of every N-th batch, from that of this process's rank on.
        """
        under_way: deque[list[Any]] = deque()
        for rows in own:
            with self._connected() as (torch, dist):
                # A sent array must stay as it is until it has arrived, hence it is kept.
                arrays = [torch.from_numpy(np.ascontiguousarray(rows[name])) for name in rows]
                under_way.append([(dist.isend(array, 0), array) for array in arrays])
                _wait(under_way, AHEAD)
        with self._connected():
            _wait(under_way, 0)

    def joined(self, own: Iterator[Rows], num: int, batch: int) -> Generator[Rows]:
        """Yield the features of all batches in order, in process 0.

        Args:
            own: Features of every N-th batch, from the first on.
            num: Number of images.
            batch: Images per batch.
        """
        widths: Rows = {}
        for number, first in enumerate(range(0, num, batch)):
            source = number % self.share.world
            if not source:
                rows = next(own)
                widths = widths or {name: values[:0] for name, values in rows.items()}
            else:
                # Every batch has the outputs of the first one, so that no header is needed.
                count = min(batch, num - first)
                rows = {n: np.empty((count, *v.shape[1:]), v.dtype) for n, v in widths.items()}
                with self._connected() as (torch, dist):
                    for values in rows.values():
                        dist.recv(torch.from_numpy(values), source)
            yield rows

    @contextmanager
    def _connected(self) -> Generator[tuple[Any, Any]]:
        """Give torch and torch.distributed, connected; ReedError if another process has ended."""
        import torch
        from torch import distributed

        try:
            if not distributed.is_initialized():
                distributed.init_process_group("gloo", timeout=PATIENCE)
                atexit.register(distributed.destroy_process_group)  # its threads must end first
            yield torch, distributed
        except (RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            rank, world = self.share.rank, self.share.world
            raise ReedError(
                f"process {rank} of the {world} of this launch lost another one ({reason}); "
                "the message of that one says why"
            ) from error


def _wait(under_way: deque[list[Any]], at_most: int) -> None:
    """Wait until at most so many batches have not arrived."""
    while len(under_way) > at_most:
        for sent, _ in under_way.popleft():
            sent.wait()
