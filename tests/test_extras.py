"""How reed is installed: the command that messages give, and the name that it has on PyPI."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from reed import extras
from reed.encoders import pretrained
from reed.errors import ReedError

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OTHER = "reed" + "["  # the extras of somebody else's package
SOMEBODY_ELSES = re.compile(rf"{re.escape(OTHER)}|pip install (?:-\S+ )*'?reed(?!-diffusion)\b")


def test_from_a_checkout_the_command_installs_that_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert extras.pip_install("images") == "pip install -e '.[images]'"
    assert extras.pip_install("plot", "--upgrade") == "pip install --upgrade -e '.[plot]'"
    monkeypatch.chdir(tmp_path)
    assert extras.pip_install("images") == f"pip install -e '{ROOT}[images]'"
    assert extras.pip_install() == f"pip install -e {ROOT}"


@pytest.mark.parametrize("project", ["", '[project]\nname = "something-else"\n'])
def test_elsewhere_the_command_installs_what_is_published(project, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "ROOT", tmp_path)
    if project:
        (tmp_path / "pyproject.toml").write_text(project)
    assert extras.pip_install("images") == "pip install 'reed-diffusion[images]'"
    assert extras.pip_install() == "pip install reed-diffusion"


def test_the_distribution_is_called_as_the_project_file_says():
    assert PROJECT["name"] == extras.DISTRIBUTION
    assert metadata.metadata(extras.DISTRIBUTION)["Name"] == extras.DISTRIBUTION


def test_nothing_tells_to_install_the_package_that_is_called_reed():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout: which files are ours is not known")
    found = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        text = path.read_text("utf-8", "ignore") if path.is_file() else ""
        lines = enumerate(text.splitlines(), 1)
        found += [f"{name}:{n}: {line}" for n, line in lines if SOMEBODY_ELSES.search(line)]
    assert not found, "\n".join(found)
    assert SOMEBODY_ELSES.search(f"pip install '{OTHER}images]'")
    assert SOMEBODY_ELSES.search("pip install -U " + "reed")


# What installs a module, where that has another name.
INSTALLS = {
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "esm": "fair-esm",
    "lance": "pylance",
    "megatron": "megatron-energon",
}


def named_libraries() -> list[tuple[str, str]]:
    """(module, extra) of the calls of weights.library and picture.library that name a module."""
    extra_of = {"weights.library": "images", "files.library": "images", "picture.library": "plot"}
    found = []
    for path in sorted((ROOT / "reed").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("library"):
                continue
            called = ast.unparse(node.func)
            if path.name == "weights.py":
                called = f"weights.{called}"
            values = [word.value for word in node.args if isinstance(word, ast.Constant)]
            if len(values) == len(node.args) and (called in extra_of or len(values) == 3):
                found.append((values[0], values[2] if len(values) == 3 else extra_of[called]))
    return found


def versions_asked_for() -> list[tuple[str, str]]:
    """(distribution, extra) of the calls of encoders.pretrained.version that name one."""
    found = []
    for path in sorted((ROOT / "reed" / "encoders").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("version", "pre.version"):
                values = [word.value for word in node.args if isinstance(word, ast.Constant)]
                if len(values) == len(node.args):
                    found.append((values[0], [*values, "images"][1]))
    return found


@pytest.mark.parametrize(
    ("extra", "command"),
    [("proteins", "pip install -e '.[proteins]'"), ("", "pip install no-such-thing")],
)
def test_an_encoder_names_the_extra_that_installs_its_library(extra, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ReedError) as error:
        pretrained.version("no-such-thing", extra)
    assert str(error.value) == (
        f"this encoder needs no-such-thing, which is not installed; install it with: {command}"
    )


def test_an_extra_brings_what_its_message_says():
    def brought(extra: str) -> set[str]:
        needs = PROJECT["dependencies"] + PROJECT["optional-dependencies"][extra]
        return {canonicalize_name(Requirement(need).name) for need in needs}

    named = named_libraries() + versions_asked_for()
    assert {"jinja2", "huggingface_hub", "timm", "gemmi", "fair-esm", "pyarrow"} <= {
        name for name, _ in named
    }
    for name, extra in named:
        module = name.partition(".")[0]
        assert canonicalize_name(INSTALLS.get(module, module)) in brought(extra), (name, extra)


def test_every_requirement_has_a_lower_bound():
    needs = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    bare = [
        need
        for need in map(Requirement, needs)
        if need.name != PROJECT["name"] and not {">=", "=="} & {s.operator for s in need.specifier}
    ]
    assert not bare
