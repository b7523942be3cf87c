"""pyproject.toml and the Makefile say what the tree is, and importing stays light."""

from __future__ import annotations

import fnmatch
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import reed

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
MAKEFILE = (ROOT / "Makefile").read_text()
MODEL_LIBRARIES = ("timm", "transformers", "sklearn", "rdkit", "esm", "diffusers")


def packages_of_tree() -> dict[str, Path]:
    found = {}
    for package, folder in SETUPTOOLS["package-dir"].items():
        for init in (ROOT / folder).rglob("__init__.py"):
            below = init.parent.relative_to(ROOT / folder).parts
            found[".".join((package, *below))] = init.parent
    return found


def modules_after(statement: str, cwd: Path) -> set[str]:
    """The top-level names in sys.modules of a fresh interpreter that ran `statement`."""
    code = f"{statement}\nimport sys\nprint(*sorted({{n.partition('.')[0] for n in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def make(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-C", ROOT, *arguments]
    return subprocess.run(command, text=True, capture_output=True)


def test_packages_equal_the_tree():
    assert sorted(SETUPTOOLS["packages"]) == sorted(packages_of_tree())


def test_every_module_is_in_a_package():
    packages = set(packages_of_tree().values())
    for folder in SETUPTOOLS["package-dir"].values():
        for path in (ROOT / folder).rglob("*.py"):
            assert path.parent in packages, f"{path.relative_to(ROOT)}: no __init__.py beside it"


def test_package_data_covers_the_data_files():
    globs = SETUPTOOLS["package-data"]
    for package, folder in packages_of_tree().items():
        for path in folder.iterdir():
            if path.suffix in (".toml", ".safetensors", ".typed"):
                covered = any(fnmatch.fnmatch(path.name, glob) for glob in globs.get(package, ()))
                assert covered, f"{path.relative_to(ROOT)} matches no package-data of {package}"


def test_package_data_names_packages():
    assert set(SETUPTOOLS["package-data"]) <= set(SETUPTOOLS["packages"])


def test_version_is_a_plain_literal():
    assert SETUPTOOLS["dynamic"]["version"] == {"attr": "reed.__version__"}
    assert re.search(rf'^__version__ = "{re.escape(reed.__version__)}"$', _init_text(), re.M)


def _init_text() -> str:
    return (ROOT / "reed" / "__init__.py").read_text()


def test_importing_reed_imports_nothing_heavy(tmp_path):
    heavy = {"torch", "numpy", "accelerate", "webdataset", "h5py", "zarr", "click"}
    assert not modules_after("import reed", tmp_path) & heavy


def test_importing_the_trainer_imports_no_model_library(tmp_path):
    modules = modules_after("import reed.cli.train, reed.train.loop", tmp_path)
    assert "torch" in modules
    assert not modules & set(MODEL_LIBRARIES)


@pytest.mark.parametrize("script", PROJECT["project"]["scripts"])
def test_console_script_resolves(script):
    module, _, attribute = PROJECT["project"]["scripts"][script].partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_make_help_lists_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M).group(1)
    targets = set(phony.split())
    described = dict(re.findall(r"^([a-z0-9-]+):.*## (.+)$", MAKEFILE, re.M))
    assert set(described) == targets
    for arguments in ([], ["help"]):
        listed = make(*arguments).stdout.splitlines()
        assert [line.split(maxsplit=1) for line in listed] == [list(d) for d in described.items()]


def test_setup_installs_once(tmp_path):
    python, log = tmp_path / "bin" / "python", tmp_path / "log"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$*" >> {log}\n')
    python.chmod(0o755)
    for _ in range(2):
        done = make("setup", f"VENV={tmp_path}", "PYTHON=false")
        assert done.returncode == 0, done.stderr
    (line,) = log.read_text().splitlines()
    assert line == "tests/install.py constraints.txt"


def test_setup_refuses_an_old_python(tmp_path):
    done = make("setup", f"VENV={tmp_path / 'venv'}", "PYTHON=false")
    assert done.returncode != 0
    assert (
        "PYTHON=false is too old for reed, or no Python; name Python 3.11 or newer" in done.stderr
    )


def test_setup_names_a_python_or_a_lock_that_does_not_exist(tmp_path):
    venv, python = f"VENV={tmp_path / 'venv'}", tmp_path / "no-python"
    done = make("setup", venv, f"PYTHON={python}")
    first, last = done.stderr.splitlines()  # make itself says on the last line which rule failed
    assert f"PYTHON={python} is not a program that can be run; name Python 3.11 or newer" in first
    assert done.returncode != 0 and last.startswith("make: ***")

    done = make("setup", venv, "LOCK=no-such.txt")
    first, last = done.stderr.splitlines()
    assert "LOCK=no-such.txt names a file that does not exist" in first
    assert "make setup LOCK=" in first and last.startswith("make: ***")
    assert done.returncode != 0 and not (tmp_path / "venv").exists()
