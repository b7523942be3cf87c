"""A data set of the Hugging Face hub that holds a cache: its address, its files, and its errors."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
import re
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from reed import hub
from reed.bytes import file_sha256
from reed.errors import ReedError, StoreError

T = TypeVar("T")
KIND = "dataset"
TRIES, WAIT = 5, 1.0  # of a request that fails for a reason that may pass; seconds, then doubled
_URL = re.compile(r"hf:/+datasets/([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/*")


@dataclass(frozen=True)
class There:
    """A file of the data set.

    Attributes:
        size: Its bytes.
        sha256: Its hash; empty for a file that git holds itself.
        blob: What git calls its content; of a large file, that is of the pointer to it.
    """

    size: int
    sha256: str
    blob: str

    def is_same(self, path: Path, sha256: str = "") -> bool:
        """Whether a file on this machine has the same content.

        Args:
            path: The file.
            sha256: Its hash, if that is known.
        """
        if self.sha256:
            return self.sha256 == (sha256 or file_sha256(path))
        if self.size != path.stat().st_size:
            return False
        data = path.read_bytes()
        return self.blob == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Repo:
    """A data set of the hub.

    Args:
        url: ``hf://datasets/OWNER/NAME``, which ``@REVISION`` may follow.

    Attributes:
        url: The address without what is superfluous.
        name: ``OWNER/NAME``.
        revision: Branch, tag or commit.

    Raises:
        ReedError: It is no such address, or the library of the hub is missing.
        StoreError: The hub does not answer.
    """

    def __init__(self, url: str) -> None:
        match = _URL.fullmatch(url)
        if match is None:
            raise ReedError(f"{url} is no data set of the hub; write hf://datasets/OWNER/NAME")
        self.name, self.revision = match[1], match[2] or "main"
        at = f"@{match[2]}" if match[2] else ""
        self.url = f"hf://datasets/{self.name}{at}"
        self._library = hub.library("huggingface_hub", self.url, "hub")

        # The library tries an address that nothing answers for half a minute.
        if problem := hub.unreachable():
            raise StoreError(f"{problem}; look at the network, or set HF_ENDPOINT")

    @functools.cached_property
    def api(self) -> Any:
        """The library's client."""
        return self._library.HfApi()

    def need_token(self) -> None:
        """Raise ReedError unless this machine has a token."""
        if not self._library.get_token():
            raise StoreError(
                f"cannot write {self.url}: there is no token of the hub on this machine; run hf "
                "auth login, or set HF_TOKEN"
            )

    def commit(self) -> str:
        """Return the commit that the revision stands for."""
        ask = functools.partial(self.api.dataset_info, self.name, revision=self.revision)
        return self.tried("read", ask).sha

    def files(self, commit: str) -> dict[str, There]:
        """Return the files of a commit by name."""

        def listed() -> dict[str, There]:
            tree = self.api.list_repo_tree(
                self.name, recursive=True, revision=commit, repo_type=KIND
            )
            files = [entry for entry in tree if hasattr(entry, "blob_id")]
            hashes = {f.path: f.lfs.sha256 if f.lfs else "" for f in files}
            return {f.path: There(f.size, hashes[f.path], f.blob_id) for f in files}

        return self.tried("read", listed)

    def fetch(self, name: str, commit: str, folder: Path) -> Path:
        """Fetch a file of a commit into a folder, going on where that was interrupted."""

        def fetched() -> str:
            with _quiet(self._library):
                return self.api.hf_hub_download(
                    self.name, name, repo_type=KIND, revision=commit, local_dir=folder
                )

        return Path(self.tried("read", fetched))

    def put(self, files: dict[str, Path], message: str) -> str:
        """Store files in one commit, and return it."""
        add = self._library.CommitOperationAdd

        def stored() -> str:
            added = [add(path_in_repo=n, path_or_fileobj=str(p)) for n, p in files.items()]
            with _quiet(self._library):
                done = self.api.create_commit(
                    self.name, added, commit_message=message, repo_type=KIND, revision=self.revision
                )
            return done.oid

        return self.tried("write", stored)

    def tried(self, verb: str, request: Callable[[], T], name: str = "") -> T:
        """Return the result of a request, which is tried again while that may help.

        Args:
            verb: What it does, for the message.
            request: The request.
            name: The file that it is about.

        Raises:
            StoreError: It failed; the message is one line.
        """
        for attempt in range(1, TRIES + 1):
            try:
                return request()
            except ReedError:
                raise
            except Exception as error:  # the library passes on those of several network libraries
                status = _status(error)

                # No answer, a timeout, too many requests and errors of the server may pass.
                may_pass = status in (0, 408, 429) or status >= 500
                if not may_pass or attempt == TRIES or _is_final(error):
                    reason = self._reason(error, status)
                    where = "/".join(filter(None, (self.url, name)))
                    tries = f" ({attempt} attempts)" if attempt > 1 else ""
                    raise StoreError(f"cannot {verb} {where}: {reason}{tries}") from error
                time.sleep(WAIT * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
        raise AssertionError("the last attempt returns or raises")

    def _reason(self, error: Exception, status: int) -> str:
        """Return what went wrong, and what to do."""
        kind = type(error).__name__
        if kind == "GatedRepoError":
            return "its owner lets in only who has asked; ask on its page, then rerun"
        if kind == "RevisionNotFoundError":
            return f"there is no revision {self.revision!r}; name a branch, a tag or a commit"
        if kind == "OfflineModeIsEnabled":
            return "HF_HUB_OFFLINE forbids the network; unset it"

        # The hub does not say which of what a user may not see is there.
        is_unseen = status == 401 and not self._library.get_token()
        if kind == "RepositoryNotFoundError" or is_unseen:
            return (
                "there is no such data set, or this token may not see it; correct the name, or ask"
            )
        if status == 401:
            return "the hub does not know this token; run hf auth login, or renew HF_TOKEN"
        if status == 403:
            return "this token may not do that; make one that can write, or ask the owner"
        first = error.__cause__ or error  # a file that was not sent is named, and then why
        said = str(error) if first is error else f"{error} {first}"
        what = " ".join(said.split())[:200] or kind
        return f"{f'status {status}, ' if status else ''}{what}; rerun to go on"


def _status(error: BaseException) -> int:
    """Return the HTTP status of an error or of what caused it; 0 without one."""
    seen: BaseException | None = error
    while seen is not None:
        if (answer := getattr(seen, "response", None)) is not None:
            return int(answer.status_code)
        seen = seen.__cause__
    return 0


def _is_final(error: Exception) -> bool:
    """Whether an error is not one of the network: a file or an argument is wrong."""
    missing = isinstance(error, FileNotFoundError | PermissionError | TypeError)
    return missing or type(error).__name__ == "OfflineModeIsEnabled"


@contextlib.contextmanager
def _quiet(hub_library: Any) -> Generator[None]:
    """Show no bar of the library inside the block: a command has its own."""
    utils = hub_library.utils
    before = utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            utils.enable_progress_bars()
