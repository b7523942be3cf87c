"""Build the wheel, install it alone, compare it with the tree and start a command from it.

An editable install finds every module of the checkout, so only a wheel shows that a package is
missing from pyproject.toml. Run by .ci/run; no test of its own, it takes half a minute.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENDINGS = (".py", ".typed", ".toml", ".safetensors", ".html", ".css", ".js", ".expected.json")


def main() -> None:
    """Exit with a message when the wheel is not what the tree says it must be."""
    with tempfile.TemporaryDirectory() as temp:
        target = install(build(Path(temp)), Path(temp) / "target")
        installed = {path.relative_to(target).as_posix() for path in files(target)}
        compare(expected(), {name for name in installed if is_package_file(name)})
        start(target, Path(temp))
        print(f"wheel: {len(expected())} files, the same as in the tree; reed-cache starts from it")


def files(folder: Path) -> list[Path]:
    """All files under `folder`, byte code left out."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if "__pycache__" not in path.parts]


def is_package_file(name: str) -> bool:
    """Whether an installed file is more than metadata or a console script."""
    top = name.partition("/")[0]
    return top != "bin" and not top.endswith(".dist-info")


def expected() -> set[str]:
    """Every module and data file of the tree, under the name it must have once installed."""
    return {
        (Path(package.replace(".", "/")) / path.relative_to(ROOT / folder)).as_posix()
        for package, folder in PROJECT["tool"]["setuptools"]["package-dir"].items()
        for path in files(ROOT / folder)
        if path.name.endswith(ENDINGS)
    }


def build(temp: Path) -> Path:
    """The wheel, built from a copy: a build/ folder in the tree would keep deleted modules."""
    copy = temp / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for folder in PROJECT["tool"]["setuptools"]["package-dir"].values():
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", temp, copy]
    run(command, cwd=temp)
    (wheel,) = temp.glob("*.whl")
    return wheel


def install(wheel: Path, target: Path) -> Path:
    """The folder that holds the unpacked wheel and its console scripts."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    run(
        [*pip, "--no-deps", "--no-index", "--no-compile", "--target", target, wheel],
        cwd=target.parent,
    )
    return target


def compare(tree: set[str], wheel: set[str]) -> None:
    """Exit naming each file that only one side has."""
    problems = [f"in the tree, not in the wheel: {name}" for name in sorted(tree - wheel)]
    problems += [f"in the wheel, not in the tree: {name}" for name in sorted(wheel - tree)]
    if problems:
        sys.exit("\n".join(problems))


def start(target: Path, cwd: Path) -> None:
    """Run reed-cache from the installed wheel, as a module and as a script."""
    env = {**os.environ, "PYTHONPATH": str(target)}
    module = "reed.cli.cache"
    where = run([sys.executable, "-P", "-c", f"import {module} as m; print(m.__file__)"], cwd, env)
    if not where.startswith(str(target)):
        sys.exit(f"{module} came from {where.strip()}, not from the wheel in {target}")
    run([sys.executable, "-P", "-m", module, "--help"], cwd, env)
    for script in PROJECT["project"]["scripts"]:
        if not (target / "bin" / script).is_file():
            sys.exit(f"the wheel installs no script {script}")
    run([target / "bin" / "reed-cache", "--help"], cwd, env)


def run(command: list, cwd: Path, env: dict[str, str] | None = None) -> str:
    """The standard output of a command; exit with all of its output when it fails."""
    done = subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True)
    if done.returncode:
        shown = " ".join(str(part) for part in command)
        sys.exit(f"{shown}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
