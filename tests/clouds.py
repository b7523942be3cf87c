"""Google Cloud Storage and Azure Blob Storage on this machine, in memory; tests read it by runpy.

Each speaks the part of its service's API that a cache needs, and answers a condition that fails as
the service documents it:

- Google's XML API ("Request preconditions": `x-goog-if-generation-match: 0` on an object that is
  there, and `If-Match` with another ETag, give 412 PreconditionFailed).
- Azure's Blob REST API ("Put Blob": `If-None-Match: *` on a blob that is there gives 409
  BlobAlreadyExists; "Specifying conditional headers": a read with another ETag gives 412
  ConditionNotMet). Its listing states an ETag without quotes, its answers with them.

`tests/test_store_clouds.py` runs the same tests with Azurite where that is installed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import re
import runpy
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

LOOPBACK = runpy.run_path(str(Path(__file__).with_name("loopback.py")))
TOKEN, ACCOUNT = "ya29.token", "devstoreaccount1"
# The key that Microsoft publishes for emulators.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_UPLOAD = "<InitiateMultipartUploadResult><UploadId>{}</UploadId></InitiateMultipartUploadResult>"
_UPLOADED = "<CompleteMultipartUploadResult><ETag>{}</ETag></CompleteMultipartUploadResult>"
_PAGE = 9  # objects of one answer to a listing; the services give thousands
_DATE = "Sat, 28 Nov 2026 00:00:00 GMT"


@dataclass(frozen=True)
class Blob:
    """An object, and the ETag of its content at that time."""

    data: bytes
    tag: str


class Refused(Exception):
    """An answer that is an error: its status and its code."""


class Cloud(LOOPBACK["Server"]):
    """A running service.

    Attributes:
        url: Its address.
        buckets: Bucket (or container) -> its objects by name.
    """

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Blob]] = {}
        self._parts: dict[tuple[str, ...], bytes] = {}
        self._lock, self._count = threading.Lock(), itertools.count(1)
        super().__init__(self.serve)

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        url = urlsplit(request.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        try:
            with self._lock:
                status, data, about = self.answer(request, unquote(url.path), query, body)
        except Refused as error:
            (status, code), about = error.args, {"Content-Type": "application/xml"}
            text = "<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{}</Code></Error>"
            data = b"" if request.command == "HEAD" else text.format(code).encode()
        request.send_response(status)
        size = about.pop("Content-Length", len(data))
        for name, value in (about | {"Content-Length": size, "Last-Modified": _DATE}).items():
            request.send_header(name, str(value))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    def answer(self, request, path: str, query: dict, body: bytes):
        """Return the status, the body and the headers of an answer."""
        raise NotImplementedError

    def _objects(self, bucket: str, code: str) -> dict[str, Blob]:
        if bucket not in self.buckets:
            raise Refused(404, code)
        return self.buckets[bucket]

    def _store(self, objects: dict[str, Blob], name: str, data: bytes) -> dict[str, str]:
        tag = hashlib.md5(data + b"%d" % next(self._count)).hexdigest()
        objects[name] = Blob(data, tag)
        return {"ETag": f'"{tag}"'}

    @staticmethod
    def _read(request, blob: Blob, code: str):
        if request.headers.get("If-Match", blob.tag).strip('"') != blob.tag:
            raise Refused(412, code)
        about = {"ETag": f'"{blob.tag}"', "Content-Length": len(blob.data)}
        if request.command == "HEAD" or "Range" not in request.headers:
            return 200, blob.data, about
        first, last = map(int, re.findall(r"\d+", request.headers["Range"]))
        part = blob.data[first : last + 1]
        where = f"bytes {first}-{first + len(part) - 1}/{len(blob.data)}"
        return 206, part, about | {"Content-Length": len(part), "Content-Range": where}

    @staticmethod
    def _page(objects: dict[str, Blob], prefix: str, after: str) -> tuple[list[str], str]:
        """Return some names, and the last of them where there are more."""
        names = sorted(name for name in objects if name.startswith(prefix) and name > after)
        return names[:_PAGE], names[_PAGE - 1] if len(names) > _PAGE else ""


class Google(Cloud):
    """The XML API of Google Cloud Storage, which lists as S3 does."""

    def environment(self, url: str) -> dict[str, str]:
        """Return what makes a machine one that may use the service at a URL."""
        return {"GOOGLE_BASE_URL": url, "GOOGLE_BEARER_TOKEN": TOKEN}

    def make(self, bucket: str) -> None:
        """Make a bucket."""
        self.buckets[bucket] = {}

    def answer(self, request, path: str, query: dict, body: bytes):
        """Return the status, the body and the headers of an answer."""
        method, (bucket, _, name) = request.command, path[1:].partition("/")
        if (given := request.headers.get("Authorization")) != f"Bearer {TOKEN}":
            raise Refused(*((401, "AuthenticationRequired") if given else (403, "AccessDenied")))
        objects = self._objects(bucket, "NoSuchBucket")
        if not name:
            return self._list(objects, query)
        if "uploads" in query or "uploadId" in query:
            return self._upload(objects, method, name, query, body)
        if method == "PUT":
            if request.headers.get("x-goog-if-generation-match") == "0" and name in objects:
                raise Refused(412, "PreconditionFailed")
            return 200, b"", self._store(objects, name, body)
        if name not in objects:
            raise Refused(404, "NoSuchKey")
        if method == "DELETE":
            del objects[name]
            return 204, b"", {}
        return self._read(request, objects[name], "PreconditionFailed")

    def _list(self, objects: dict[str, Blob], query: dict):
        after = query.get("continuation-token", "")
        names, more = self._page(objects, query.get("prefix", ""), after)
        found = "".join(
            f"<Contents><Key>{escape(n)}</Key><Size>{len(objects[n].data)}</Size><LastModified>"
            f"2026-11-28T00:00:00.000Z</LastModified><ETag>&quot;{objects[n].tag}&quot;</ETag>"
            "</Contents>"
            for n in names
        )
        more = f"<NextContinuationToken>{escape(more)}</NextContinuationToken>" if more else ""
        return 200, f"<ListBucketResult>{more}{found}</ListBucketResult>".encode(), {}

    def _upload(self, objects, method: str, name: str, query: dict, body: bytes):
        """Take a part of a large object; nothing is visible before they are completed."""
        which = query.get("uploadId") or str(next(self._count))
        if method == "PUT":
            self._parts[which, query["partNumber"]] = body
            return 200, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}
        if "uploads" in query:
            return 200, _UPLOAD.format(which).encode(), {}
        if method == "POST":
            order = re.findall(r"<PartNumber>(\d+)</PartNumber>", body.decode())
            data = b"".join(self._parts.pop((which, number)) for number in order)
            tag = self._store(objects, name, data)["ETag"]
            return 200, _UPLOADED.format(escape(tag)).encode(), {}
        return 204, b"", {}


class Azure(Cloud):
    """The REST API of Azure Blob Storage, with the signature of requests."""

    def environment(self, url: str) -> dict[str, str]:
        """Return what makes a machine one that may use the service at a URL."""
        name, endpoint = ACCOUNT, f"{url}/{ACCOUNT}"
        ours = {"ACCOUNT_NAME": name, "ACCOUNT_KEY": KEY, "ENDPOINT": endpoint}
        return {f"AZURE_STORAGE_{key}": value for key, value in ours.items()}

    def make(self, bucket: str) -> None:
        """Make a container."""
        self.buckets[bucket] = {}

    def answer(self, request, path: str, query: dict, body: bytes):
        """Return the status, the body and the headers of an answer."""
        method, parts = request.command, path.split("/", 3)
        theirs = request.headers.get("Authorization", "")
        if theirs != signature(method, request.path, dict(request.headers)):
            raise Refused(403, "AuthenticationFailed")
        objects = self._objects(parts[2], "ContainerNotFound")
        name = parts[3] if len(parts) > 3 else ""
        if query.get("comp") == "batch":
            return self._batch(objects, body.decode())
        if not name:
            return self._list(objects, query)
        if query.get("comp") == "block":
            self._parts[name, query["blockid"]] = body
            return 201, b"", {}
        if method == "PUT":
            if request.headers.get("If-None-Match") == "*" and name in objects:
                raise Refused(409, "BlobAlreadyExists")
            if query.get("comp") == "blocklist":
                order = re.findall("<Uncommitted>(.*?)</Uncommitted>", body.decode())
                body = b"".join(self._parts.pop((name, block)) for block in order)
            return 201, b"", self._store(objects, name, body)
        if name not in objects:
            raise Refused(404, "BlobNotFound")
        status, data, about = self._read(request, objects[name], "ConditionNotMet")
        return status, data, about | {"x-ms-blob-type": "BlockBlob"}

    def _list(self, objects: dict[str, Blob], query: dict):
        names, more = self._page(objects, query.get("prefix", ""), query.get("marker", ""))
        found = "".join(
            f"<Blob><Name>{escape(n)}</Name><Properties><Last-Modified>{_DATE}</Last-Modified>"
            f"<Content-Length>{len(objects[n].data)}</Content-Length><Content-Type/>"
            f"<Etag>{objects[n].tag}</Etag></Properties></Blob>"
            for n in names
        )
        page = f"<Blobs>{found}</Blobs><NextMarker>{escape(more)}</NextMarker>"
        return 200, f"<EnumerationResults>{page}</EnumerationResults>".encode(), {}

    def _batch(self, objects: dict[str, Blob], body: str):
        """Remove several blobs in one request."""
        lines = ""
        for number, path in re.findall(r"Content-ID: (\d+)\r\n\r\nDELETE (\S+) HTTP", body):
            name = unquote(path).split("/", 3)[3]
            status = "202 Accepted" if objects.pop(name, None) else "404 Not Found"
            about = "" if status[0] == "2" else "x-ms-error-code: BlobNotFound\r\n"
            lines += f"--batch_1\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\n"
            lines += f"HTTP/1.1 {status}\r\n{about}Content-Length: 0\r\n\r\n"
        about = {"Content-Type": "multipart/mixed; boundary=batch_1"}
        return 202, f"{lines}--batch_1--\r\n".encode(), about


def signature(method: str, target: str, headers: dict[str, str]) -> str:
    """Return what a request is signed with ("Authorize with Shared Key")."""
    url, given = urlsplit(target), {name.lower(): value for name, value in headers.items()}
    if given.get("content-length") == "0":
        del given["content-length"]
    names = [f"content-{name}" for name in ("encoding", "language", "length", "md5", "type")]
    names += ["date", "if-modified-since", "if-match", "if-none-match", "if-unmodified-since"]
    plain = [given.get(name, "") for name in (*names, "range")]
    ours = "".join(f"{n}:{v}\n" for n, v in sorted(given.items()) if n.startswith("x-ms-"))
    rest = "".join(f"\n{name}:{value}" for name, value in sorted(parse_qsl(url.query)))
    text = "\n".join((method, *plain, f"{ours}/{ACCOUNT}{url.path}{rest}"))
    key = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    return f"SharedKey {ACCOUNT}:{base64.b64encode(key).decode()}"
