"""The reader in cache/README.md reads every kind of field and every codec as this package does."""

from __future__ import annotations

import re
import runpy
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from reed import open_cache
from reed.cache.codecs.codecs import CODECS
from reed.cache.schema import KINDS, Field

ROOT = Path(__file__).resolve().parent.parent
DOCS = SimpleNamespace(**runpy.run_path(str(ROOT / "tests" / "documented.py")))
SHAPES = {
    "data": (3, 4, 4),
    "moments": (4, 2, 2),
    "label": (),
    "text": (),
    "token": (6, 5),
    "sample": (5,),
    "pair": (4, 3, 5),
}
NUMBERS = ("float32", "float16", "bfloat16", "int8")
WHITENED = ("pca:3", "pca:3+int8", "standard", "standard+int8")
STORED = {
    "data": (*NUMBERS, "float32+nan", "uint8", "int32", "int64"),
    "moments": NUMBERS,
    "label": ("int64", "int32", "uint8"),
    "text": ("utf8",),
    **dict.fromkeys(("token", "sample", "pair"), (*NUMBERS, *WHITENED)),
}
FIELDS = {
    re.sub("[:+]", "-", f"{kind}-{codec}"): Field(
        re.sub("[:+]", "-", f"{kind}-{codec}"), kind, SHAPES[kind], codec
    )
    for kind, codecs in STORED.items()
    for codec in codecs
}


@pytest.fixture(scope="module")
def cache(fakes, tmp_path_factory):
    """One column with a field of every kind in every codec that suits it."""

    class Every(fakes.Encoder):
        reads = ("pixels",)
        fields = tuple(FIELDS.values())

        def one(self, sample):
            draws = fakes.random(sample["pixels"].tobytes())
            return [value(field, draws) for field in self.fields]

    path = tmp_path_factory.mktemp("every") / "cache"
    fakes.engines.run(fakes.job(path, "every", None, Every()), fakes.Share(), progress=False)
    return path


def value(field, draws):
    if field.kind == "text":
        return f"a längerer text {draws.integers(1000)}"
    if field.codec in ("uint8", "int32", "int64"):
        return draws.integers(0, 255, field.shape)
    array = 3 * draws.standard_normal(field.shape).astype(np.float32)
    if field.codec == "float32+nan":
        array[0, 0, 0] = np.nan
    return array


@pytest.fixture(scope="module")
def theirs(cache):
    (block,) = (b for b in DOCS.blocks("cache/README.md") if b.language == "python")
    space: dict = {}
    exec(block.text, space)
    return list(space["records"](cache / "every"))


def test_the_fields_are_of_every_kind_and_codec():
    assert STORED.keys() == KINDS.keys()
    assert {field.codec for field in FIELDS.values()} == {*CODECS, *WHITENED}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_read_as_by_this_package(cache, theirs, name):
    """uint8 was taken for int8, so that labels and pixels in uint8 could not be read."""
    with open_cache(cache) as opened:
        ours = dict(opened.records(f"every/{name}"))
    assert [key for key, _ in theirs] == list(ours) and len(ours) == 60
    for key, found in theirs:
        if FIELDS[name].kind == "text":
            assert found[name] == ours[key]
        else:
            np.testing.assert_allclose(found[name], ours[key], rtol=1e-6)


def test_every_block_of_python_is_run_by_a_test():
    """Those that are a file are examples, which tests/test_examples.py runs."""
    blocks = (b for page in DOCS.pages() for b in DOCS.blocks(page) if b.language == "python")
    unnamed = [block.page for block in blocks if not block.name]
    found = {page: len(list(group)) for page, group in groupby(unnamed)}
    assert found == {"cache/README.md": 1, "docs/reading.md": found["docs/reading.md"]}
