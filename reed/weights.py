"""Weights of frozen encoders: found in a given place or in the hub's cache, hashed, read safely.

Nothing here runs code from a checkpoint, and nothing goes to the network when what is wanted is
there already. Model libraries and torch are imported where they are needed.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from reed.bytes import file_sha256
from reed.errors import ReedError
from reed.extras import pip_install

SAFE = (".safetensors",)
PICKLED = (".pth", ".pt", ".bin", ".tar", ".ckpt")
HUB_SECONDS = 10.0  # to wait for the hub's answer

State = dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where public weights come from.

    repo: on the Hugging Face hub; revision: a branch, tag or commit of it; files: names or
    patterns (``"*.safetensors"``) of what is needed; url: the place of weights that no hub has;
    option: how a path is given, for messages, where that is not --set of reed-cache.
    """

    repo: str = ""
    revision: str = "main"
    files: tuple[str, ...] = ("model.safetensors",)
    url: str = ""
    option: str = ""


@dataclass(frozen=True)
class Found:
    """Weights on this machine: the folder that holds them, and the files that are weights."""

    folder: Path
    files: tuple[Path, ...]

    @property
    def sha256(self) -> str:
        """Of the content: that of the file, or of the files' own hashes where there are several."""
        hashes = [weights_sha256(path) for path in self.files]
        joined = hashlib.sha256(" ".join(hashes).encode()).hexdigest()
        return hashes[0] if len(hashes) == 1 else joined


def find(name: str, origin: Origin, weights: str | None = None) -> Found:
    """The weights of encoder `name`: at the path `weights`, else of `origin`, fetched if need be.

    What the hub's cache holds is taken without asking the network. Any number of ranks may call
    this at once: the hub's library locks each file that it downloads. ReedError, in one line,
    when there is neither a path nor a network.
    """
    if weights is not None:
        return _given(name, Path(weights).expanduser(), origin)
    if not origin.repo:
        raise ReedError(f"{name}: its weights are on no hub; {_advice(name, origin)}")
    return cached(origin) or prefetch(name, origin)


def is_here(origin: Origin, weights: str | None = None) -> bool:
    """Whether `find` would go without the network: a path was given, or the hub's cache has all."""
    return weights is not None or bool(origin.repo and cached(origin))


def prefetch(name: str, origin: Origin, weights: str | None = None) -> Found:
    """Download the weights of `origin` to the hub's cache, at its revision, or say what failed.

    Nothing is downloaded where `weights` is a path that holds them. HF_HUB_OFFLINE=1, which the
    hub's library reads, forbids the network.
    """
    if weights is not None:
        return find(name, origin, weights)
    if not origin.repo:
        raise ReedError(f"{name}: its weights are on no hub; {_advice(name, origin)}")
    try:
        folder = Path(_snapshot(origin, local=False))
    except Exception as error:  # the hub passes on the errors of several network libraries
        raise ReedError(
            f"{name}: {origin.repo} at {origin.revision} is not in the hub's cache and cannot be "
            f"fetched ({type(error).__name__}: {_first_line(error)}); {_advice(name, origin)}"
        ) from error
    if found := _complete(folder, origin):
        return found
    wanted = ", ".join(origin.files)
    raise ReedError(f"{name}: {origin.repo} at {origin.revision} lacks some of: {wanted}")


def _advice(name: str, origin: Origin) -> str:
    """Which file to put where."""
    files = ", ".join(origin.files)
    place = (
        origin.url or f"{files} from https://huggingface.co/{origin.repo}/tree/{origin.revision}"
    )
    what = "file" if len(origin.files) == 1 else "folder"
    column, encoder = ("COLUMN", f"COLUMN={name}") if ":" in name else (name, name)
    fetch = f"reed-cache prefetch PIPELINE --encoder {encoder}"
    also = f" (or copy the hub's cache after: {fetch})" if origin.repo and not origin.option else ""
    option = origin.option or f"--set {column}.weights=PATH"
    return f"download {place} on a machine with a network{also} and give that {what}: {option}"


def _snapshot(origin: Origin, *, local: bool) -> str:
    hub = library("huggingface_hub")
    return hub.snapshot_download(
        origin.repo,
        revision=origin.revision,
        allow_patterns=list(origin.files),
        local_files_only=local,
        etag_timeout=HUB_SECONDS,
    )


