"""The runs of a sweep, trained one after another, each in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reed import config
from reed.cache.files import only_writer
from reed.errors import ReedError
from reed.train import checkpoint, launch, recipe
from reed.train.settings import TrainConfig
from reed.train.sweep import Sweep
from reed.wording import counted

ENDS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
PROGRAM = (sys.executable, "-m", "reed.cli.train")


@dataclass(frozen=True)
class Member:
    """A run of a sweep that fits its cache.

    Attributes:
        given: Its settings.
        resolved: The same with what the cache completes.
    """

    given: TrainConfig
    resolved: TrainConfig

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.given.run

    @property
    def step(self) -> int:
        """Step of its latest checkpoint; 0 without any."""
        return max(checkpoint.steps(self.folder), default=0)

    @property
    def is_trained(self) -> bool:
        """Whether it has reached its last step."""
        return self.step >= self.given.steps

    @property
    def is_taken(self) -> bool:
        """Whether another process is training it."""
        if not self.folder.is_dir():
            return False
        try:
            with only_writer(self.folder):
                return False
        except ReedError:
            return True


def check(sweep: Sweep) -> list[Member]:
    """Check every run of a sweep before the first one is trained.

    Raises:
        ReedError: The settings of a run do not fit; the message names the run.
    """
    members = []
    for planned in sweep.runs:
        try:
            settings = config.build(TrainConfig, planned.table)
            launch.check(settings)
            setup = recipe.check(settings)
            setup.data.check(settings.run)
            recipe.check_free(setup.config)
        except ReedError as error:
            raise ReedError(f"{planned.name}: {error}") from error
        members.append(Member(settings, setup.config))
    return members


def lines(sweep: Sweep, members: Sequence[Member]) -> list[str]:
    """Describe a sweep: a line for each run with its state, and the settings in which it differs.

    Settings of a variant, and those that the cache completes, count as well.
    """
    tables = [config.plain(member.resolved) | {"run": ""} for member in members]
    differing = config.differing(tables)
    rows = []
    for number, member in enumerate(members):
        values = [f"{name}={config.shown(of_all[number])}" for name, of_all in differing.items()]
        rows.append([member.folder.name, _state(member), *values])

    # Columns as wide as their widest cell.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    trained = sum(member.is_trained for member in members)
    return [f"{sweep.folder}: {counted(len(rows), 'run')}, {trained} trained", *shown]


def train(sweep: Sweep, members: Sequence[Member], say: Callable[[str], Any]) -> None:
    """Train the runs of a sweep that are not trained yet.

    Runs that another process trains are left to it. After a run that fails, the others are trained.

    Args:
        sweep: The sweep.
        members: Its runs, as `check` returned them.
        say: Function that shows a line to the user.

    Raises:
        ReedError: Runs have failed; the message names them.
        KeyboardInterrupt: Ctrl-C was pressed; the run that was training has saved a checkpoint.
    """
    failed: list[str] = []
    # What the runs are given is frozen here, because files of settings may change meanwhile.
    with TemporaryDirectory(prefix="reed-sweep-") as place, _Child() as child:
        for number, member in enumerate(members, 1):
            say(f"run {number} of {len(members)}: {member.folder}{_skipped(member)}")
            if member.is_trained or member.is_taken:
                continue
            file = Path(place, f"{number}.json")
            file.write_text(json.dumps(config.plain(member.given)), encoding="utf-8")
            code = child.run([*PROGRAM, "--config", str(file)])
            if child.stopped or (not code and not member.is_trained):
                say(f"{sweep.folder}: stopped at run {number} of {len(members)}; rerun to go on")
                return
            # Two sweeps that start at once may choose the same run; it is left to the other one.
            if code and not (member.is_trained or member.is_taken):
                failed.append(f"{member.folder} ({_why(code)})")

    if failed:
        raise ReedError(
            f"{len(failed)} of {counted(len(members), 'run')} failed: {', '.join(failed)}; what "
            "went wrong is above, where each run began; rerun to try again what is not trained"
        )
    trained = sum(member.is_trained for member in members)
    others = f", {len(members) - trained} with other processes" if trained < len(members) else ""
    advice = f"compare them with: reed-train report {sweep.folder}"
    say(f"{sweep.folder}: {trained} of {counted(len(members), 'run')} trained{others}; {advice}")


class _Child:
    """A process that trains a run, and which the signals that this one gets are passed on to.

    It is in a process group of its own, so that a terminal sends Ctrl-C to this process alone.

    Attributes:
        stopped: Whether a signal has asked to stop.
    """

    def __init__(self) -> None:
        self.stopped, self._interrupts = False, 0
        self._process: subprocess.Popen[bytes] | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> _Child:
        for number in ENDS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                self._old[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def run(self, words: Sequence[str]) -> int:
        """Run a command to its end and return its exit status.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, and the process has ended.
        """
        if self.stopped:
            return self._ended(0)
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, process_group=0)
        self._process = process
        try:
            if self.stopped:  # the signal came before there was a process to pass it on to
                process.terminate()
            return self._ended(process.wait())
        finally:
            self._process = None
            if process.poll() is None:
                process.kill()
                process.wait()

    def _ended(self, code: int) -> int:
        if self._interrupts:
            raise KeyboardInterrupt
        return code

    def _stop(self, number: int, *_: object) -> None:
        self.stopped = True
        self._interrupts += number == signal.SIGINT
        if self._process is None:
            return
        # The run saves a checkpoint; a second Ctrl-C ends it at once.
        self._process.send_signal(signal.SIGKILL if self._interrupts > 1 else signal.SIGTERM)
        if self._interrupts == 1 and number == signal.SIGINT:
            text = "\nInterrupted: saving a checkpoint; once more to end at once"
            print(text, file=sys.stderr, flush=True)


def _state(member: Member) -> str:
    """Return how far a run is, in words."""
    if member.is_trained:
        return "trained"
    if member.is_taken:
        return "with another process"
    return f"at step {member.step:,} of {member.given.steps:,}" if member.step else "to be trained"


def _skipped(member: Member) -> str:
    """Return why a run is not started, for the line on it; empty if it is."""
    if member.is_trained:
        return " is trained already"
    return " is left to the process that is training it" if member.is_taken else ""


def _why(code: int) -> str:
    """Return the exit status of a process in words; -9 is most often the lack of memory."""
    return f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
