"""The code keeps its size and says what it is: checked on the syntax tree, nothing is run.

Which room may import which is a contract in pyproject.toml, checked by `make lint`.
"""

from __future__ import annotations

import ast
import io
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
LIBRARY = ROOT / "reed"
LONG = 15  # lines of a function, without its docstring, from which on it has steps
PRAGMAS = ("# ty:", "# noqa", "# type:", "# fmt:")  # comments for tools say nothing to readers


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


def within(name: str, place: str) -> bool:
    """Whether a dotted name is `place` or lies below it."""
    return name == place or name.startswith(f"{place}.")


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


def without_steps(text: str) -> list[str]:
    """The long functions of a module that lack a blank line or a comment, each with its line."""
    lines = text.splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and not token.string.startswith(PRAGMAS)
    }
    plain = []
    for function in functions(ast.parse(text)):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        if not body or function.end_lineno - body[0].lineno < LONG:
            continue

        # A comment may stand right above the first statement.
        rows = range(body[0].lineno - 1, function.end_lineno + 1)
        has_blank = any(not lines[row - 1].strip() for row in rows[1:])
        if not has_blank or comments.isdisjoint(rows):
            plain.append(f"{function.lineno}: {function.name}")
    return plain


@pytest.mark.parametrize("module", TREE)
def test_long_functions_have_steps_and_say_why(module):
    path = TREE[module]
    plain = without_steps(path.read_text())
    advice = "put a blank line between steps, and a comment that says why"
    assert not plain, f"{path.relative_to(ROOT)}: {', '.join(plain)}; {advice}"


@pytest.mark.parametrize(
    ("begin", "middle", "lines", "is_plain"),
    [
        ([], [], 15, False),
        ([], [], 16, True),
        ([], [""], 16, True),
        ([], ["# why"], 16, True),
        ([], ["", "# why"], 16, False),
        ([], ["", "x = 0  # noqa: E1"], 16, True),
        (["# why"], [""], 16, False),
        (['"""What."""', "# why"], [""], 16, False),
        (['"""What.', "", "# More.", '"""'], [], 15, False),
        (['"""What.', "", "# More.", '"""'], [], 16, True),
    ],
)
def test_a_long_function_without_steps_is_found(begin, middle, lines, is_plain):
    body = [*begin, "x = 1", *middle, *["x = 2"] * (lines - 1 - len(middle))]
    text = "\n".join(["def f():", *(f"    {line}" if line else "" for line in body), ""])
    assert without_steps(text) == (["1: f"] if is_plain else [])


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


def test_what_the_formatter_skips_is_rare():
    folders = [*FOLDERS.values(), "tests", "docs"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    skipped = sum(path.read_text().count("# fmt" + ": skip") for path in files)
    assert skipped < 10, f"{skipped} statements are kept from the formatter"
