"""reed-cache doctor: check the installation, the devices and a disk."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tqdm import tqdm

import reed
from reed.build import engines
from reed.cache import files
from reed.errors import ReedError
from reed.extras import DISTRIBUTION, ROOT, pip_install

MIB = 1 << 20
BLOCK = 8 * MIB
WRITTEN = 256 * MIB  # most bytes written to measure the speed
NVIDIA = Path("/proc/driver/nvidia/version")  # exists if the driver is loaded


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: What was checked.
        found: What was found.
        advice: What is wrong and what to do about it; empty if nothing is wrong.
        breaks: Whether a build fails because of it, if there is advice.
    """

    name: str
    found: str
    advice: str = ""
    breaks: bool = False


def examine(folder: Path) -> Iterator[tuple[str, list[Finding]]]:
    """Yield title and findings of each part: versions, extras, devices, the disk of a folder."""
    yield "versions", [*_python(), *_packages(), *_torchvision()]
    yield "extras", list(_extras())
    yield "devices", [_processor(), *_devices(), _launch()]
    yield f"disk of {folder.absolute()}", list(_disk(folder))


def _python() -> Iterator[Finding]:
    yield _reed()
    yield Finding("python", f"{platform.python_version()}, {platform.platform(terse=True)}")


def _reed() -> Finding:
    """Return the version of reed, and whether another package called reed is in its way."""
    own, imported = ROOT / "reed", Path(str(reed.__file__)).resolve().parent
    version = getattr(reed, "__version__", "of no version")
    others = _namesakes()
    if imported == own and not others:
        return Finding("reed", version)

    if imported != own:
        problem = f"`import reed` finds {imported}, which shadows ours in {own}"
    else:
        problem = f"{' and '.join(others)} has a package `reed` too, which may overwrite {own}"

    # Removing files that belong to a distribution would leave it broken; pip removes it whole.
    remedy = f"remove {imported}"
    if others:
        again = pip_install("", "--force-reinstall", "--no-deps")
        remedy = f"pip uninstall {' '.join(others)}, then {again}"
    return Finding("reed", f"{version}, {imported}", f"{problem}: {remedy}", breaks=True)


def _namesakes() -> list[str]:
    """List the other distributions that installed a package `reed`: one on PyPI has this name.

    Only what a RECORD lists was installed. An editable install records a path and no package, and
    the egg-info of a clone from before ours was renamed has no RECORD: neither does harm.
    """
    distributions = map(metadata.distribution, metadata.packages_distributions().get("reed", []))
    return sorted(
        {
            other.metadata["Name"]
            for other in distributions
            if canonicalize_name(other.metadata["Name"]) != DISTRIBUTION
            and other.read_text("RECORD") is not None
            and any(file.parts[0] in ("reed", "reed.py") for file in other.files or [])
        }
    )


def _requirements(extra: str = "") -> list[Requirement]:
    """Return what reed requires, or what an extra adds; ReedError if reed is not installed."""
    try:
        texts = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError as error:
        raise ReedError(
            f"reed is not installed here; run in its folder: {pip_install('')}"
        ) from error
    every = map(Requirement, texts)
    if not extra:
        return [need for need in every if not need.marker or need.marker.evaluate()]
    return [n for n in every if n.marker and n.marker.evaluate({"extra": extra})]


def _packages() -> Iterator[Finding]:
    for need in _requirements():
        version, problem = _installed(need)
        advice = problem and f"{problem}: pip install '{need.name}{need.specifier}'"
        yield Finding(need.name, version or "missing", advice, breaks=True)


def _installed(need: Requirement) -> tuple[str, str]:
    """Return the version of a package, and what is wrong with it."""
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return "", f"reed needs {need.name}"
    if need.specifier.contains(version, prereleases=True):
        return version, ""
    return version, f"{need.name} {version} is not {need.specifier}, as reed needs"


def _torchvision() -> Iterator[Finding]:
    """Import torchvision, which timm needs, and which fails if it was built for another torch."""
    try:
        version = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return
    try:
        import torchvision  # noqa: F401
    except Exception as error:  # RuntimeError for an operator, OSError for a symbol
        reason = str(error).partition("\n")[0]
        problem = f"torchvision {version} does not fit torch ({reason})"
        advice = f"{problem}: pip install --upgrade torch torchvision"
        yield Finding("torchvision", version, advice, breaks=True)
    else:
        yield Finding("torchvision", version)


