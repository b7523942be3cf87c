"""Weights of frozen encoders: found at a path or in the hub's cache, hashed, and read safely.

Nothing here runs code from a checkpoint, and nothing uses the network if the files are there
already. Model libraries and torch are imported where they are needed.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from reed import hub
from reed.bytes import check_readable, file_sha256
from reed.errors import ReedError
from reed.finite import check_finite
from reed.hub import library

SAFE = (".safetensors",)
PICKLED = (".pth", ".pt", ".bin", ".tar", ".ckpt")
HUB_SECONDS = 10.0  # timeout of a request to the hub

State = dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where public weights come from.

    Attributes:
        repo: Repository on the Hugging Face hub; empty if the weights are elsewhere.
        revision: Branch, tag or commit.
        files: Names or patterns (``"*.safetensors"``) of the files that are needed.
        url: Address of weights that are not on the hub.
        option: Option that gives a path to the weights, for messages; by default --set of
            reed-cache.
        instead: Names or patterns to use if there are not all of ``files``.
    """

    repo: str = ""
    revision: str = "main"
    files: tuple[str, ...] = ("model.safetensors",)
    url: str = ""
    option: str = ""
    instead: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """Weights on this machine: their folder, and the files in it that are weights."""

    folder: Path
    files: tuple[Path, ...]

    @property
    def sha256(self) -> str:
        """Hash of the file; of several files, the hash of their hashes."""
        hashes = [weights_sha256(path) for path in self.files]
        joined = hashlib.sha256(" ".join(hashes).encode()).hexdigest()
        return hashes[0] if len(hashes) == 1 else joined


def find(name: str, origin: Origin, weights: str | None = None) -> Found:
    """Find the weights of an encoder, and download them if they are not on this machine.

    Files in the hub's cache are used without a request to the network. Several processes may call
    this at once, because the hub's library locks each file that it downloads.

    Args:
        name: Name of the encoder, for messages.
        origin: Where its weights come from.
        weights: Path of a file or folder to use instead.

    Raises:
        ReedError: There are no weights at the path, or they cannot be downloaded.
    """
    if weights is not None:
        return _given(name, Path(weights).expanduser(), origin)
    if not origin.repo:
        raise ReedError(f"{name}: its weights are not on the hub; {_advice(name, origin)}")
    return cached(origin) or prefetch(name, origin)


def is_here(origin: Origin, weights: str | None = None) -> bool:
    """Return whether `find` needs no network: there is a path, or the hub's cache has all files."""
    return weights is not None or bool(origin.repo and cached(origin))


def prefetch(name: str, origin: Origin, weights: str | None = None) -> Found:
    """Download the weights of an encoder to the hub's cache.

    The arguments are those of `find`; with `weights`, nothing is downloaded. HF_HUB_OFFLINE=1,
    which the hub's library reads, forbids the network.

    Raises:
        ReedError: The download fails, or the repository lacks some of the files.
    """
    if weights is not None:
        return find(name, origin, weights)
    if not origin.repo:
        raise ReedError(f"{name}: its weights are not on the hub; {_advice(name, origin)}")

    # The hub's library tries an address that nothing answers for half a minute.
    problem = hub.unreachable()
    if problem and (found := cached(origin)):
        return found

    try:
        if problem:
            raise ConnectionError(problem)
        folder = Path(_snapshot(origin, local=False))
        if origin.instead and not _complete(folder, origin):
            _snapshot(replace(origin, files=origin.instead), local=False)
    except Exception as error:  # the hub passes on errors of several network libraries
        raise ReedError(
            f"{name}: {origin.repo} at {origin.revision} is not in the hub's cache and cannot be "
            f"fetched ({type(error).__name__}: {_first_line(error)}); {_advice(name, origin)}"
        ) from error
    if complete := _complete(folder, origin):
        return complete
    needed = ", ".join(origin.files)
    raise ReedError(f"{name}: {origin.repo} at {origin.revision} lacks some of: {needed}")


def _advice(name: str, origin: Origin) -> str:
    """Return the end of a message: what to download, and which option gives it."""
    files = ", ".join(origin.files)
    hub_page = f"{files} from https://huggingface.co/{origin.repo}/tree/{origin.revision}"
    address = origin.url or hub_page
    kind = "file" if len(origin.files) == 1 else "folder"
    column, encoder = ("COLUMN", f"COLUMN={name}") if ":" in name else (name, name)
    fetch = f"reed-cache prefetch PIPELINE --encoder {encoder}"
    also = f" (or copy the hub's cache after: {fetch})" if origin.repo and not origin.option else ""
    option = origin.option or f"--set {column}.weights=PATH"
    if not origin.repo and not origin.url:
        return f"give the {kind} of {files}: {option}"
    return f"download {address} on a machine with a network{also} and give that {kind}: {option}"


def _snapshot(origin: Origin, *, local: bool) -> str:
    """Return the folder of the hub's snapshot; with `local`, without the network."""
    return library("huggingface_hub").snapshot_download(
        origin.repo,
        revision=origin.revision,
        allow_patterns=list(origin.files),
        local_files_only=local,
        etag_timeout=HUB_SECONDS,
    )


