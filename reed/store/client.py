"""Requests to an object store: each is tried again, with a deadline, and fails in one line."""

from __future__ import annotations

import functools
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from reed.errors import StoreError
from reed.extras import pip_install
from reed.store import reasons

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long a request may take, and how often it is tried.

    Attributes:
        tries: Attempts of a request.
        wait: Seconds before the second attempt; doubled each time, and varied at random.
        longest: Most seconds between two attempts.
        connect: Seconds until a connection must stand.
        silence: Seconds without a byte after which a request has failed.
        whole: Seconds of a request as a whole.
    """

    tries: int = 6
    wait: float = 0.25
    longest: float = 8.0
    connect: float = 5.0
    silence: float = 20.0
    whole: float = 120.0


PATIENCE = Patience()


@dataclass(frozen=True)
class Entry:
    """An object in a store.

    Attributes:
        size: Its bytes; -1 where the store does not tell.
        tag: Its ETag, without quotes; empty where the store has none.
    """

    size: int
    tag: str

    @classmethod
    def of(cls, size: int, tag: str | None) -> Entry:
        """Return the entry of an ETag as a store states it: Azure lists it without its quotes."""
        return cls(size, (tag or "").strip('"'))


class Exists(Exception):
    """Raised by `Client.put` where an object is there already and must stay."""


class Absent(StoreError):
    """There is no such object."""


class Client:
    """The objects below a URL.

    Args:
        url: URL of the folder.
        patience: How long requests may take.
    """

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        self.url, self.patience = url, patience or PATIENCE
        self._process = os.getpid()
        self.latency = 0.0  # seconds of the fastest small request so far

    @functools.cached_property
    def _obstore(self) -> Any:
        try:
            import obstore
        except ImportError as error:
            raise StoreError(
                f"{self.url} needs obstore, which is not installed; install it with: "
                f"{pip_install('store')}"
            ) from error
        return obstore

    @functools.cached_property
    def _store(self) -> Any:
        obstore, patience = self._obstore, self.patience
        options = {
            "allow_http": True,
            "connect_timeout": f"{patience.connect}s",
            "read_timeout": f"{patience.silence}s",
            "timeout": f"{patience.whole}s",
        }
        more: dict[str, Any] = {}
        if provider := _profile() if self.url.startswith("s3:") else None:
            more["credential_provider"] = provider

        # A request is tried again here, where a body that broke off is seen, too. Uploads in parts
        # need it there: else one part that failed would send all parts again.
        retry = {"max_retries": 2, "backoff": {"init_backoff": timedelta(seconds=patience.wait)}}
        try:
            return obstore.store.from_url(
                self.url, client_options=options, retry_config=retry, **more
            )
        except (obstore.exceptions.BaseError, ValueError) as error:
            raise StoreError(f"cannot use {self.url}: {reasons.unusable(str(error))}") from error

    @property
    def is_http(self) -> bool:
        """Whether this is a plain web server, which can only be read."""
        return self.url.startswith("http")

    def list(self) -> dict[str, Entry]:
        """Return all objects by name."""
        if self.is_http:
            from reed.store import web_pages  # it imports a client of its own

            silence = self.patience.silence
            names = self._tried("", "list", lambda: web_pages.names(self.url, silence))
            return {name: Entry(-1, tag) for name, tag in names.items()}

        def listed() -> dict[str, Entry]:
            found = (meta for batch in self._obstore.list(self._store) for meta in batch)
            return {m["path"]: Entry.of(m["size"], m["e_tag"]) for m in found}

        return self._tried("", "list", listed)

    def get(self, name: str) -> tuple[bytes, Entry]:
        """Return an object and its entry; Absent if there is none."""

        def read() -> tuple[bytes, Entry]:
            began = time.perf_counter()
            result = self._obstore.get(self._store, name)
            data = bytes(result.bytes())
            took = time.perf_counter() - began
            self.latency = min(self.latency or took, took)
            return data, Entry.of(len(data), result.meta["e_tag"])

        return self._tried(name, "read", read)

    def read(self, name: str, start: int, end: int, tag: str = "") -> memoryview:
        """Return bytes ``start`` to ``end`` of an object, which must still have its ETag."""

        def read() -> memoryview:
            options: dict[str, Any] = {"range": (start, end)}
            if tag and not tag.startswith("W/"):
                options["if_match"] = f'"{tag}"'
            data = memoryview(self._obstore.get(self._store, name, options=options).bytes())
            if len(data) != end - start:
                raise OSError(f"{len(data)} bytes came of {end - start}")
            return data

        return self._tried(name, "read", read)

    def put(self, name: str, path: Path, *, create: bool) -> Entry:
        """Store a file, which appears whole or not at all.

        Args:
            name: Name of the object.
            path: The file.
            create: Whether an object that is there must stay: Exists is raised then.
        """
        size = path.stat().st_size
        in_parts = size > PARTS
        if in_parts and create and self.head(name):
            raise Exists(name)

        # An upload in parts cannot be told to create only; the marker then decides who was first.
        mode = "create" if create and not in_parts else "overwrite"

        def write() -> Entry:
            result = self._obstore.put(
                self._store, name, path, mode=mode, use_multipart=in_parts, chunk_size=PARTS // 4
            )
            return Entry.of(size, result["e_tag"])

        return self._tried(name, "write", write)

    def delete(self, name: str) -> None:
        """Remove an object, if it exists."""
        try:
            self._tried(name, "remove", lambda: self._obstore.delete(self._store, name))
        except Absent:
            pass

    def head(self, name: str) -> Entry | None:
        """Return the entry of an object; None if there is none."""
        try:
            meta = self._tried(name, "look for", lambda: self._obstore.head(self._store, name))
        except Absent:
            return None
        return Entry.of(meta["size"], meta["e_tag"])

    def check_process(self) -> None:
        """Raise StoreError in a process that was forked after this client was made."""
        if self._process != os.getpid():
            raise StoreError(
                f"{self.url} cannot be read in a forked process; start the process by spawning it "
                "(multiprocessing_context='spawn')"
            )

    def _tried(self, name: str, verb: str, request: Callable[[], T]) -> T:
        """Return the result of a request, which is tried again while that may help."""
        self.check_process()

        # A web server would answer in many ways; that it can only be read is known before.
        where, began = f"{self.url}/{name}".rstrip("/"), time.monotonic()
        if self.is_http and verb in ("write", "remove"):
            raise StoreError(f"cannot {verb} {where}: {reasons.ADVICE['405']}")
        for attempt in range(1, self.patience.tries + 1):
            try:
                return request()
            except StoreError:
                raise
            except Exception as error:  # obstore raises built-in errors, too
                kind, reason = type(error).__name__, str(error)
                code = reasons.code(reason)
                if kind == "AlreadyExistsError" and code in ("", "409", "412"):
                    raise Exists(name) from error
                if reasons.is_absent(kind, code) and name and verb != "write":
                    raise Absent(f"cannot {verb} {where}: {reasons.ADVICE['404']}") from error
                if attempt == self.patience.tries or reasons.is_final(reason, kind):
                    seconds, times = time.monotonic() - began, f"attempt{'s' * (attempt > 1)}"
                    raise StoreError(
                        f"cannot {verb} {where}: {reasons.explained(reason, code, self.url)} "
                        f"({attempt} {times}, {seconds:.0f} s)"
                    ) from error
                time.sleep(self._pause(attempt))
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, attempt: int) -> float:
        """Return the seconds to wait after an attempt: twice as long each time, at random."""
        longest = min(self.patience.longest, self.patience.wait * 2 ** (attempt - 1))
        return longest * random.uniform(0.5, 1.0)  # many readers do not come back at once


PARTS = 64 << 20  # bytes of a file above which it is sent in parts


def _profile() -> Any:
    """Return a provider of the credentials in ~/.aws; None without boto3 or with others at hand."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE")
    if any(name in os.environ for name in names) or not (Path.home() / ".aws").is_dir():
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider()
    except (ImportError, ValueError):
        return None
