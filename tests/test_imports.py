"""Imports run one way, and the code keeps its size: checked on the syntax tree, nothing is run.

Every import statement counts, also one inside a function or under TYPE_CHECKING, and so does
import_module("..."). An edge between two groups must be in ALLOWED; to add one is a design change.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
LIBRARY = ROOT / "reed"

ANYTHING = None
SCHEMA_SIDE = "cache.schema cache.build cache.files registry errors seeding"
MODEL_CLI = "cli.common domain domains samplers checkpoint cache metrics train config errors"

# Group -> what it may import, all names below reed. A group is a module or a whole package; the
# longest name that fits decides. A group may also import itself and the package it lies in.
ALLOWED = {
    "": "",
    "errors": "",
    "seeding": "",
    "registry": "errors",
    "config": "errors",
    "cache": "errors seeding registry config",
    "weights": "errors",
    "protein": "",
    "molecule": "errors",
    "chem": "molecule errors",
    "encoders": f"{SCHEMA_SIDE} weights precision protein chem molecule",
    "sources": f"{SCHEMA_SIDE} weights protein chem molecule",
    "nets": "errors molecule",
    "transport": "",
    "categorical": "",
    "paths": "errors",
    "samplers": "paths errors",
    "masked": "errors",
    "curriculum": "errors config",
    "timeweight": "errors config",
    "ema": "errors",
    "align": "domain nets curriculum timeweight errors cache.schema cache.codecs",
    "domain": "registry errors cache.schema seeding",
    "domains": "domain nets align paths samplers masked protein categorical transport molecule "
    "picture config errors cache.schema seeding curriculum",
    "checkpoint": "cache.files errors config",
    "feed": "cache.stream",
    "runlog": "cache.files picture errors",
    "recipe": "domain align curriculum ema cache config errors",
    "watch": "recipe feed errors",
    "export": "align nets recipe checkpoint config errors",
    "public": "export align nets ema checkpoint cache.schema errors",
    "train": "public recipe domain domains align curriculum checkpoint ema runlog feed watch cache "
    "config errors seeding",
    "precision": "errors",
    "sample": "public export recipe domain checkpoint weights precision config cache.schema errors",
    "sample_set": "sample registry config cache errors",
    "decoder": "stage_one picture cache.schema errors",
    "molecule_set": "chem molecule cache errors",
    "evaluate_molecules": "molecule_set metrics.molecule metrics.posebusters provenance "
    "chem cache errors",
    "outputs": "chem molecule molecule_set decoder sample sample_set picture cache errors",
    "picture": "cache.schema errors",
    "peek": "cache picture errors",
    "pages": "cache picture peek chem molecule protein errors",
    "pages.curves": "pages curriculum",
    "pages.run_folder": "cache.schema runlog config errors",
    "pages.scores": "pages config errors",
    "pages.run": "pages cache.info provenance pipelines config errors",
    "imageset": "cache picture errors",
    "metrics": "chem molecule imageset weights precision registry seeding errors",
    "reference": "imageset metrics cache seeding errors",
    "provenance": "cache errors",
    "evaluate": "reference provenance imageset metrics cache errors",
    "design": "domains.protein nets.mpnn sources.proteins protein masked metrics sample config "
    "cache seeding errors",
    "stage_one": "cache encoders sources weights pipelines registry config errors",
    "listing": "stage_one pipelines encoders sources cache",
    "doctor": "cache errors",
    "pipelines": "errors config registry",
    "pipelines.command": "",
    "pipelines.demo": ANYTHING,
    "pipelines.demo_molecule": ANYTHING,
    "pipelines.demo_protein": ANYTHING,
    "pipelines.reproduce_protein": ANYTHING,
    "pipelines.reproduce_molecule": ANYTHING,
    "pipelines.reproduce": ANYTHING,
    "pipelines.scenes_train": ANYTHING,
    "cli": "",
    "cli.common": "errors",
    "cli.cache": "cli.common cli.cache_build cli.cache_keep cli.cache_look",
    "cli.cache_look": "cli.common listing doctor cache peek pages errors",
    "cli.cache_keep": "cli.common stage_one cache errors",
    "cli.cache_build": "cli.common stage_one encoders sources cache pipelines errors",
    "cli.train": "cli.common curriculum export recipe train pages.run pipelines config cache "
    "errors",
    "cli.sample": f"design sample sample_set public precision {MODEL_CLI}",
    "cli.evaluate": "design evaluate_molecules molecule_set metrics.folding cache.files cli.common "
    "evaluate precision errors",
}

# An application: it may import anything, and nothing may import it.
APPLICATIONS = (
    "pipelines.demo", "pipelines.demo_protein", "pipelines.demo_molecule", "pipelines.reproduce",
    "pipelines.reproduce_protein", "pipelines.reproduce_molecule", "pipelines.scenes_train",
)  # fmt: skip

# What runs on a training machine, and what must not be needed there.
STAGE_TWO = (
    "align cache checkpoint cli.train curriculum domain domains ema export feed nets paths "
    "categorical molecule picture transport public recipe runlog samplers timeweight train watch"
).split()
STAGE_ONE = ("reed.encoders", "reed.sources")
MODEL_LIBRARIES = ("timm", "diffusers", "transformers", "esm", "rdkit", "sklearn")


def tree() -> dict[str, Path]:
    """Every module of the package and its file."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package, *parts))] = path
    return found


