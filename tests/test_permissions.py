"""What we write follows the umask, and what may not be read is said to be so, and is left alone."""

from __future__ import annotations

import io
import os
import re
import runpy
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from reed import weights
from reed.build import column, engines
from reed.bytes import check_readable, file_sha256
from reed.cache import files, plan, schema, verify
from reed.cli import cache as commands
from reed.cli.evaluate import main as evaluate
from reed.cli.sample import main as sample
from reed.cli.train import main as train
from reed.errors import NoPermission
from reed.train import log

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny_cache.py")))
MASKS = [0o022, 0o027, 0o002, 0o077]


@contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
        assert os.umask(mask) == mask  # nothing of ours has changed it
    finally:
        os.umask(before)


@pytest.fixture
def deny(monkeypatch):
    """A function after which a file may not be read; tests may run as root, who may read all."""
    denied = set()

    def refusing(whole):
        def opened(name, *more, **options):
            if not isinstance(name, int) and os.fspath(name) in denied:
                raise PermissionError(13, "Permission denied", os.fspath(name))
            return whole(name, *more, **options)

        return opened

    for place in ("builtins.open", "io.open", "os.open"):
        monkeypatch.setattr(place, refusing(os.open if place == "os.open" else io.open))
    return lambda path: denied.add(str(path))


@pytest.mark.parametrize("mask", MASKS)
def test_private_files_of_libraries_follow_the_umask(tmp_path, mask):
    def private(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent)
        os.close(descriptor)
        os.replace(name, path)

    with umask(mask):
        with files.new_file(tmp_path / "a") as temp:
            save_file({"x": torch.zeros(2)}, temp)
        with files.new_file(tmp_path / "b") as temp:
            private(temp)
        with files.new_folder(tmp_path / "c") as temp:
            private(temp / "d")
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*") if p.is_file()}
    assert modes == dict.fromkeys("abd", 0o666 & ~mask)


@pytest.mark.parametrize("mask", [0o022, 0o002])
def test_every_writer_follows_the_umask(tmp_path, mask):
    """A cache in every container, a run, an export in each form, and samples in each."""
    source, folder = TINY.Source(), tmp_path / "all"
    run, out = folder / "run", folder / "samples"
    with umask(mask):
        cache = TINY.build(folder / "cache")
        frozen = plan.load(cache)
        for container in ("h5", "zarr"):
            encoder = TINY.COLUMNS["digits-vit"]
            job = column.open_job(cache, frozen, container, encoder, source, container=container)
            engines.run(job, engines.Share(), progress=False)
        TINY.trained(TINY.settings(cache, run, steps=2))
        for name in ("a.pt", "a.safetensors"):
            found = CliRunner().invoke(train, ["export", str(run), "--out", str(folder / name)])
            assert found.exit_code == 0, found.output
        words = ["--run", run, "--out", out, "--num", 4, "--steps", 2, "--tars"]
        found = CliRunner().invoke(sample, [str(word) for word in words])
        assert found.exit_code == 0, found.output

    modes = {path: path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    endings = {path.suffix for path in modes}
    assert {".tar", ".h5", ".zarr", ".json", ".jsonl", ".npz", ".pt", ".safetensors"} <= endings
    assert {str(path): oct(mode) for path, mode in modes.items() if mode != 0o666 & ~mask} == {}


def test_no_permission_is_said_as_such(tmp_path, deny):
    path = tmp_path / "weights.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    path.chmod(0o600)
    deny(path)
    for reading in (check_readable, file_sha256, weights.check, weights.read):
        with pytest.raises(NoPermission, match=r"no permission to read .* \(mode 0600\)") as caught:
            reading(path)
        said = str(caught.value)
        assert "chmod a+r" in said and not {"remove", "delete", "download"} & set(said.split())


@pytest.fixture
def cache(tmp_path):
    return TINY.build(tmp_path / "cache")


@pytest.mark.parametrize("name", ["000001.tar", "000001.json", "column.json", "calibration.npz"])
def test_repair_removes_nothing_that_may_not_be_read(cache, deny, name):
    path = cache / "digits-vit" / name
    before = {p: p.stat().st_mtime_ns for p in cache.rglob("*")}
    deny(path)
    for command in ("verify", "repair"):
        words = ["--deep"] if command == "verify" else []
        found = CliRunner().invoke(commands.main, [command, str(cache), *words])
        assert found.exit_code and f"no permission to read {path}" in found.output, found.output
        assert not re.search(r"\bremove\b", found.output)
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*")} == before


def test_a_build_does_not_replace_a_shard_whose_marker_may_not_be_read(cache, deny):
    frozen, described = plan.load(cache), schema.load_column(cache, "pixels")
    assert verify.marker_in_place(cache, frozen, described, 1) is not None
    deny(cache / "pixels" / "000001.json")
    with pytest.raises(NoPermission, match="no permission to read .*000001.json"):
        verify.marker_in_place(cache, frozen, described, 1)


@pytest.fixture
def closed(monkeypatch):
    """A function after which a folder can neither be listed nor entered, also by root."""
    denied = set()

    def refusing(whole, *, itself):
        def called(name=".", *more, **options):
            path = "" if isinstance(name, int) else os.fspath(name)
            at = {path} if itself else set()
            if denied & (at | {path[:i] for i, letter in enumerate(path) if letter == "/"}):
                raise PermissionError(13, "Permission denied", path)
            return whole(name, *more, **options)

        return called

    monkeypatch.setattr("os.scandir", refusing(os.scandir, itself=True))
    monkeypatch.setattr("os.stat", refusing(os.stat, itself=False))
    for place in ("builtins.open", "io.open"):
        monkeypatch.setattr(place, refusing(io.open, itself=False))
    return lambda folder: denied.add(str(folder))


@pytest.mark.parametrize("words", [["verify"], ["verify", "--deep"], ["repair"], ["info"]])
def test_a_column_that_may_not_be_entered_is_not_passed_over(cache, closed, words):
    folder = cache / "digits-vit"
    folder.chmod(0o700)
    closed(folder)
    found = CliRunner().invoke(commands.main, [words[0], str(cache), *words[1:]])
    assert found.exit_code, found.output
    assert f"no permission to read the folder {folder} (mode 0700)" in found.output
    assert "chmod a+rx" in found.output and "Traceback" not in found.output


def test_a_log_without_permission_need_not_be_restored(tmp_path, deny):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    deny(path)
    with pytest.raises(NoPermission) as caught:
        log.read(tmp_path)
    assert "restore" not in str(caught.value)


@pytest.mark.parametrize("command", [train, evaluate])
def test_words_that_lead_to_a_closed_folder_end_in_one_line(cache, tmp_path, closed, command):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    (folder / "a.npz").touch()
    closed(folder)
    words = [folder] if command is train else [folder / "a.npz", "--reference", cache]
    found = CliRunner().invoke(command, [str(word) for word in words])
    assert found.exit_code == 2 and isinstance(found.exception, SystemExit), found.exception
    assert f"{folder}" in found.output and "ermission" in found.output, found.output
