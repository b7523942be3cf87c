"""Caches in data sets of the Hugging Face hub, read without a copy: one commit, by ranges."""

from __future__ import annotations

import functools
import time
import urllib.parse
from pathlib import Path
from typing import Any

from reed.errors import StoreError
from reed.store import names, shelf
from reed.store.client import Absent, Client, Entry, Patience
from reed.store.hub_repo import KIND, Repo

_pins: dict[str, str] = {}  # URL -> that of the commit which this process reads
_REDIRECTS = 5
_NO_FILE = (None, "EntryNotFound")
_EXPIRED = (400, 401, 403, 404, 410)  # what a signed address that is too old may give


def pinned(url: str, home: Path) -> str:
    """Return the URL of the commit that a URL stands for, and remember it.

    Args:
        url: ``hf://datasets/OWNER/NAME``, which ``@REVISION`` may follow.
        home: Folder of all mirrors.

    Raises:
        StoreError: The hub does not answer, or there is no such data set or revision.
    """
    if names.commit(url):
        return url
    repo = Repo(url)
    found = f"hf://datasets/{repo.name}@{repo.commit()}"
    _pins[url] = found
    shelf.write(_pin(url, home), found.encode())
    return found


def last_pinned(url: str, home: Path) -> str:
    """Return the URL of the commit that was read last, without asking the hub."""
    if names.commit(url) or url in _pins:
        return _pins.get(url, url)
    pin = _pin(url, home)
    return pin.read_text("utf-8") if pin.is_file() else url


def _pin(url: str, home: Path) -> Path:
    """Return the path of the file that says which commit of a URL was read last."""
    return home.joinpath("pins", *names.folders(url)).with_suffix(".txt")


class HubClient(Client):
    """The files of a commit of a data set, which can only be read.

    Args:
        url: URL of the commit.
        patience: How long requests may take.
    """

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        super().__init__(url, patience)
        self._places: dict[str, str] = {}  # large files: where the hub has sent us
        self._listed: dict[str, Entry] = {}

    @functools.cached_property
    def _repo(self) -> Repo:
        return Repo(self.url)

    @functools.cached_property
    def _library(self) -> Any:
        import huggingface_hub

        return huggingface_hub

    def list(self) -> dict[str, Entry]:
        """Return all files by name."""
        if not self._listed:
            files = self._repo.files(self._repo.revision)
            self._listed = {n: Entry(f.size, f.sha256 or f.blob) for n, f in files.items()}
        return dict(self._listed)

    def get(self, name: str) -> tuple[bytes, Entry]:
        """Return a file and its entry; Absent if there is none."""
        began = time.perf_counter()
        data = self._asked(name, {})
        took = time.perf_counter() - began
        self.latency = min(self.latency or took, took)
        return data, self.list().get(name, Entry(len(data), ""))

    def read(self, name: str, start: int, end: int, tag: str = "") -> memoryview:
        """Return bytes ``start`` to ``end`` of a file; what a commit has does not change."""
        return memoryview(self._asked(name, {"Range": f"bytes={start}-{end - 1}"}, end - start))

    def head(self, name: str) -> Entry | None:
        """Return the entry of a file; None if there is none."""
        return self.list().get(name)

    def put(self, name: str, path: Path, *, create: bool) -> Entry:
        """Refuse: a data set is written by commits."""
        raise self._only_read("write", name)

    def delete(self, name: str) -> None:
        """Refuse, as `put`."""
        raise self._only_read("remove", name)

    def _only_read(self, verb: str, name: str) -> StoreError:
        return StoreError(
            f"cannot {verb} {self.url}/{name}: a data set of the hub can only be read here; build "
            "in a folder, then run reed-cache push"
        )

    def _asked(self, name: str, about: dict[str, str], size: int = -1) -> bytes:
        """Return the bytes of a file that some headers ask for."""
        self.check_process()

        def read() -> bytes:
            answer = self._answer(name, about)
            if answer.status_code == 404 and answer.headers.get("x-error-code") in _NO_FILE:
                raise Absent(f"cannot read {self.url}/{name}: there is no such file")
            self._library.utils.hf_raise_for_status(answer)
            data = answer.content
            if answer.status_code == 200 and about:  # of a server that sends all
                start = int(about["Range"].removeprefix("bytes=").partition("-")[0])
                data = data[start : start + size]
            if size not in (-1, len(data)):
                raise ConnectionError(f"{len(data)} bytes came of {size}")
            return data

        return self._repo.tried("read", read, name)

    def _answer(self, name: str, about: dict[str, str]) -> Any:
        """Return the answer for a file, from where the hub keeps it.

        The hub answers for a large file with a signed address, which serves many requests; it
        limits how often it may be asked itself.
        """
        hub = self._library
        first = hub.hf_hub_url(self._repo.name, name, repo_type=KIND, revision=self._repo.revision)
        ours, session = hub.utils.build_hf_headers(), hub.utils.get_session()
        patience = self.patience

        def get(where: str) -> Any:
            # The token is for the hub alone.
            is_hub = urllib.parse.urlsplit(where)[:2] == urllib.parse.urlsplit(first)[:2]
            headers = about | (ours if is_hub else {}) | {"Accept-Encoding": "identity"}
            return session.get(
                where, headers=headers, follow_redirects=False, timeout=patience.silence
            )

        if place := self._places.get(name):
            answer = get(place)
            if answer.status_code not in _EXPIRED:
                return answer
            self._places.pop(name, None)

        # From the hub, which may send us on.
        where, answer = first, get(first)
        for _ in range(_REDIRECTS):
            if not 300 <= answer.status_code < 400 or "location" not in answer.headers:
                break
            where = urllib.parse.urljoin(where, answer.headers["location"])
            answer = get(where)
        if where != first and answer.status_code < 300:
            self._places[name] = where
        return answer
