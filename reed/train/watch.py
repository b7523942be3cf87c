"""Monitoring of a run: non-finite gradients, means for the log, and requests to stop."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from reed.errors import ReedError
from reed.train.feed import Feed
from reed.train.plateau import Releases
from reed.train.recipe import Setup


class Guard:
    """A counter of steps with a non-finite loss or gradient, kept on the device.

    Counting never makes the host wait for the device.

    Attributes:
        bad: 1 if the last watched step was bad, else 0; a float32 scalar on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.bad = torch.zeros((), device=device)
        self._count = torch.zeros((), device=device)
        self._last = torch.zeros((), device=device, dtype=torch.int64)

    def watch(self, value: Tensor, step: int) -> None:
        """Count a step as bad if its gradient norm (or loss) is not finite."""
        self.bad = (~torch.isfinite(value)).float()
        self._count += self.bad
        self._last = torch.where(self.bad > 0, step, self._last)

    def check(self, setup: Setup) -> None:
        """Fail after too many bad steps; the message names the last one and its samples."""
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
    """Means of the logged values over the steps since the last line of the log."""

    def __init__(
        self,
        setup: Setup,
        accelerator: Accelerator,
        feed: Feed,
        releases: Releases,
        samples: int,
    ) -> None:
        self._setup, self._accelerator, self._feed = setup, accelerator, feed
        self._releases = releases
        self._reset(samples)

    def _reset(self, samples: int) -> None:
        """Start over, after `samples` samples."""
        self._sums: dict[str, Tensor] = {}
        self._steps: Counter[str] = Counter()
        self._samples = samples
        self._waited, self._began = self._feed.waited, time.perf_counter()

    def add(self, values: dict[str, Tensor]) -> None:
        """Add the values of one step, which stay on the device."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps.update(values.keys())  # a target that is released is in some steps alone

    def line(self, step: int, samples: int) -> dict[str, Any]:
        """Return the line of the log after `step` steps and `samples` samples.

        Means are taken over processes, too. Only here does the host wait for the device.
        """
        setup, done = self._setup, step - 1
        means = {name: total / self._steps[name] for name, total in self._sums.items()}
        means = self._accelerator.reduce(means, reduction="mean")
        line = _divided({name: float(value) for name, value in means.items()})
        seconds = time.perf_counter() - self._began

        # The weights are those of the last step.
        weights = self._releases.weights(setup.schedules, done)
        line |= {f"weight/{name}": weight for name, weight in weights.items()}
        line |= self._releases.line(done)
        line |= {
            "lr": setup.config.optim.lr * setup.lr(done),
            "samples": samples,
            "samples_per_s": (samples - self._samples) / seconds,
            "wait_share": (self._feed.waited - self._waited) / seconds,
        }
        self._reset(samples)
        return line


BINS = 5  # of the time, in which errors of representations are logged
_SHARE = "#"  # after the name of a part: the share of the samples that it is the sum of


def by_time(name: str, error: Tensor, counts: Tensor, t: Tensor) -> dict[str, Tensor]:
    """Return sums of an error for the log: over all times, and in five bins of the time.

    Args:
        name: Name of the error.
        error: Errors of the samples, [B].
        counts: Samples that count, bool [B].
        t: Their times, [B].
    """
    bins, values = (t * BINS).long().clamp(0, BINS - 1), {}
    parts = {name: counts}
    parts |= {f"{name}/t{n / BINS:g}": counts & (bins == n) for n in range(BINS)}
    for part, inside in parts.items():
        share = inside.to(error.dtype)
        values |= {part: (error * share).mean(), part + _SHARE: share.mean()}
    return values


def _divided(means: dict[str, float]) -> dict[str, Any]:
    """Divide sums over bins by the shares of their samples; one without samples is left out."""
    line = {}
    for name, value in means.items():
        share = means.get(name + _SHARE)
        if share is None and not name.endswith(_SHARE):
            line[name] = value
        elif share:
            line[name] = value / share
    return line


class Stop:
    """A handler of SIGTERM, SIGUSR1 (pre-emption) and SIGINT (Ctrl-C).

    When one arrives, the run ends after the current step, with a checkpoint. A second Ctrl-C ends
    it at once.

    Attributes:
        is_interrupt: Whether it was Ctrl-C.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator, self._asked, self.is_interrupt = accelerator, False, False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, *_: object) -> None:
        if number == signal.SIGINT:
            if self.is_interrupt:
                raise KeyboardInterrupt
            self.is_interrupt = True
            self._accelerator.print(
                "\nInterrupted: saving a checkpoint; once more to end at once", file=sys.stderr
            )
        self._asked = True

    def requested(self, step: int) -> bool:
        """Return whether to stop now; the processes agree on this every tenth step."""
        if self._accelerator.num_processes == 1:
            return self._asked
        if step % 10:
            return False
        asked = torch.tensor(float(self._asked), device=self._accelerator.device)
        return bool(self._accelerator.reduce(asked) > 0)
