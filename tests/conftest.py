"""Fixtures that several test modules share; import mode is importlib, so they cannot import."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FAKES = Path(__file__).with_name("reed_fakes.py")


@pytest.fixture(scope="session")
def fakes():
    """The module of tiny sources and encoders, importable as reed_fakes in this process."""
    if "reed_fakes" not in sys.modules:
        spec = importlib.util.spec_from_file_location("reed_fakes", FAKES)
        sys.modules["reed_fakes"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.path.append(str(FAKES.parent))  # reading processes are sent a fake source
    return sys.modules["reed_fakes"]


@pytest.fixture(scope="session")
def fakes_path() -> Path:
    """The same as a program."""
    return FAKES


@pytest.fixture(scope="session")
def whole(fakes, tmp_path_factory) -> Path:
    """A complete cache of 60 samples in 4 shards; not to be changed (`cache` is a copy)."""
    return fakes.build(tmp_path_factory.mktemp("whole") / "fake")


@pytest.fixture
def cache(whole, tmp_path) -> Path:
    """A complete cache that a test may damage."""
    import shutil

    return shutil.copytree(whole, tmp_path / "fake")


@pytest.fixture
def edit_json():
    """Change a JSON file of a cache, its own hash too: edit_json(path, key=value)."""
    from reed.cache import sealed

    def edit(path: Path, **changes) -> None:
        path.write_bytes(sealed.dump(json.loads(path.read_text()) | changes))

    return edit
