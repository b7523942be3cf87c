"""A hub of this machine: the parts of its HTTP API that pushing and pulling use.

Tests read it by runpy. Commits, large files and errors are as the hub answers them to its own
library; nothing is stored on disk.
"""

from __future__ import annotations

import base64
import hashlib
import json
import runpy
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

LOOPBACK = runpy.run_path(str(Path(__file__).with_name("loopback.py")))
WRITER, READER = "hf_writer", "hf_reader"
LARGE = (".tar", ".h5", ".npz", ".zarr")  # files that git does not hold itself


class Hub(LOOPBACK["Server"]):
    """The server.

    Attributes:
        url: Its address.
        repos: "owner/name" -> the commits in order, each path -> content.
        objects: Large files by their sha256.
        asked: Number of requests by (method, kind of request).
        fault: (method, path) -> a status to answer, a status and the code of the error, "cut"
            (half of the body), or None.
    """

    def __init__(self) -> None:
        self.repos: dict[str, list[dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.fault: Callable[[str, str], object] = lambda *_: None
        self._lock = threading.Lock()
        super().__init__(self.serve)

    def keep(self, state) -> None:
        """Have what another hub had, and keep it there."""
        self.repos, self.private, self.objects = state.repos, state.private, state.objects

    def files(self, name: str, commit: int = -1) -> dict[str, bytes]:
        """Return the files of a data set."""
        return self.repos[name][commit]

    def sha(self, name: str, commit: int = -1) -> str:
        """Return what a commit is called."""
        number = commit % len(self.repos[name])
        return hashlib.sha1(f"{name} {number}".encode()).hexdigest()

    # ---- answers

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if request.headers.get("Transfer-Encoding") == "chunked":
            body = _chunked(request.rfile)
        path = unquote(urlsplit(request.path).path)
        kinds = ("preupload", "batch", "commit", "tree", "resolve", "create", "lfs")
        kind = next((k for k in kinds if f"/{k}" in path), "other")
        with self._lock:
            self.asked[request.command, kind] += 1
            fault = self.fault(request.command, path)
        if isinstance(fault, int):
            fault = (fault, "")
        if isinstance(fault, tuple):
            headers = {"X-Error-Code": fault[1]} if fault[1] else {}
            _answer(request, fault[0], {"error": "said so"}, headers)
            return
        with self._lock:
            status, content, headers = self._answer(request, path, body)

        # A part of a file, which may have no end.
        asked = request.headers.get("Range", "").removeprefix("bytes=")
        if asked and status == 200 and request.command == "GET":
            first, last = asked.split("-")
            size, start = len(content), int(first)
            end = min(int(last or size - 1), size - 1)
            status, content = 206, content[start : end + 1]
            headers = headers | {"Content-Range": f"bytes {start}-{end}/{size}"}
        _answer(request, status, content, headers, is_cut=fault == "cut")

    def _answer(self, request, path: str, body: bytes):
        method, parts = request.command, path.strip("/").split("/")
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", WRITER, READER):
            problem = {"X-Error-Message": "Invalid credentials in Authorization header"}
            return 401, {"error": "Invalid credentials"}, problem
        if parts[0] == "lfs":
            return self._large(request, method, parts[1], body)
        if method == "POST" and "validate-yaml" not in path and token != WRITER:
            return (403 if token else 401), {"error": "no"}, {"X-Error-Message": "may not write"}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml" or path == "/":
            return 200, {"errors": [], "warnings": []}, {}
        is_api = parts[0] == "api"
        name = "/".join(parts[2:4] if is_api else parts[1:3]).removesuffix(".git")
        if name not in self.repos or (self.private[name] and not token):
            missing = {"X-Error-Code": "RepoNotFound"} if token else {}
            return (404 if token else 401), {"error": "Repository not found"}, missing
        if not is_api and path.endswith("/objects/batch"):
            return 200, self._batch(json.loads(body)), {}
        rest = parts[4:] if is_api else parts[3:]
        return self._of_repo(request, name, rest or ["revision"], body)

    def _of_repo(self, request, name: str, rest: list[str], body: bytes):
        verb, revision = rest[0], rest[1] if len(rest) > 1 else "main"
        shas = [self.sha(name, i) for i in range(len(self.repos[name]))]
        number = {"main": len(shas) - 1} | {sha: i for i, sha in enumerate(shas)}
        if revision not in number:
            return 404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"}
        files, sha = self.repos[name][number[revision]], shas[number[revision]]
        if verb == "revision":
            return 200, {"id": name, "sha": sha, "private": self.private[name]}, {}
        if verb == "tree":
            return 200, [_entry(path, data) for path, data in sorted(files.items())], {}
        if verb == "preupload":
            asked = [f["path"] for f in json.loads(body)["files"]]
            modes = [(p, "lfs" if p.endswith(LARGE) else "regular") for p in asked]
            return 200, {"files": [_mode(p, mode) for p, mode in modes]}, {}
        if verb == "commit":
            return self._commit(name, [json.loads(line) for line in body.splitlines()])
        return self._resolve(files, sha, "/".join(rest[2:]))

    def _create(self, asked: dict):
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.repos:
            return (
                409,
                {"error": "You already created it", "url": f"{self.url}/datasets/{name}"},
                {},
            )
        self.repos[name] = [{".gitattributes": b"*.tar filter=lfs\n"}]
        self.private[name] = asked.get("visibility") == "private" or asked.get("private") is True
        return 200, {"url": f"{self.url}/datasets/{name}", "name": name, "id": name}, {}

    def _batch(self, asked: dict) -> dict:
        objects = []
        for each in asked["objects"]:
            found = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.objects:
                found["actions"] = {"upload": {"href": f"{self.url}/lfs/{each['oid']}"}}
            objects.append(found)
        return {"transfer": "basic", "objects": objects}

    def _large(self, request, method: str, oid: str, body: bytes):
        if method == "PUT":
            if hashlib.sha256(body).hexdigest() != oid:
                return 400, {"error": "other content"}, {}
            self.objects[oid] = body
            return 200, {}, {"ETag": f'"{oid}"'}
        return 200, self.objects[oid], {"ETag": f'"{oid}"'}

    def _commit(self, name: str, lines: list[dict]):
        files = dict(self.repos[name][-1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    return 400, {"error": "the object was not uploaded"}, {}
                files[value["path"]] = self.objects[value["oid"]]
        self.repos[name].append(files)
        sha = self.sha(name)
        return 200, {"commitUrl": f"{self.url}/{name}/commit/{sha}", "commitOid": sha}, {}

    def _resolve(self, files: dict[str, bytes], sha: str, path: str):
        if path not in files:
            return 404, {"error": "no entry"}, {"X-Error-Code": "EntryNotFound"}
        data, entry = files[path], _entry(path, files[path])
        common = {"X-Repo-Commit": sha}
        if "lfs" in entry:
            oid = entry["lfs"]["oid"]
            linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
            elsewhere = self.url.replace("127.0.0.1", "localhost")  # as that of a large file is
            return 302, b"", common | linked | {"Location": f"{elsewhere}/lfs/{oid}"}
        return 200, data, common | {"ETag": f'"{entry["oid"]}"'}


def _entry(path: str, data: bytes) -> dict:
    if path.endswith(LARGE):
        oid = hashlib.sha256(data).hexdigest()
        lfs = {"oid": oid, "size": len(data), "pointerSize": 134}
        return {"type": "file", "path": path, "size": len(data), "oid": oid[:40], "lfs": lfs}
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return {"type": "file", "path": path, "size": len(data), "oid": blob}


def _mode(path: str, mode: str) -> dict:
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}


def _chunked(file) -> bytes:
    data = b""
    while size := int(file.readline().split(b";")[0], 16):
        data += file.read(size)
        file.readline()
    file.readline()
    return data


def _answer(request, status: int, content, headers=None, is_cut: bool = False) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data[: len(data) // 2] if is_cut else data)
    request.close_connection = is_cut


def machine(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process one whose hub is the fake one, with a token that can write."""
    constants = pytest.importorskip("huggingface_hub.constants")
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/dev/null")
    monkeypatch.setenv("HF_TOKEN", WRITER)


@pytest.fixture
def hub(monkeypatch):
    """A hub without data sets, and a machine with a token that can write."""
    made = Hub()
    machine(made, monkeypatch)
    yield made
    made.close()
