"""Weights of the losses as functions of the optimizer step: products of clamped ramps.

In REED (arXiv 2507.08980), the diffusion loss warms up while alignment has its full weight from the
first step; either may fade out later. In TOML, its schedule with both decays is::

    diffusion = [
        {kind = "linear", start = 0, end = 1, ends = 50000},
        {kind = "cosine", start = 1, end = 0, begins = 50000, ends = "100%"},
    ]
    alignment = {kind = "cosine", start = 1, end = 0, ends = 400000}

In the released code, a bracket of the first cosine is misplaced, and the second rises again after
its end. Here progress is clamped to [0, 1], so neither can happen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reed.errors import ReedError, suggest

KEYS = {  # kind -> (required keys, optional keys)
    "constant": (["start"], []),
    "linear": (["start", "end", "ends"], ["begins"]),
    "cosine": (["start", "end", "ends"], ["begins"]),
    "step": (["start", "end", "begins"], []),
}
UNITS = ["epochs", "samples", "steps"]
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Ramp:
    """One factor of a schedule: `start` up to `begins`, then a curve, and `end` from `ends` on.

    A ramp whose `begins` and `ends` are equal jumps there.

    Attributes:
        kind: constant (always `start`), linear, cosine (half a period), or step (jumps at
            `begins`).
        start: Factor up to `begins`.
        end: Factor from `ends` on.
        begins: Time at which the curve begins: optimizer steps, or text such as "30 epochs",
            "25600 samples", "500 steps" or "10%" (of all steps), rounded to the nearest step.
        ends: Time at which the curve ends, like `begins`.
    """

    kind: str
    start: float
    end: float
    begins: int | str = 0
    ends: int | str = 0

    def __post_init__(self) -> None:
        assert self.kind in KEYS, self.kind
        if self.kind == "step":
            object.__setattr__(self, "ends", self.begins)

    def at(self, step: int) -> float:
        """Return the factor at an optimizer step, counted from 0; `resolve` the schedule first."""
        assert isinstance(self.begins, int) and isinstance(self.ends, int), "resolve() it first"
        if self.kind == "constant":
            return self.start
        if step >= self.ends:
            return self.end
        if step <= self.begins:
            return self.start
        progress = (step - self.begins) / (self.ends - self.begins)
        if self.kind == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * progress

    def is_zero(self) -> bool:
        """Return whether the factor is 0 at every step."""
        if self.kind == "constant":
            return self.start == 0
        return self.end == 0 and (self.start == 0 or self.ends == 0)


@dataclass(frozen=True)
class Schedule:
    """The weight of one loss over the run: the product of its ramps.

    Attributes:
        ramps: The factors.
        where: Name of the setting, for messages.
    """

    ramps: tuple[Ramp, ...]
    where: str = "schedule"

    @classmethod
    def of(cls, data: Any, where: str) -> Schedule:
        """Make a schedule from a setting.

        Args:
            data: A number (constant), a table with the fields of Ramp, or a list of these.
            where: Name of the setting, for messages.

        Raises:
            ReedError: The data is anything else, a kind or key is unknown, or a weight is negative
                or not finite.
        """
        tables = data if isinstance(data, list | tuple) else [data]
        if not tables:
            raise ReedError(f"{where} is an empty list; give a number or at least one table")
        return cls(tuple(_ramp(table, where) for table in tables), where)

    def resolve(self, total_steps: int, batch_size: float, samples: int) -> Schedule:
        """Return the same schedule with all times in optimizer steps.

        Args:
            total_steps: Steps of the run.
            batch_size: Mean number of samples in a global batch.
            samples: Samples in an epoch.

        Raises:
            ReedError: A ramp would end before it begins.
        """
        lengths = lengths_of(total_steps, batch_size, samples)
        ramps = tuple(_resolved(ramp, lengths, self.where) for ramp in self.ramps)
        return replace(self, ramps=ramps)

    def __call__(self, step: int) -> float:
        """Return the weight at an optimizer step, counted from 0; `resolve` the schedule first."""
        return math.prod(ramp.at(step) for ramp in self.ramps)

    def is_off(self) -> bool:
        """Return whether the weight is 0 at every step, so that the loss need not be computed."""
        return any(ramp.is_zero() for ramp in self.ramps)


def lengths_of(total_steps: int, batch_size: float, samples: int) -> dict[str, float]:
    """Return the steps in each unit of time; for the arguments see `Schedule.resolve`."""
    return {
        "epochs": samples / batch_size,
        "samples": 1 / batch_size,
        "steps": 1,
        "%": total_steps / 100,
    }


def in_steps(time: int | str, lengths: Mapping[str, float]) -> int:
    """Return a time in the run, which `check_time` has checked, as the nearest step."""
    amount, unit = _amount(time)
    return round(amount * lengths[unit])


def sketch(schedules: Mapping[str, Schedule], steps: int, width: int = 48) -> str:
    """Draw resolved schedules over a run as lines of text.

    Args:
        schedules: Loss name -> schedule.
        steps: Steps of the run.
        width: Bars in a line; the highest bar of a line is the largest weight in that line.
    """
    sampled_steps = [round(i * (steps - 1) / (width - 1)) for i in range(width)]
    longest = max(map(len, schedules))
    lines = []
    for name, schedule in schedules.items():
        values = [schedule(step) for step in sampled_steps]
        bars = drawn(values, max(values) or 1.0)
        ends = f"{values[0]:.4g} at the start, {values[-1]:.4g} at the end"
        lines.append(f"{name.ljust(longest)}  {bars}  {ends}")
    return "\n".join(lines)


def drawn(values: Sequence[float], largest: float) -> str:
    """Return numbers from 0 to `largest` as bars of text, a character each."""
    return "".join(BARS[math.ceil(value / largest * (len(BARS) - 1))] for value in values)


def _ramp(table: Any, where: str) -> Ramp:
    """Make a ramp from a number or a table."""
    if not isinstance(table, Mapping):
        weight = _weight(table, where, "it")
        return Ramp("constant", weight, weight)
    kind = table.get("kind")
    if kind is None:
        raise ReedError(f"{where} has no 'kind'. Available: {', '.join(KEYS)}")
    if kind not in list(KEYS):
        raise ReedError(f"{where}: unknown kind {kind!r}.{suggest(str(kind), KEYS)}")

    # A key that its kind does not use would be ignored, so it is refused.
    required, optional = KEYS[kind]
    allowed = ["kind", *required, *optional]
    for key in table:
        if key not in allowed:
            hint = suggest(str(key), allowed)
            raise ReedError(f"{where}: a {kind} ramp has no key {key!r}.{hint}")
    for key in required:
        if key not in table:
            raise ReedError(f"{where}: a {kind} ramp needs {key!r}, and it is missing")

    start = _weight(table["start"], where, "start")
    end = _weight(table.get("end", start), where, "end")
    begins = check_time(table.get("begins", 0), where, "begins")
    ends = check_time(table.get("ends", 0), where, "ends")
    return Ramp(kind, start, end, begins, ends)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _weight(value: Any, where: str, key: str) -> float:
    """Check that a value is a finite number and at least 0."""
    if not _is_number(value) or not math.isfinite(value) or value < 0:
        raise ReedError(f"{where}: {key} is {value!r}, it must be a number and at least 0")
    return float(value)


def check_time(value: Any, where: str, key: str) -> int | str:
    """Check a time in the run (steps, or an amount with a unit), and return it unchanged.

    Args:
        value: The time.
        where: Name of the setting, for messages.
        key: Name of the time in that setting.

    Raises:
        ReedError: It is no time, or is negative or not finite.
    """
    try:
        amount, _ = _amount(value)
    except ValueError:
        raise ReedError(
            f"{where}: {key} is {value!r}, it must be a number of steps or text such as "
            f"'30 epochs', '25600 samples', '500 steps' or '10%'"
        ) from None
    if not math.isfinite(amount) or amount < 0:
        raise ReedError(f"{where}: {key} is {value!r}, it must be finite and at least 0")
    return value


def _amount(time: Any) -> tuple[float, str]:
    """Split a time in the run, such as "30 epochs", into amount and unit; or raise ValueError."""
    if isinstance(time, int) and not isinstance(time, bool):
        return time, "steps"
    if not isinstance(time, str):
        raise ValueError(time)
    text = time.strip()
    if text.endswith("%"):
        return float(text[:-1]), "%"
    amount, _, unit = text.partition(" ")
    unit = unit.strip()
    plural = unit if unit.endswith("s") else unit + "s"
    if plural not in UNITS:
        raise ValueError(time)
    return float(amount), plural


def _resolved(ramp: Ramp, lengths: dict[str, float], where: str) -> Ramp:
    """Return a ramp with times in steps; lengths: unit -> its length in steps."""
    begins, ends = in_steps(ramp.begins, lengths), in_steps(ramp.ends, lengths)
    if begins > ends:
        raise ReedError(
            f"{where}: a {ramp.kind} ramp begins at {ramp.begins!r} (step {begins}) and ends "
            f"before that, at {ramp.ends!r} (step {ends}); move one of them or train longer"
        )
    return replace(ramp, begins=begins, ends=ends)
