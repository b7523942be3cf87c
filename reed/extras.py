"""How to install what an extra brings: the command that works for this copy of reed."""

from __future__ import annotations

import shlex
from pathlib import Path

DISTRIBUTION = "reed-diffusion"  # the name `reed` is another project's on PyPI
ROOT = Path(__file__).resolve().parent.parent  # a checkout, or where packages are installed


def pip_install(extra: str = "", *options: str) -> str:
    """The command that installs reed, with an extra: from its checkout where it runs from one."""
    asked = f"[{extra}]" if extra else ""
    wanted = [f"{DISTRIBUTION}{asked}"]
    if in_checkout():
        folder = "." if Path.cwd() == ROOT else str(ROOT)
        wanted = ["-e", f"{folder}{asked}"]
    return shlex.join(["pip", "install", *options, *wanted])


def in_checkout() -> bool:
    """Whether the project file of reed lies beside the package, as it does in a clone."""
    project = ROOT / "pyproject.toml"
    return project.is_file() and f'name = "{DISTRIBUTION}"' in project.read_text()
