"""What watches over the steps of a run: bad gradients, means for the log, requests to stop."""

from __future__ import annotations

import signal
import time
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from reed.errors import ReedError
from reed.train.feed import Feed
from reed.train.recipe import Setup


class Guard:
    """Counts steps with a non-finite loss or gradient on the device, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self.bad = torch.zeros((), device=device)
        self._count = torch.zeros((), device=device)
        self._last = torch.zeros((), device=device, dtype=torch.int64)

    def watch(self, value: Tensor, step: int) -> None:
        """Note whether the gradient norm (or loss) of a step is finite; if not it is skipped."""
        self.bad = (~torch.isfinite(value)).float()
        self._count += self.bad
        self._last = torch.where(self.bad > 0, step, self._last)

    def check(self, setup: Setup) -> None:
        """Stop the run after too many bad steps, naming the last one and its samples."""
        count = int(self._count)
        if count < setup.config.stop_after_bad:
            return
        step = int(self._last)
        keys = setup.stream.keys_at(step)
        raise ReedError(
            f"{count} steps had non-finite gradients (the last: step {step}, samples "
            f"{', '.join(keys[:4])}, …); lower optim.lr, or use precision bf16 or fp32"
        )


class Meter:
    """Means over the steps since the last log line."""

    def __init__(self, setup: Setup, accelerator: Accelerator, feed: Feed, samples: int) -> None:
        self._setup, self._accelerator, self._feed = setup, accelerator, feed
        self._reset(samples)

    def _reset(self, samples: int) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps, self._samples = 0, samples
        self._waited, self._began = self._feed.waited, time.perf_counter()

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one step's values, on the device."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps += 1

    def line(self, step: int, samples: int) -> dict[str, Any]:
        """The log line after `step` steps and `samples` samples, averaged over processes.

        The one place where the host waits for the device.
        """
        setup, done = self._setup, step - 1
        means = {name: total / self._steps for name, total in self._sums.items()}
        means = self._accelerator.reduce(means, reduction="mean")
        line: dict[str, Any] = {name: float(value) for name, value in means.items()}
        seconds = time.perf_counter() - self._began
        line |= {f"weight/{n}": schedule(done) for n, schedule in setup.schedules.items()}
        line |= {
            "lr": setup.config.optim.lr * setup.lr(done),
            "samples": samples,
            "samples_per_s": (samples - self._samples) / seconds,
            "wait_share": (self._feed.waited - self._waited) / seconds,
        }
        self._reset(samples)
        return line


class Stop:
    """SIGTERM and SIGUSR1 (pre-emption) end the run after the step at hand, with a checkpoint."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator, self._asked = accelerator, False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def requested(self, step: int) -> bool:
        """Whether to stop now; processes agree on it every tenth step."""
        if self._accelerator.num_processes == 1:
            return self._asked
        if step % 10:
            return False
        asked = torch.tensor(float(self._asked), device=self._accelerator.device)
        return bool(self._accelerator.reduce(asked) > 0)