def cached(origin: Origin) -> Found | None:
    """What the hub's cache has, if it is all there."""
    missing = library("huggingface_hub.errors").LocalEntryNotFoundError
    try:
        folder = Path(_snapshot(origin, local=True))
    except missing:
        return None
    return _complete(folder, origin)


def _complete(folder: Path, origin: Origin) -> Found | None:
    """The files of `origin` in a folder, if every name or pattern of it is met."""
    met = {pattern: sorted(folder.glob(pattern)) for pattern in origin.files}
    files = sorted({p for paths in met.values() for p in paths if p.suffix in SAFE + PICKLED})
    whole = all(met.values()) and files and all(path.is_file() for path in _listed(folder))
    return Found(folder, tuple(files)) if whole else None


def _listed(folder: Path) -> Iterator[Path]:
    """The parts that the index of a split checkpoint in the folder names."""
    for index in folder.glob("*.safetensors.index.json"):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"cannot read {index}, which names the parts of the weights"
            raise ReedError(f"{problem} ({_first_line(error)}); download it again") from error
        yield from (folder / part for part in named)


def _given(name: str, path: Path, origin: Origin) -> Found:
    """The weights at a path that the user gave; safetensors before anything pickled."""
    if path.is_file():
        return Found(path.parent, (path,))
    if not path.is_dir():
        raise ReedError(f"{name}: there are no weights at {path}; {_advice(name, origin)}")
    if found := _complete(path, origin):
        return found
    for suffixes in (SAFE, PICKLED):
        files = sorted(p for p in path.iterdir() if p.suffix in suffixes and p.is_file())
        if len(files) > 1:
            listed = ", ".join(p.name for p in files)
            raise ReedError(f"{name}: {path} holds several weights ({listed}); name the file")
        if files:
            return Found(path, tuple(files))
    endings = ", ".join(SAFE + PICKLED)
    raise ReedError(f"{name}: the folder {path} holds no weights (no file that ends in {endings})")


def weights_sha256(path: Path) -> str:
    """The sha256 of a file, hex; one that has not changed is read once per process."""
    try:
        status = path.stat()
    except OSError as error:
        raise ReedError(f"cannot read the weights {path}: {error.strerror}") from error
    return _hash(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash(path: Path, size: int, changed: int) -> str:
    return file_sha256(path)


def check(path: Path) -> None:
    """Refuse a file that cannot be weights: empty, a web page or a Git LFS pointer."""
    try:
        with open(path, "rb") as file:
            head = file.read(512).lstrip()
    except OSError as error:
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


def read(path: Path, allow: Sequence[type] = ()) -> State:
    """The content of a weights file on the CPU: tensors by name, or nested tables of them.

    safetensors, or what torch reads with weights_only=True: a pickle that needs code is refused.
    allow: plain containers of settings, such as argparse.Namespace, that it may hold as well.
    """
    check(path)
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix in SAFE:
            return load_file(path)
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"  # only these can be mapped instead of read
        with torch.serialization.safe_globals(list(allow)):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds {found[1]}" if found else _first_line(error)
        raise ReedError(
            f"{path} is not plain weights: reading it would run code or fails ({reason}); "
            "save its tensors as safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, LookupError, OSError) as error:
        problem = f"cannot read the weights {path} ({_first_line(error)})"
        raise ReedError(f"{problem}; download them again") from error
    if not isinstance(state, Mapping):
        raise ReedError(f"{path} holds {type(state).__name__}, not a table of tensors")
    return dict(state)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).strip()[:200]


def for_timm(model: Any, state: State) -> State:
    """A public file's content as the state dict of a timm model; no head that the model lacks."""
    names = model.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    own = model.state_dict().keys()

    def bare(state: State) -> State:
        return {k: v for k, v in state.items() if k in own or not k.startswith(heads)}

    # timm keeps, beside each family of models, what reads that family's original files. It would
    # also fit weights of another patch size, so it is not asked where the names are right.
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if adapt and bare(state).keys() != own:
        try:
            return bare(adapt(state, model))
        except (KeyError, AttributeError, RuntimeError, TypeError):
            pass  # not one of that family's files: its own names are compared and listed
    return bare(state)


def library(name: str, purpose: str = "encoding images", extra: str = "images") -> Any:
    """A module of the libraries that an extra installs; ReedError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ReedError(
            f"{purpose} needs {name.partition('.')[0]}, which cannot be imported "
            f"({error}); install it with: {pip_install(extra)}"
        ) from error
