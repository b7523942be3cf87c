"""The counts of a build: seconds of each stage, and failed samples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from reed.errors import ReedError

MAX_FAILED = 0.01  # share of a column's samples
FEW = 10  # failures from which no share can be estimated yet


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
    """Tried and failed samples of a column; adding raises ReedError once too many have failed.

    At most 1 % of the column's samples may fail; beyond the first ten failures, at most 1 % of
    those that were tried so far.

    Attributes:
        column: Name of the column.
        planned: Samples of the whole column.
        tried: Samples that were tried.
        failed: Samples that failed.
    """

    column: str
    planned: int
    tried: int = 0
    failed: int = 0

    def add(self, tried: int, failed: dict[str, str]) -> None:
        """Count samples.

        Args:
            tried: Number of samples that were tried.
            failed: Key -> reason, of those that failed.

        Raises:
            ReedError: Too many samples have failed.
        """
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
