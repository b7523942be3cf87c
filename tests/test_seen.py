"""What a listing found in each file is remembered, and never trusted once the file has changed."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from reed.build import seen as memory
from reed.build.seen import Seen
from reed.build.source import listed
from reed.cli import cache as cli_cache
from reed.sources.protein import found
from reed.sources.protein.proteins import Proteins

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_proteins.py"))))
WORDS = ("--set", "source.min_length=10", "--device", "cpu")


@pytest.fixture
def data(tmp_path):
    """Two structures, ions, a file that cannot be read, and one that is none; written long ago."""
    folder = tmp_path / "data"
    TINY.straight(folder / "one.pdb", 40, "AB")
    TINY.straight(folder / "two.pdb", 60, head=[])
    ion = TINY.atom(1, "ZN", "ZN", "A", 1, (0, 0, 0), het=True)
    TINY.write(folder / "ions.pdb", [ion])
    (folder / "bad.cif").write_text("data_x\nloop_\n")
    (folder / "notes.txt").write_text("notes")
    return folder


@pytest.fixture(autouse=True)
def later(monkeypatch):
    """Files are not remembered in the two seconds after they were written."""
    monkeypatch.setattr(memory, "_RECENT", -(10**18))


@pytest.fixture
def parsed(monkeypatch):
    """The names of the files that were parsed."""
    names, read = [], found.read_structure

    def counted(path):
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(found, "read_structure", counted)
    return names


def build(data, cache, *more, command="build"):
    words = [w for w in WORDS if command == "build" or w not in ("--device", "cpu")]
    given = [command, "pdb", "--data", str(data), "--cache", str(cache), *words, *more]
    done = CliRunner().invoke(cli_cache.main, [*given, "--encoder", "chain", "--max-failed", "50%"])
    assert done.exit_code == 0, done.output
    return done.output


def test_an_unchanged_file_is_parsed_by_the_first_listing_alone(data, tmp_path, parsed):
    first = build(data, tmp_path / "c")
    assert sorted(parsed) == ["bad.cif", "ions.pdb", "one.pdb", "two.pdb"]
    parsed.clear()
    for command in ("build", "plan"):
        again = build(data, tmp_path / "c", command=command)
        assert not parsed
    assert "without a protein chain" in first and "without a protein chain" in again


def test_planning_writes_nothing(data, tmp_path):
    build(data, tmp_path / "c", command="plan")
    assert not (tmp_path / "c").exists()


def listing_of(data, folder, **settings):
    """A listing with what is remembered in a folder, which is then saved."""
    seen = Seen(folder / memory.NAME)
    given = listed(Proteins(data, **{"min_length": 10, **settings}), seen)
    seen.save()
    return given


def assert_same(ours, theirs):
    assert dict(ours) == dict(theirs)
    assert (ours.passed, ours.counts) == (theirs.passed, theirs.counts)


@pytest.mark.parametrize(
    "settings",
    [{}, {"min_length": 50}, {"max_resolution": 1.0}, {"assembly": True}, {"max_length": 50}],
)
def test_settings_apply_to_what_is_remembered(data, tmp_path, parsed, settings):
    listing_of(data, tmp_path)
    parsed.clear()
    ours = listing_of(data, tmp_path, **settings)
    assert not parsed
    assert_same(ours, Proteins(data, **{"min_length": 10, **settings}).listing())


def longer(path):
    TINY.straight(path, 50, "AB")


def same_size(path):
    """The last letters change, and the times are those of before."""
    text, about = path.read_text(), path.stat()
    lines = text.splitlines(keepends=True)
    end = next(i for i in range(len(lines) - 1, 0, -1) if lines[i].startswith("ATOM"))
    number = lines[end][22:26]
    changed = [line[:17] + "TRP" + line[20:] if line[22:26] == number else line for line in lines]
    path.write_text("".join(changed))
    assert path.stat().st_size == about.st_size and path.read_text()[:4096] == text[:4096]
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def touched(path):
    os.utime(path, ns=(10**18, 10**18))


def empty(path):
    path.write_text("")


@pytest.mark.parametrize("change", [longer, same_size, touched, empty])
def test_a_file_that_changed_is_parsed_again(data, tmp_path, parsed, change):
    listing_of(data, tmp_path)
    change(data / "one.pdb")
    parsed.clear()
    ours = listing_of(data, tmp_path)
    assert parsed == ["one.pdb"]
    assert_same(ours, Proteins(data, min_length=10).listing())


def test_files_that_come_and_go(data, tmp_path, parsed):
    listing_of(data, tmp_path)
    TINY.straight(data / "new.pdb", 30)
    (data / "two.pdb").unlink()
    parsed.clear()
    ours = listing_of(data, tmp_path)
    assert parsed == ["new.pdb"]
    assert_same(ours, Proteins(data, min_length=10).listing())
    assert "two.pdb" not in json.loads((tmp_path / memory.NAME).read_text())["files"]


def test_another_folder_another_reader_and_damage_are_not_trusted(
    data, tmp_path, parsed, monkeypatch
):
    listing_of(data, tmp_path)
    other = shutil.copytree(data, tmp_path / "other")
    parsed.clear()
    listing_of(other, tmp_path)
    assert len(parsed) == 4

    parsed.clear()
    monkeypatch.setattr(found, "reader", lambda: "another version")
    listing_of(other, tmp_path)
    assert len(parsed) == 4
    path = tmp_path / memory.NAME
    path.write_bytes(path.read_bytes().replace(b"one.pdb", b"two.pdb"))
    parsed.clear()
    ours = listing_of(other, tmp_path)
    assert len(parsed) == 4
    assert_same(ours, Proteins(other, min_length=10).listing())


def test_what_was_just_written_is_not_remembered(data, tmp_path, parsed, monkeypatch):
    monkeypatch.setattr(memory, "_RECENT", 3600 * 10**9)
    listing_of(data, tmp_path)
    parsed.clear()
    listing_of(data, tmp_path)
    assert len(parsed) == 4
