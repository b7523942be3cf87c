"""An S3 server of this machine, and a proxy before it that does harm; tests read it by runpy."""

from __future__ import annotations

import contextlib
import http.client
import logging
import runpy
import socket
import struct
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

import obstore
import pytest
from moto.server import ThreadedMotoServer

from reed.store import client, mirror

LOOPBACK = runpy.run_path(str(Path(__file__).with_name("loopback.py")))
QUICK = client.Patience(tries=4, wait=0.01, longest=0.05, connect=2, silence=1, whole=5)
_MESSAGE = "<Error><Code>{}</Code><Message>said so</Message></Error>"
CODES = {503: "SlowDown", 500: "InternalError", 403: "AccessDenied", 400: "ExpiredToken"}


class Proxy(LOOPBACK["Server"]):
    """Passes requests on to the server, but for those that `fault` spoils.

    Attributes:
        fault: (method, path, number of the request) -> what is done: a status, a
            status and the code of an error, "reset", "cut" (half of the body), "silent" (no
            answer), a float (seconds of delay), or None.
        asked: Number of requests by (method, name of the object).
    """

    def __init__(self, target: str) -> None:
        self.fault: Callable[[str, str, int], object] = lambda *_: None
        self.asked: Counter[tuple[str, str]] = Counter()
        self.bytes = self._count = 0
        self._target, self._lock = target.removeprefix("http://"), threading.Lock()
        super().__init__(self.serve)

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        path = unquote(request.path)
        with self._lock:
            self._count += 1
            number = self._count
            self.asked[request.command, path.partition("?")[0].rpartition("/")[2]] += 1
        fault = self.fault(request.command, path, number)
        if fault == "silent":
            time.sleep(3)
        if fault in ("reset", "silent"):
            linger = struct.pack("ii", 1, 0)  # closing then sends RST
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            request.close_connection = True
            request.connection.close()
            return
        if isinstance(fault, int):
            fault = (fault, CODES[fault])
        if isinstance(fault, tuple):
            self._answer(request, fault[0], _MESSAGE.format(fault[1]).encode(), {})
            return
        time.sleep(fault if isinstance(fault, float) else 0)

        # The answer of the server, of which only half may come.
        there = http.client.HTTPConnection(self._target, timeout=20)
        with contextlib.closing(there):
            there.request(request.command, request.path, body, dict(request.headers))
            answer = there.getresponse()
            data = answer.read()
        self._answer(request, answer.status, data, dict(answer.getheaders()), fault == "cut")

    def _answer(self, request, status: int, data: bytes, headers: dict, cut: bool = False) -> None:
        dropped = ("transfer-encoding", "connection", "content-length", "date", "server")
        size = headers.get("Content-Length", headers.get("content-length"))
        request.send_response(status)
        for name, value in headers.items():
            if name.lower() not in dropped:
                request.send_header(name, value)
        is_head = request.command == "HEAD"
        request.send_header("Content-Length", size if is_head and size else str(len(data)))
        request.end_headers()
        sent = data[: len(data) // 2] if cut else data
        self.bytes += len(sent)
        with contextlib.suppress(ConnectionError):  # one that does not wait any more
            request.wfile.write(sent)
        if cut:
            request.close_connection = True


@pytest.fixture(scope="module")
def server():
    """The URL of an S3 server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def proxy(server):
    """The proxy before the server."""
    made = Proxy(server)
    yield made
    made.close()


class Bucket:
    """A bucket of a test's own.

    Attributes:
        url: Its URL.
    """

    def __init__(
        self, url: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, home: Path
    ) -> None:
        self.url, self._patch, self._home, self._homes = url, monkeypatch, home, 0
        monkeypatch.setattr(client, "PATIENCE", QUICK)
        self.machine(**environment)
        self.raw = obstore.store.from_url(self.url, client_options={"allow_http": True})

    def machine(self, **environment: str) -> None:
        """Go on as on another machine, which has no mirror yet."""
        self._homes += 1
        self._patch.setattr(mirror, "_open", {})
        self._patch.setenv("XDG_CACHE_HOME", str(self._home / str(self._homes)))
        for name, value in environment.items():
            self._patch.setenv(name, value)

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Return the content of all objects below a prefix."""
        names = [m["path"] for batch in obstore.list(self.raw, prefix) for m in batch]
        return {n.removeprefix(f"{prefix}/"): self.get(n) for n in names}

    def get(self, name: str) -> bytes:
        """Return the content of an object."""
        return bytes(obstore.get(self.raw, name).bytes())

    def put(self, name: str, data: bytes) -> None:
        """Store an object."""
        obstore.put(self.raw, name, data)

    def upload(self, folder: Path, prefix: str) -> str:
        """Store the files of a cache; return its URL."""
        for path in folder.rglob("*"):
            if path.is_file() and path.name not in ("cost.jsonl", "seen.json"):
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"{self.url}/{prefix}"


def name_of(request) -> str:
    """Return a name of a bucket of a test's own."""
    return f"b{abs(hash(request.node.name)) % 10**9}"


@pytest.fixture
def bucket(request, server, monkeypatch, tmp_path):
    """An empty bucket, and a machine without mirrors."""
    name = name_of(request)
    asked = urllib.request.Request(f"{server}/{name}", method="PUT")
    urllib.request.urlopen(asked).close()
    for variable in ("SESSION_TOKEN", "PROFILE", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{variable}", raising=False)
    keys = {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "REGION": "us-east-1"}
    environment = {f"AWS_{key}": value for key, value in (keys | {"ENDPOINT_URL": server}).items()}
    return Bucket(f"s3://{name}", environment, monkeypatch, tmp_path / "home")


def built_twice(folder: Path, build: Callable[[Path, list[str]], object]) -> None:
    """Let two builders build the column "words" of a cache at once."""
    ends = [threading.Thread(target=build, args=(folder, ["words"])) for _ in range(2)]
    for end in ends:
        end.start()
    for end in ends:
        end.join(60)
