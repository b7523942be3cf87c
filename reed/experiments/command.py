"""Our command lines, run by a demo as a user would."""

from __future__ import annotations

import subprocess
import sys

import click


def command(*words: str) -> None:
    """Run one of them in a process of its own, shown first; where it fails, end with its code."""
    shown = " ".join(words).replace("reed.cli.", "reed-").replace("reed-evaluate", "reed-eval")
    click.echo(f"$ {shown}")
    code = subprocess.run([sys.executable, "-m", *words], check=False).returncode
    if code:  # it has said why
        sys.exit(code)