def cached(origin: Origin) -> Found | None:
    """Return the weights in the hub's cache, or None if some of the files are missing."""
    missing = library("huggingface_hub.errors").LocalEntryNotFoundError
    try:
        folder = Path(_snapshot(origin, local=True))
    except missing:
        return None
    return _complete(folder, origin)


def _complete(folder: Path, origin: Origin) -> Found | None:
    """Return the weights in a folder, or None if a name or pattern of the origin has no file."""
    for patterns in filter(None, (origin.files, origin.instead)):
        matches = [sorted(folder.glob(pattern)) for pattern in patterns]
        files = sorted({p for paths in matches for p in paths if p.suffix in SAFE + PICKLED})
        if all(matches) and files and all(p.is_file() for p in listed(folder, files[0].suffix)):
            return Found(folder, tuple(files))
    return None


def listed(folder: Path, suffix: str) -> Iterator[Path]:
    """Yield the files that the index of a split checkpoint lists."""
    for index in folder.glob(f"*{suffix}.index.json"):
        try:
            parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            check_readable(index)
            problem = f"cannot read {index}, which names the parts of the weights"
            raise ReedError(f"{problem} ({_first_line(error)}); download it again") from error
        yield from (folder / part for part in parts)


def _given(name: str, path: Path, origin: Origin) -> Found:
    """Find the weights at a path that the user gave; safetensors are preferred to pickles."""
    if path.is_file():
        return Found(path.parent, (path,))
    if not path.is_dir():
        raise ReedError(f"{name}: there are no weights at {path}; {_advice(name, origin)}")
    if complete := _complete(path, origin):
        return complete

    # A file under another name is taken where it is the only one.
    for suffixes in (SAFE, PICKLED):
        files = sorted(p for p in path.iterdir() if p.suffix in suffixes and p.is_file())
        if len(files) > 1:
            listed = ", ".join(p.name for p in files)
            raise ReedError(f"{name}: {path} holds several weights ({listed}); name the file")
        if files:
            return Found(path, tuple(files))
    wanted, endings = ", ".join(origin.files), ", ".join(SAFE + PICKLED)
    lacking = f"neither {wanted} nor one file of another name that ends in {endings}"
    problem = f"{name}: the folder {path} holds no weights ({lacking})"
    raise ReedError(f"{problem}; {_advice(name, origin)}")


def weights_sha256(path: Path) -> str:
    """Return the sha256 of a file, hex; an unchanged file is read once per process."""
    try:
        status = path.stat()
    except OSError as error:
        raise ReedError(f"cannot read the weights {path}: {error.strerror}") from error
    return _hash(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash(path: Path, size: int, changed: int) -> str:
    return file_sha256(path)


def check(path: Path) -> None:
    """Fail if a file cannot be weights: it is empty, a web page or a Git LFS pointer."""
    try:
        with open(path, "rb") as file:
            head = file.read(512).lstrip()
    except OSError as error:
        check_readable(path)
        raise ReedError(f"cannot read the weights {path}: {error.strerror}") from error
    problem = ""
    if not head:
        problem = "is empty"
    elif head[:1] == b"<" and b"\0" not in head:  # binary headers have a zero byte early on
        problem = "is a web page, which a download link returned in place of weights"
    elif head.startswith(b"version https://git-lfs"):
        problem = "is a Git LFS pointer, not the file that it stands for"
    if problem:
        raise ReedError(f"{path} {problem}; delete it and download the weights again")


def read(path: Path, allow: Sequence[type] = (), *, finite: bool = True) -> State:
    """Read a weights file to the CPU: tensors by name, or nested tables of them.

    The arguments are those of `content`.

    Raises:
        ReedError: The file cannot be read, or it is no table.
    """
    state = content(path, allow, finite=finite)
    if not isinstance(state, Mapping):
        raise ReedError(f"{path} holds {type(state).__name__}, not a table of tensors")
    return dict(state)


def content(path: Path, allow: Sequence[type] = (), *, finite: bool = True) -> Any:
    """Read a weights file to the CPU, whatever container its tensors are in.

    The file is safetensors, or a pickle that torch reads with weights_only=True. A pickle that
    would run code is refused.

    Args:
        path: The file.
        allow: Plain containers of settings, such as argparse.Namespace, that it may also hold.
        finite: Whether it may hold finite numbers alone.
    """
    check(path)
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"  # only zip files can be mapped instead of read
        if path.suffix in SAFE:
            state = load_file(path)
        else:
            with torch.serialization.safe_globals(list(allow)):
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds {match[1]}" if match else _first_line(error)
        raise ReedError(
            f"{path} is not plain weights: reading it would run code or fails ({reason}); "
            "save its tensors as safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, LookupError, OSError) as error:
        problem = f"cannot read the weights {path} ({_first_line(error)})"
        raise ReedError(f"{problem}; download them again") from error
    if finite:
        check_finite(state, str(path))
    return state


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).strip()[:200]