def _extras() -> Iterator[Finding]:
    """Yield the packages of each extra, except of extras that combine others."""
    for extra in metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []:
        needs = _requirements(extra)
        if any(need.name == DISTRIBUTION for need in needs):
            continue
        states = [(need.name, *_installed(need)) for need in needs]
        line = ", ".join(f"{name} {version or 'missing'}" for name, version, _ in states)
        if not all(version for _, version, _ in states):
            line += f": {pip_install(extra)}"
        problems = [problem for _, version, problem in states if version and problem]
        advice = f"{'; '.join(problems)}: {pip_install(extra, '--upgrade')}" if problems else ""
        yield Finding(extra, line, advice, breaks=True)


def _processor() -> Finding:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
    return Finding("cpu", f"{cores}, {memory / 2**30:.1f} GiB of RAM")


def _devices() -> Iterator[Finding]:
    """Yield the GPUs that torch can use, and why it cannot use an NVIDIA GPU that exists."""
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", "cannot be imported", f"torch fails: {error}; install it anew", True)
        return

    build = torch.version.cuda and f"CUDA {torch.version.cuda}"
    build = build or (torch.version.hip and f"ROCm {torch.version.hip}") or "CPU only"
    driver = re.search(r" ([0-9]+\.[0-9.]+) ", NVIDIA.read_text()) if NVIDIA.is_file() else None
    known = f", driver {driver[1]}" if driver else ""
    advice = ""
    # Without advice, such a machine would compute on its CPU and nobody would know why.
    if NVIDIA.is_file() and not torch.cuda.is_available():
        why = "is built for the CPU" if build == "CPU only" else f"({build}) cannot use its driver"
        advice = (
            f"there is an NVIDIA GPU{known}, but torch {torch.__version__} {why}: install the "
            "build that https://pytorch.org/get-started names for the driver"
        )
    yield Finding("gpu support", f"{build}{known}", advice)

    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        with torch.cuda.device(index):
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        memory = f"{card.total_memory / 2**30:.1f} GiB"
        level = f"compute {card.major}.{card.minor}"
        yield Finding(f"cuda:{index}", f"{card.name}, {memory}, {bf16}, {level}")


def _launch() -> Finding:
    share = engines.launched_share()
    return Finding("launch", f"rank {share.rank} of {share.world}")


def _disk(folder: Path) -> Iterator[Finding]:
    """Yield free space, speed and locks, measured in a temporary folder inside the folder."""
    free = shutil.disk_usage(folder).free
    few = free < 4 * BLOCK
    advice = f"{folder} is full: make room there, or build elsewhere with --cache DIR"
    yield Finding("free", f"{free / 2**30:.1f} GiB", advice if few else "", breaks=True)
    if few:
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".reed-doctor-", dir=folder) as inside:
            yield from _speed(Path(inside) / "written", min(WRITTEN, free // 4 // BLOCK * BLOCK))
            yield _locks(Path(inside))
    except OSError as error:
        advice = f"cannot write in {folder} ({error.strerror}): build elsewhere with --cache DIR"
        yield Finding("write", "fails", advice, breaks=True)


def _speed(path: Path, size: int) -> Iterator[Finding]:
    """Yield the speed of writing bytes in blocks with a sync, and of reading them back."""
    block = os.urandom(BLOCK)
    with (
        open(path, "w+b", buffering=0) as file,
        tqdm(total=2 * size, unit="B", unit_scale=True, leave=False, disable=None) as bar,
    ):
        began = time.perf_counter()
        for _ in range(size // BLOCK):
            file.write(block)
            bar.update(BLOCK)
        os.fsync(file.fileno())
        yield Finding("write", _pace(size, time.perf_counter() - began) + ", synced")

        # Without the advice, the bytes would be read from memory and not from the disk.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        began, same = time.perf_counter(), True
        for _ in range(size // BLOCK):
            same = file.read(BLOCK) == block and same
            bar.update(BLOCK)
        pace = _pace(size, time.perf_counter() - began)

    advice = "" if same else f"{path.parent.parent} returns other bytes than were written"
    yield Finding("read", pace, advice, breaks=True)


def _pace(size: int, seconds: float) -> str:
    return f"{size / MIB / max(seconds, 1e-9):,.0f} MiB/s ({size // MIB} MiB in {seconds:.2f} s)"


def _locks(folder: Path) -> Finding:
    """Check that a second writer of a folder is refused; builds and runs rely on that."""
    with files.only_writer(folder):
        try:
            with files.only_writer(folder):
                advice = (
                    f"{folder.parent} has no file locks: reed cannot keep two runs from writing "
                    "one folder there, so start only one at a time"
                )
                return Finding("locks", "none", advice)
        except ReedError:
            return Finding("locks", "work")
