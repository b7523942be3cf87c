"""What a build counts as it goes: seconds of each stage, and samples that failed."""

from __future__ import annotations

from dataclasses import dataclass

from reed.errors import ReedError

MAX_FAILED = 0.01  # of a column's samples
FEW = 10  # failures that say nothing yet about their share


@dataclass
class Timing:
    """Seconds that building waited for samples, encoded them, and waited for their writing."""

    read: float = 0.0
    encode: float = 0.0
    write: float = 0.0

    def add(self, other: Timing) -> None:
        """Add the seconds of another shard."""
        self.read += other.read
        self.encode += other.encode
        self.write += other.write

    def summary(self) -> str:
        """One line that says what limits."""
        seconds = {"read": self.read, "encode": self.encode, "write": self.write}
        spent = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        return f"{spent} ({max(seconds, key=seconds.__getitem__)} limits)"


@dataclass
class Tally:
    """Samples of a column that were tried and that failed; ReedError once too many have.

    planned: samples of the whole column. At most 1 % of these may fail; beyond the first ten
    failures, at most 1 % of those that were tried so far.
    """

    column: str
    planned: int
    tried: int = 0
    failed: int = 0

    def add(self, tried: int, failed: dict[str, str]) -> None:
        """Count some samples, of which `failed` failed for these reasons."""
        self.tried += tried
        self.failed += len(failed)
        few = max(FEW, MAX_FAILED * self.tried)
        if failed and self.failed > min(few, max(1, MAX_FAILED * self.planned)):
            key, reason = next(iter(failed.items()))
            raise ReedError(
                f"column {self.column!r}: {self.failed} of the {self.tried} samples so far failed, "
                f"more than 1 % of the {self.planned} planned or tried (last: {key!r}: {reason}); "
                "mend the source, then rerun with --retry-failed"
            )
