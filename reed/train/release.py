"""Release of alignment targets: at a step of the recipe, or where the residual stops falling.

Alignment helps early and may hold a net back later (HASTE, arXiv 2505.16792; RARE). After its
release a target has no loss, its head rests, and its column is not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reed.errors import ReedError, suggest
from reed.train.curriculum import Ramp, Schedule, check_time, in_steps

PLATEAU = "plateau"
KEYS = {False: ("at", "ramp"), True: ("on", "below", "ramp", "averages")}  # of a plateau or not


@dataclass(frozen=True)
class Release:
    """When the weight of a target falls to 0.

    Attributes:
        at: Time at which the weight begins to fall; None if a plateau decides. Times are those of
            a schedule (see reed.train.curriculum).
        ramp: Length of half a cosine by which it falls; a plateau counts only after as many steps.
        below: The plateau: the improvement of the residual, as a share of it, is below this.
        averages: Decays of the fast and the slow moving average of the residual, whose difference
            is the improvement.
    """

    at: int | str | None
    ramp: int | str = 0
    below: float = 0.02
    averages: tuple[float, float] = (0.999, 0.99995)

    @classmethod
    def of(cls, data: Any, where: str) -> Release | None:
        """Make a release from a setting.

        Args:
            data: "" for none; a time, such as "62.5%" or 250_000; a table {at, ramp}, or
                {on = "plateau", below, ramp, averages}.
            where: Name of the setting, for messages.

        Raises:
            ReedError: The table has other keys or values.
        """
        if data == "":
            return None
        table = data if isinstance(data, Mapping) else {"at": data}
        on_plateau = "on" in table
        for key in table:
            if key not in KEYS[on_plateau]:
                raise ReedError(f"{where} has no key {key!r}.{suggest(key, KEYS[on_plateau])}")
        ramp = check_time(table.get("ramp", "12.5%" if on_plateau else 0), where, "ramp")
        if not on_plateau:
            if "at" not in table:
                raise ReedError(f"{where} has neither 'at', a time, nor on = 'plateau'; give one")
            return cls(check_time(table["at"], where, "at"), ramp)

        # What is named is compared with what is measured, so it must be a number.
        if table["on"] != PLATEAU:
            raise ReedError(f"{where}.on is {table['on']!r}.{suggest(str(table['on']), [PLATEAU])}")
        below, averages = table.get("below", cls.below), table.get("averages", cls.averages)
        if not _is_share(below):
            raise ReedError(f"{where}.below is {below!r}, it must be above 0 and below 1")
        is_pair = isinstance(averages, list | tuple) and len(averages) == 2
        if not is_pair or not all(map(_is_share, averages)) or averages[0] >= averages[1]:
            raise ReedError(
                f"{where}.averages is {averages!r}, it must be two decays between 0 and 1, the "
                f"smaller one first, such as {list(cls.averages)}"
            )
        return cls(None, ramp, float(below), (float(averages[0]), float(averages[1])))

    def resolve(self, lengths: Mapping[str, float], where: str) -> Release:
        """Return the same release with all times in optimizer steps.

        Args:
            lengths: See reed.train.curriculum.lengths_of.
            where: Name of the setting, for messages.

        Raises:
            ReedError: It begins at step 0, or a plateau would have a ramp of no step.
        """
        ramp = in_steps(self.ramp, lengths)
        if self.at is None and ramp < 1:
            raise ReedError(
                f"{where}.ramp is {self.ramp!r}, which is no step of this run: the two averages "
                "are equal at its beginning, so a plateau is looked for only after the ramp's "
                "length; make it longer"
            )
        at = None if self.at is None else in_steps(self.at, lengths)
        if at == 0:
            raise ReedError(
                f"{where} is {self.at!r}, which is step 0 of this run, so that it would never be "
                "aligned; set its weight in curriculum to 0 instead, or release it later"
            )
        return replace(self, at=at, ramp=ramp)

    def ramp_from(self, step: int) -> Ramp:
        """Return the factor of the weight if it begins to fall at a step; `resolve` it first."""
        assert isinstance(self.ramp, int), "resolve() it first"
        return Ramp("cosine", 1.0, 0.0, step, step + self.ramp)

    def within(self, schedule: Schedule) -> Schedule:
        """Return the schedule of a target with its release, if that is known; `resolve` both."""
        if self.at is None:
            return schedule
        assert isinstance(self.at, int), "resolve() it first"
        return replace(schedule, ramps=(*schedule.ramps, self.ramp_from(self.at)))


def _is_share(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 0 < value < 1
