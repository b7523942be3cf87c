"""reed-cache list: one line on each cache, pipeline, encoder, source or codec."""

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
from reed.wording import counted, named

STANDARD = "Each channel minus its mean, divided by its standard deviation"
COMPONENTS = "The K leading whitened principal components of the channels"
Line = tuple[str, str]  # name, description


def caches(folder: Path) -> Iterator[Line]:
    """Yield the path of every cache in the folder's cache/."""
    for path in sorted((folder / "cache").glob("*/manifest.json")):
        yield str(path.parent), ""


def nothing(what: str, folder: Path) -> str:
    """Return the line for a listing without lines: what was looked for, where, and what to do."""
    if what != "caches":
        return f"no {what} are installed with reed; install it again, then: reed-cache doctor"
    place = folder.absolute() / "cache"
    build = "build one: reed-cache build digits (reed-cache list pipelines shows the others)"
    if not place.is_dir():
        return f"no caches: there is no folder {place}; go where it is, or {build}"
    others = sorted(path.name for path in place.iterdir() if path.is_dir())
    found = f" ({counted(len(others), 'folder')} without one: {named(others)})" if others else ""
    return f"no caches: no folder in {place} has a manifest.json{found}; {build}"


def pipeline_lines() -> Iterator[Line]:
    """Yield every pipeline with the first line of its module's docstring."""
    for name in pipelines.names():
        yield name, pipelines.summary(name)


def source_lines() -> Iterator[Line]:
    """Yield every source with the first line of its docstring."""
    for name in SOURCES.names():
        yield name, _first_line(SOURCES.get(name))


def codec_lines() -> Iterator[Line]:
    """Yield every codec with what it stores."""
    for name in codecs.NAMES:
        codec = codecs.CODECS.get(name)
        if codec is None:
            values = STANDARD if name.startswith("standard") else COMPONENTS
            yield name, f"{values}, stored as {'int8' if name.endswith('+int8') else 'float16'}."
        elif isinstance(codec, codecs.Raw):
            missing = "; NaN marks missing values" if name == codecs.NAN else ""
            yield name, f"The values as {name.partition('+')[0]}{missing}."
        else:
            yield name, _first_line(codec)


def encoder_lines(folder: Path) -> Iterator[Line]:
    """Yield every encoder with the first line of its docstring or its model, and its licence.

    Encoders in Python files of the folder come last, as module:Class. The files are parsed, not
    run.
    """
    for name in ENCODERS.names():
        try:
            yield name, _encoder_line(name)
        except Exception as error:  # a plugin may raise anything, and must not hide the others
            yield name, f"cannot be used: {error}"
    for prefix, make in sorted(ENCODERS.prefixes.items()):
        yield f"{prefix}:NAME", _first_line(make)
    yield from _in_files(folder)


def _encoder_line(name: str) -> str:
    item = ENCODERS.get(name)
    encoder = stage_one.make_encoder(name, Path(), {})
    text = _first_line(type(encoder))
    if isinstance(item, partial) and (origin := getattr(encoder, "origin", None)):
        text = origin.repo or origin.url  # many models share one class
    return f"{text} [{encoder.licence}]".lstrip() if encoder.licence else text


def _first_line(item: Any) -> str:
    return (inspect.getdoc(item) or "").partition("\n")[0]


def _in_files(folder: Path) -> Iterator[Line]:
    """Yield the encoders in the files of a folder, and the files that cannot be parsed."""
    for path in sorted(folder.glob("*.py")):
        try:
            parsed = ast.parse(path.read_bytes(), str(path))
        except (SyntaxError, ValueError) as error:
            yield path.name, f"cannot be read: {error}"
            continue
        for node in parsed.body:
            if isinstance(node, ast.ClassDef) and _is_encoder(node):
                text = ast.get_docstring(node) or ast.get_docstring(parsed) or ""
                first = text.partition("\n")[0]
                yield f"{path.stem}:{node.name}", f"{first} (in {path.name})".lstrip()


def _is_encoder(node: ast.ClassDef) -> bool:
    """Return whether a class is registered as an encoder, or has the methods of one."""
    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    public = {name: item for name, item in vars(Encoder).items() if not name.startswith("_")}
    required = {name for name, item in public.items() if inspect.isfunction(item)}
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return required <= methods or any("ENCODERS.register(" in text for text in decorators)