TREE = tree()


def imports(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """The line and the absolute dotted name of everything that `source` imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                keep = len(module.split(".")) - node.level + is_package
                base = ".".join([*module.split(".")[:keep], *filter(None, [base])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def within(name: str, place: str) -> bool:
    """Whether a dotted name is `place` or lies below it."""
    return name == place or name.startswith(f"{place}.")


def group_of(name: str) -> str | None:
    """The group of a module below reed, given without "reed."; None where no row fits."""
    fitting = [group for group in ALLOWED if group and within(name, group)]
    return max(fitting, key=len, default="" if name == "" else None)


def module_in(name: str, modules: set[str]) -> str:
    """The longest part of a dotted name that is a module: "from a import b" may name either."""
    while name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name


def edge_is_allowed(group: str, target: str) -> bool:
    """Whether the modules of `group` may import the module `target`, both given below reed."""
    if target in ("", group.rpartition(".")[0]) or group_of(target) == group:
        return True
    if target in APPLICATIONS:
        return False
    allowed = ALLOWED[group]
    return allowed is ANYTHING or any(within(target, place) for place in allowed.split())


def problems(source: str, module: str, place: str, is_package: bool = False) -> list[str]:
    """One line for each import in `source` that the design does not have."""
    modules, found = set(TREE) | {module}, []
    name = module.removeprefix("reed").removeprefix(".")
    group = group_of(name)
    if group is None:
        return [f"{place}: {module} has no row in ALLOWED of tests/test_imports.py"]
    for line, imported in imports(source, module, is_package):
        if within(imported, "reed"):
            target = module_in(imported, modules).removeprefix("reed").removeprefix(".")
            if not edge_is_allowed(group, target):
                found.append(f"{place}:{line}: {module} -> {imported}, {group} may not import it")
        stage_two = any(within(name, part) for part in STAGE_TWO)
        if stage_two and any(within(imported, part) for part in (*STAGE_ONE, *MODEL_LIBRARIES)):
            found.append(f"{place}:{line}: {module} -> {imported}, stage two must not need it")
    return found


@pytest.mark.parametrize("module", TREE)
def test_imports_follow_the_design(module):
    path = TREE[module]
    place = str(path.relative_to(ROOT))
    found = problems(path.read_text(), module, place, path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_the_table_names_its_own_groups():
    for group, allowed in ALLOWED.items():
        for place in (allowed or "").split():
            assert group_of(place) is not None, f"{group}: {place} has no row"


@pytest.mark.parametrize(
    ("module", "source", "edge"),
    [
        ("reed.train", "import reed.encoders.digits", "reed.train -> reed.encoders.digits"),
        ("reed.train", "def f():\n    from reed import sources", "reed.train -> reed.sources"),
        ("reed.cache.x", "from reed.nets.sit import SiT", "reed.cache.x -> reed.nets.sit.SiT"),
        ("reed.cache.x", "from ..train import train", "reed.cache.x -> reed.train.train"),
        ("reed.nets.x", "from reed.cache import schema", "reed.nets.x -> reed.cache.schema"),
        ("reed.align", "import timm.layers", "reed.align -> timm.layers"),
        ("reed.domains.x", "if 1:\n    from sklearn import svm", "reed.domains.x -> sklearn.svm"),
        ("reed.align", "import_module('transformers')", "reed.align -> transformers"),
        ("reed.encoders.x", "from reed.cache.stream import S", "reed.cache.stream.S"),
        ("reed.cli.train", "from reed.pipelines import demo", "reed.pipelines.demo"),
        ("reed.cli.cache", "import reed.cli.train", "reed.cli.cache -> reed.cli.train"),
        ("reed.novelty", "", "reed.novelty has no row"),
    ],
)
def test_the_checker_catches(module, source, edge, monkeypatch):
    for name in ("reed.train", "reed.cache.stream", "reed.pipelines.demo", "reed.cli.train"):
        monkeypatch.setitem(TREE, name, ROOT)
    found = problems(source, module, "synthetic.py")
    assert found and edge in found[0]
    assert found[0].startswith(f"synthetic.py:{len(source.splitlines())}: " if source else "synth")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("reed.cache.build", "from reed import __version__, config\nfrom reed.cache import schema"),
        ("reed.cli.train", "from reed.cli.common import run\nimport torch\nimport reed.train"),
        ("reed.encoders.x", "from reed.encoders import ENCODERS\nimport timm"),
        ("reed.pipelines.demo", "from reed import train\nfrom reed.encoders import ENCODERS"),
    ],
)
def test_the_checker_lets_pass(module, source):
    assert problems(source, module, "synthetic.py") == []


def functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(node) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))


@pytest.mark.parametrize("module", TREE)
def test_files_and_functions_are_short(module):
    path, limit = TREE[module], 400 if within(module, "reed.nets") else 300
    text = path.read_text()
    assert len(text.splitlines()) <= limit, f"{path.relative_to(ROOT)} is over {limit} lines"
    for function in functions(ast.parse(text)):
        lines = function.end_lineno - function.lineno + 1
        where = f"{path.relative_to(ROOT)}:{function.lineno}: {function.name}"
        assert lines <= 60, f"{where} has {lines} lines, the limit is 60"


def methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))


def contracts() -> set[str]:
    """The methods that a protocol of the package documents, once for all that implement it."""
    return {
        method.name
        for path in TREE.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases)
        for method in methods(node)
        if ast.get_docstring(method)
    }


DOCUMENTED_ELSEWHERE = contracts() | {"forward"}  # forward: the class says what goes in and out


def public(parsed: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """The public classes and functions of a module, and the methods that need a docstring."""
    for node in parsed.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            own = (method for method in methods(node) if method.name not in DOCUMENTED_ELSEWHERE)
            is_protocol = "Protocol" in map(ast.unparse, node.bases)
            yield from ((m.name, m) for m in (methods(node) if is_protocol else own))


@pytest.mark.parametrize("module", [name for name, path in TREE.items() if LIBRARY in path.parents])
def test_public_names_have_docstrings(module):
    path = TREE[module]
    parsed = ast.parse(path.read_text())
    assert ast.get_docstring(parsed), f"{path.relative_to(ROOT)} has no docstring"
    for name, node in public(parsed):
        where = f"{path.relative_to(ROOT)}:{node.lineno}: {name}"
        assert name.startswith("_") or ast.get_docstring(node), f"{where} has no docstring"
