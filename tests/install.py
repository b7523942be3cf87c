"""Install reed, editable, with what development needs: python tests/install.py [CONSTRAINTS]

Run by `make setup` with the Python of the environment, which may have pip and nothing else. With a
file of constraints, exactly those versions, as wheels; without, what is there or else the newest.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib import metadata

# pip's own copy: an environment that was just made has no other
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.version import Version

SHOWN = 3


def main(lock: str) -> None:
    """Exit with one line where the versions do not fit the environment or the platform."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--no-input", "--progress-bar", "off", "--editable", ".[dev]"]
    if lock:
        newer = [text for need in pinned(lock) if (text := newer_than(need))]
        if newer:
            more = f" and {len(newer) - SHOWN} more" if len(newer) > SHOWN else ""
            sys.exit(
                f"Error: {sys.prefix} has newer versions than {lock}: {', '.join(newer[:SHOWN])}"
                f"{more}; keep them: make setup LOCK=, or install elsewhere: make setup VENV=DIR"
            )
        command += ["--only-binary", ":all:", "--constraint", lock]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(unfit(lock, done.stdout) or done.stdout)


def pinned(lock: str) -> list[Requirement]:
    """The lines of a file of constraints that hold for this Python and platform."""
    with open(lock) as file:
        lines = [line.partition("#")[0].strip() for line in file]
    needs = [Requirement(line) for line in lines if line and not line.startswith("-")]
    return [need for need in needs if not need.marker or need.marker.evaluate()]


def newer_than(need: Requirement) -> str:
    """What is installed, where pip would replace it by an older version."""
    try:
        found = Version(metadata.version(need.name))
    except metadata.PackageNotFoundError:
        return ""
    if need.specifier.contains(found, prereleases=True):  # 2.14.1+cpu is a 2.14.1
        return ""
    pins = [each.version for each in need.specifier if each.operator == "=="]
    older = [pin for pin in pins if Version(pin) < found]
    return f"{need.name} {found} (it has {older[0]})" if older else ""


def unfit(lock: str, said: str) -> str:
    """One line on the constraint for which pip found nothing; empty where it failed otherwise."""
    found = [line.partition("(constraint) ")[2] for line in said.splitlines()]
    names = sorted(set(filter(None, found)))
    if not lock or not names or "Retrying (" in said:
        return ""
    here = f"Python {sys.version.split()[0]} on {sysconfig.get_platform()}"
    return (
        f"Error: {lock} does not fit {here} or pyproject.toml: pip finds no wheel that both allow "
        f"for {', '.join(names)}; take the newest versions with make setup LOCK=, or make lock"
    )


if __name__ == "__main__":
    main("".join(sys.argv[1:]))
