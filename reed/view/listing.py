"""What this installation knows, and the current folder, with a line on each: reed-cache list."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from reed import pipelines, stage_one
from reed.build.shard import Encoder
from reed.cache.codecs import codecs
from reed.encoders import ENCODERS
from reed.sources import SOURCES

STANDARD = "Each channel less its mean and over its deviation, stored by another codec."
Line = tuple[str, str]  # a name, and what it is


def caches(folder: Path) -> Iterator[Line]:
    """The caches in the folder's cache/, by their place."""
    for path in sorted((folder / "cache").glob("*/manifest.json")):
        yield str(path.parent), ""


def pipeline_lines() -> Iterator[Line]:
    """Every pipeline: what its module says first."""
    for name in pipelines.names():
        yield name, pipelines.summary(name)


def source_lines() -> Iterator[Line]:
    """Every source: what its class says first."""
    for name in SOURCES.names():
        yield name, _first_line(SOURCES.get(name))


def codec_lines() -> Iterator[Line]:
    """Every codec: what its class says first."""
    for name in codecs.NAMES:
        of_pca = STANDARD if name.startswith("standard") else _first_line(codecs.Pca)
        yield name, _first_line(codecs.CODECS[name]) if name in codecs.CODECS else of_pca


def encoder_lines(folder: Path) -> Iterator[Line]:
    """Every encoder: what its class says first, or of which model it is one, and the licence.

    Those in files of the folder come last, as module:Class; these files are read, not run.
    """
    for name in ENCODERS.names():
        try:
            yield name, _encoder_line(name)
        except Exception as error:  # a plugin is a stranger's code; the others are still there
            yield name, f"cannot be used: {error}"
    for prefix, make in sorted(ENCODERS.prefixes.items()):
        yield f"{prefix}:NAME", _first_line(make)
    yield from _in_files(folder)


def _encoder_line(name: str) -> str:
    item = ENCODERS.get(name)
    encoder = stage_one.make_encoder(name, Path(), {})
    text = _first_line(type(encoder))
    if isinstance(item, partial) and (origin := getattr(encoder, "origin", None)):
        text = origin.repo or origin.url  # its class is that of many models
    return f"{text} [{encoder.licence}]".lstrip() if encoder.licence else text


def _first_line(item: Any) -> str:
    return (inspect.getdoc(item) or "").partition("\n")[0]


def _in_files(folder: Path) -> Iterator[Line]:
    """The encoders in the files of a folder, and the files that are not Python."""
    for path in sorted(folder.glob("*.py")):
        try:
            parsed = ast.parse(path.read_bytes(), str(path))
        except (SyntaxError, ValueError) as error:
            yield path.name, f"cannot be read: {error}"
            continue
        for node in parsed.body:
            if isinstance(node, ast.ClassDef) and _is_encoder(node):
                text = ast.get_docstring(node) or ast.get_docstring(parsed) or ""
                told = text.partition("\n")[0]
                yield f"{path.stem}:{node.name}", f"{told} (of {path.name})".lstrip()


def _is_encoder(node: ast.ClassDef) -> bool:
    """Whether a class is registered as an encoder, or has the methods of one."""
    methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    public = {name: each for name, each in vars(Encoder).items() if not name.startswith("_")}
    wanted = {name for name, each in public.items() if inspect.isfunction(each)}
    marks = [ast.unparse(mark) for mark in node.decorator_list]
    return wanted <= methods or any("ENCODERS.register(" in mark for mark in marks)
