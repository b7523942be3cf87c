"""reed-cache doctor: what it says of this machine, and that it says what is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from packaging.requirements import Requirement

import reed
from reed.cli.cache import main
from reed.errors import ReedError
from reed.extras import DISTRIBUTION, pip_install
from reed.view import doctor

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(doctor, "WRITTEN", doctor.BLOCK)


def call(folder):
    found = CliRunner().invoke(main, ["doctor", str(folder)])
    return found.exit_code, found.stdout


def advice_of(found):
    return [line for line in found.splitlines() if line.startswith(("Error: ", "Warning: "))]


def test_it_reports_versions_extras_devices_and_the_disk(tmp_path):
    code, text = call(tmp_path)
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert code == 0 and all("GPU" in line for line in advice_of(text))
    assert lines["reed"].split() == ["reed", reed.__version__]
    for need in map(Requirement, metadata.requires(DISTRIBUTION)):
        if not need.marker:
            assert lines[need.name].split()[1] == metadata.version(need.name)
    assert f"scikit-learn {metadata.version('scikit-learn')}" in lines["digits"]
    assert "dev" not in lines and "posebusters" in lines
    assert "MiB/s (8 MiB in " in lines["write"] and "MiB/s (8 MiB in " in lines["read"]
    assert lines["locks"].split() == ["locks", "work"]
    assert "cores" in lines["cpu"] and "rank 0 of 1" in lines["launch"]
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_or_old_breaks_a_build(monkeypatch, tmp_path):
    versions = {"torch": "2.6.0+cu124", "timm": None}

    def version(name):
        if name in versions and versions[name] is None:
            raise metadata.PackageNotFoundError(name)
        return versions.get(name, "99.0")

    monkeypatch.setattr(doctor.metadata, "version", version)
    code, text = call(tmp_path)
    assert code == 1
    (error,) = (
        line for line in advice_of(text) if line.startswith("Error: torch 2.6.0+cu124 is not")
    )
    assert ">=2.8" in error and "as reed needs: pip install 'torch!=2.13.0,>=2.8'" in error
    images = next(line for line in text.splitlines() if line.startswith("  images"))
    assert "timm missing" in images and images.endswith(f": {pip_install('images')}")
    assert not any("timm" in line for line in advice_of(text))  # an extra may be missing


def test_a_required_package_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_requirements", lambda extra="": [Requirement("no-such-thing>=2")])
    code, text = call(tmp_path)
    assert code == 1
    line = "Error: reed needs no-such-thing: pip install 'no-such-thing>=2'"
    assert line in advice_of(text)


def test_an_extra_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "_requirements", lambda extra="": [Requirement("numpy<1")])
    found = next(iter(doctor._extras()))
    assert f"as reed needs: {pip_install('digits', '--upgrade')}" in found.advice and found.breaks


def test_reed_that_is_not_installed_is_named(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", missing)
    with pytest.raises(ReedError, match="reed is not installed here"):
        list(doctor._packages())


def namesake(site, *files):
    """A distribution called reed, as there is one on PyPI, in a folder of packages."""
    info = site / "reed-0.0.4.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: reed\nVersion: 0.0.4\n")
    (info / "top_level.txt").write_text("reed\n")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    return site


def test_another_reed_that_shadows_ours_is_named(tmp_path):
    site = namesake(tmp_path / "site", "reed/__init__.py")
    (site / "reed").mkdir()
    (site / "reed" / "__init__.py").write_text("class Client: ...\n")
    words = [sys.executable, "-m", "reed.cli.cache", "doctor", tmp_path]
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(words, env=env, cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 1, done.stderr
    again = pip_install("", "--force-reinstall", "--no-deps").replace(" -e .", f" -e {ROOT}")
    wrong = f"Error: `import reed` finds {site / 'reed'}, which shadows ours in {ROOT / 'reed'}: "
    assert f"{wrong}pip uninstall reed, then {again}" in advice_of(done.stdout)


def test_a_folder_in_the_way_that_nothing_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.reed, "__file__", str(tmp_path / "reed" / "__init__.py"))
    found = doctor._reed()
    assert found.advice.endswith(f": remove {tmp_path / 'reed'}") and found.breaks


def test_another_reed_that_may_overwrite_ours_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(namesake(tmp_path / "site", "reed/__init__.py"))
    found = doctor._reed()
    assert "reed has a package `reed` too, which may overwrite" in found.advice and found.breaks
    assert "pip uninstall reed, then pip install --force-reinstall" in found.advice


def test_a_clone_from_before_the_name_changed_is_no_other_reed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(namesake(tmp_path / "site", "__editable__.reed-0.1.0.pth"))
    assert not doctor._reed().advice


def test_the_egg_info_of_such_a_clone_is_no_other_reed(tmp_path, monkeypatch):
    info = tmp_path / "reed.egg-info"
    info.mkdir()
    (info / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: reed\nVersion: 0.1.0\n")
    (info / "top_level.txt").write_text("reed\n")
    (info / "SOURCES.txt").write_text("reed/__init__.py\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "reed" in doctor.metadata.packages_distributions()["reed"]
    assert not doctor._reed().advice


def test_a_torchvision_of_another_torch_is_named(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.1")
    (found,) = doctor._torchvision()
    assert "torchvision 0.1 does not fit torch (operator torchvision::nms" in found.advice
    assert found.breaks


def test_a_gpu_that_torch_cannot_use_is_told(monkeypatch, tmp_path):
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22\n")
    monkeypatch.setattr(doctor, "NVIDIA", driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    (found,) = doctor._devices()
    assert found.found == "CPU only, driver 550.54.14" and not found.breaks
    assert "is built for the CPU: install the build" in found.advice
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    (found,) = doctor._devices()
    assert "(CUDA 12.8) cannot use its driver" in found.advice


def test_a_gpu_is_described(monkeypatch, tmp_path):
    card = SimpleNamespace(name="Card", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(doctor, "NVIDIA", tmp_path / "none")
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "is_bf16_supported": True,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    _, found = doctor._devices()
    assert (found.name, found.found) == ("cuda:0", "Card, 80.0 GiB, bf16, compute 9.0")


def test_a_full_disk_is_not_written_to(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 << 20))
    monkeypatch.setattr(doctor, "_speed", None)
    code, text = call(tmp_path)
    assert code == 1 and advice_of(text)[-1].startswith(f"Error: {tmp_path} is full: make room")


def test_a_folder_that_takes_no_files_is_named(monkeypatch, tmp_path):
    def refuse(path, size):
        raise PermissionError(13, "Permission denied")
        yield

    monkeypatch.setattr(doctor, "_speed", refuse)
    code, text = call(tmp_path)
    line = f"Error: cannot write in {tmp_path} (Permission denied): build elsewhere with"
    assert code == 1 and advice_of(text)[-1].startswith(line)


def test_a_disk_that_returns_other_bytes_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.os, "fsync", lambda file: doctor.os.pwrite(file, b"0" * 99, 7))
    *_, read = doctor._speed(tmp_path / "x", doctor.BLOCK)
    assert "returns other bytes than were written" in read.advice and read.breaks


def test_a_disk_without_locks_is_only_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.files, "only_writer", lambda folder: nullcontext())
    code, text = call(tmp_path)
    assert code == 0 and f"Warning: {tmp_path} has no file locks" in text
