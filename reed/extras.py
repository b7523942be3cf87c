"""The command that installs an extra of this copy of reed."""

from __future__ import annotations

import shlex
from pathlib import Path

DISTRIBUTION = "reed-diffusion"  # the name `reed` is another project's on PyPI
ROOT = Path(__file__).resolve().parent.parent  # a checkout, or where packages are installed


def pip_install(extra: str = "", *options: str) -> str:
    """Return the command that installs reed, from its checkout if it runs from one.

    Args:
        extra: Name of the extra; none by default.
        *options: Further options of pip.
    """
    suffix = f"[{extra}]" if extra else ""
    target = [f"{DISTRIBUTION}{suffix}"]
    if in_checkout():
        folder = "." if Path.cwd() == ROOT else str(ROOT)
        target = ["-e", f"{folder}{suffix}"]
    return shlex.join(["pip", "install", *options, *target])


def in_checkout() -> bool:
    """Whether the project file of reed is beside the package, as in a clone."""
    project = ROOT / "pyproject.toml"
    return project.is_file() and f'name = "{DISTRIBUTION}"' in project.read_text()
