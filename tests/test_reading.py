"""The page on reading a cache from Python: its code runs, and prints what the page shows."""

from __future__ import annotations

import contextlib
import io
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed.cli import cache as cli_cache
from reed.sources.toy.digits import Digits

HERE = Path(__file__).parent
DOCS = SimpleNamespace(**runpy.run_path(str(HERE / "documented.py")))
PAGE = "docs/reading.md"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the cache that the page builds."""
    monkeypatch.chdir(tmp_path)
    (command,) = DOCS.commands(PAGE)
    done = CliRunner().invoke(cli_cache.main, command.words[1:])
    assert done.exit_code == 0, done.output
    return tmp_path


def printed(blocks, shared):
    """What python fences print, in one session; a fence of text shows it. Pairs (shown, said)."""
    blocks = list(blocks)
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language != "python":
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block.text, f"{block.page}:{block.line}", "exec"), shared)
        yield after.text if after and after.language == "text" else "", out.getvalue()


def test_the_code_of_the_page_runs_and_prints_what_it_shows(here):
    (_, listed), *found = printed(DOCS.blocks(PAGE), shared := {})
    assert len(found) >= 5
    for shown, said in found:
        assert said == shown

    # the first one prints every caption, which is too long for a page
    source = Digits()
    captions = dict(line.split(" ", 1) for line in listed.splitlines())
    assert captions.keys() == source.listing().keys() and len(captions) > 1000

    # what it reads is what the source gave
    key, batch = shared["key"], shared["batch"]
    raw = source.read(key)
    assert shared["data"].keys[0] == key and batch["label"][0] == raw["label"]
    np.testing.assert_array_equal(batch["image"][0].numpy(), raw["pixels"])
