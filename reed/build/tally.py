"""The counts of a build: seconds of each stage, and failed samples."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from reed.cache.schema import MAX_FAILED
from reed.errors import ReedError
from reed.wording import counted

LEAST_ADVISED = 10  # percent of failed samples that the advice allows, or more if more failed
FEW = 10  # failures from which no share can be estimated yet, and that a message names


@dataclass
class Timing:
    """Seconds that a build waited for samples, encoded them, and waited for writing.

    Attributes:
        read: Seconds of waiting for samples.
        encode: Seconds of encoding.
        write: Seconds of waiting for the disk.
        noted: Samples of which the source noted something, by the note.
    """

    read: float = 0.0
    encode: float = 0.0
    write: float = 0.0
    noted: Counter[str] = field(default_factory=Counter)

    def add(self, other: Timing) -> None:
        """Add the seconds of another shard."""
        self.read += other.read
        self.encode += other.encode
        self.write += other.write
        self.noted += other.noted

    def summary(self) -> str:
        """Return a line that names the limiting stage."""
        seconds = {"read": self.read, "encode": self.encode, "write": self.write}
        spent = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        return f"{spent} ({max(seconds, key=seconds.__getitem__)} limits)"


@dataclass
class Tally:
    """Tried and failed samples of a column; too many failures raise ReedError.

    At most a share of the column's samples may fail, by default 1 %. A build stops earlier if,
    beyond the first ten failures, the share of those that were tried so far is clearly greater.
    It goes on until ten failures can be named, or to the end of the shard.

    Attributes:
        column: Name of the column.
        planned: Samples of the whole column.
        tried: Samples that were tried.
        failed: Samples that failed.
        allowed: Share of samples that may fail.
    """

    column: str
    planned: int
    tried: int = 0
    failed: int = 0
    allowed: float = MAX_FAILED
    _named: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    _reasons: Counter[str] = field(default_factory=Counter, compare=False, repr=False)

    def add(self, tried: int, failed: dict[str, str]) -> None:
        """Count samples.

        Args:
            tried: Number of samples that were tried.
            failed: Key -> reason, of those that failed.

        Raises:
            ReedError: Too many samples have failed, and ten or more can be named.
        """
        self.tried += tried
        self.failed += len(failed)
        for key, reason in failed.items():
            bare = _without_name(reason, key)
            self._reasons[bare] += 1
            if len(self._named) < FEW:
                self._named[key] = bare
        if failed and self._reasons.total() >= FEW:
            self.check()

    def check(self) -> None:
        """Raise ReedError if too many samples have failed, earlier builds included."""
        # The order is random, so the share so far scatters around that of the whole column.
        expected = self.allowed * self.tried
        few = max(FEW, expected + 3 * expected**0.5)
        most = min(few, max(1, share_of(self.planned, self.allowed)))
        if not self._named or (self.failed <= most and self.failed < self.planned):
            return

        so_far = counted(self.tried, "sample")
        raise ReedError(
            f"column {self.column!r}: {self.failed:,} of the {so_far} so far failed, "
            f"more than {100 * self.allowed:g} % of the {self.planned:,} planned or tried: "
            f"{self._summary()}; mend the source, then rerun with --retry-failed{self._allow()}"
        )

    def _summary(self) -> str:
        """Return the most frequent reasons, each with its count and the keys that are named."""
        parts = []
        for reason, number in self._reasons.most_common(FEW):
            keys = [repr(key) for key, why in self._named.items() if why == reason]
            more = ", …" if keys and number > len(keys) else ""
            parts.append(f"{number:,} {reason}" + (f" ({', '.join(keys)}{more})" if keys else ""))
        return "; ".join(parts)

    def _allow(self) -> str:
        """Return the advice to allow more; empty if so many failed that nothing would be left."""
        percent = max(LEAST_ADVISED, math.ceil(round(100 * self.failed / self.tried, 9)))
        return f", or allow more, such as --max-failed {percent}%" if percent < 100 else ""


def share_of(number: int, share: float) -> float:
    """Return a share of a number; 29 % of 100 are 29, which 0.29 * 100 is not."""
    return round(share * number, 9)


def _without_name(reason: str, key: str) -> str:
    """Return a reason without the name of the file, so that equal reasons are counted together."""
    for part in key.split("/"):
        reason = reason.replace(part, "") if len(part) > 3 else reason
    return " ".join(reason.split()).strip(" :")
