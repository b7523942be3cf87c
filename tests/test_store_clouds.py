"""Caches in Google Cloud Storage and Azure hold what those in S3 hold; Azurite where it is."""

from __future__ import annotations

import contextlib
import runpy
import shutil
import socket
import subprocess
import time
import urllib.request
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import reed
from reed.cache import plan, schema, verify
from reed.cli.cache import main as cache_cli
from reed.errors import ReedError, StoreError
from reed.store import client, mirror

HERE = Path(__file__).parent
BUCKETS = SimpleNamespace(**runpy.run_path(str(HERE / "buckets.py")))
CLOUDS = SimpleNamespace(**runpy.run_path(str(HERE / "clouds.py")))
AZURITE = "azurite-blob"  # npm install azurite
# What each service answers; the same as its documentation of error codes says.
SAID = {
    "gs": {"busy": (503, "ServiceUnavailable"), "denied": (403, "AccessDenied")},
    "az": {"busy": (503, "ServerBusy"), "denied": (403, "AuthorizationPermissionMismatch")},
}
ADVICE = {"gs": "set GOOGLE_APPLICATION_CREDENTIALS", "az": "set AZURE_STORAGE_ACCOUNT_KEY"}


class Azurite(CLOUDS.Azure):
    """Microsoft's emulator in place of ours."""

    def __init__(self) -> None:
        super().__init__()
        super().close()
        port = self.url.rpartition(":")[2]
        words = [AZURITE, "--inMemoryPersistence", "--skipApiVersionCheck", "--silent"]
        words += ["--disableTelemetry", "--blobPort", port]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(ConnectionError):
                socket.create_connection(("127.0.0.1", int(port))).close()
                return
            time.sleep(0.1)
        raise TimeoutError(f"{AZURITE} does not answer")

    def make(self, bucket: str) -> None:
        """Make a container."""
        where = f"/{CLOUDS.ACCOUNT}/{bucket}?restype=container"
        about = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03"}
        about["Authorization"] = CLOUDS.signature("PUT", where, about)
        asked = urllib.request.Request(self.url + where, method="PUT", headers=about)
        urllib.request.urlopen(asked).close()

    def close(self) -> None:
        """Stop serving."""
        self._process.kill()
        self._process.wait()


@pytest.fixture(
    scope="module", params=["gs", "az", pytest.param("azurite", marks=pytest.mark.slow)]
)
def service(request):
    """A running service."""
    if request.param == "azurite" and not shutil.which(AZURITE):
        pytest.skip(f"{AZURITE} is not on the PATH; npm install azurite brings it")
    kinds = {"gs": CLOUDS.Google, "az": CLOUDS.Azure, "azurite": Azurite}
    started = kinds[request.param]()
    yield started
    started.close()


@pytest.fixture
def bucket(request, service, monkeypatch, tmp_path):
    """An empty bucket of the service, and a machine without mirrors."""
    name, scheme = BUCKETS.name_of(request), "gs" if type(service) is CLOUDS.Google else "az"
    for variable in ("SKIP_SIGNATURE", "APPLICATION_CREDENTIALS", "SERVICE_ACCOUNT"):
        monkeypatch.delenv(f"GOOGLE_{variable}", raising=False)
    service.make(name)
    there = service.environment(service.url)
    made = BUCKETS.Bucket(f"{scheme}://{name}", there, monkeypatch, tmp_path / "home")
    if isinstance(service, Azurite):  # it is slow beside other programs
        monkeypatch.setattr(client, "PATIENCE", client.Patience(tries=4, wait=0.01))
    return made


@pytest.fixture
def proxy(service):
    """The proxy before the service."""
    made = BUCKETS.Proxy(service.url)
    yield made
    made.close()


def through(bucket, service, proxy, fault) -> None:
    """Go on as another machine, which reaches the service through the proxy."""
    bucket.machine(**service.environment(proxy.url))
    proxy.asked.clear()
    proxy.fault = fault


def told(*words: str) -> str:
    """Return the one line that a command ends with."""
    result = CliRunner().invoke(cache_cli, list(words))
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1, result.output
    return result.output


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of a cache in a folder, without what stays on a machine."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name not in ("cost.jsonl",)]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def test_a_build_is_a_local_build(bucket, service, proxy, fakes, whole):
    """Also with a service that is busy now and then, and breaks off what it sends."""
    said = SAID[bucket.url[:2]]
    faults = {0: said["busy"], 3: "reset", 5: "cut"}

    def fault(method: str, path: str, n: int):
        found = faults.get(n % 9)
        return None if found == "cut" and method != "GET" else found

    through(bucket, service, proxy, fault)
    url = f"{bucket.url}/a/fake"
    fakes.build(mirror.local(url))
    assert bucket.objects("a/fake") == files_of(whole)
    bucket.machine(**service.environment(service.url))
    result = CliRunner().invoke(cache_cli, ["verify", url, "--deep"])
    assert result.output.endswith(f"{url}: 16 shards checked, 0 problems\n")


def test_it_is_read_by_ranges_and_through_copies(bucket, service, proxy, whole, tmp_path):
    url = bucket.upload(whole, "fake")
    through(bucket, service, proxy, lambda *_: None)
    with reed.open_cache(url) as cache, reed.open_cache(whole) as local:
        mine, theirs = (dict(c.records("tokens/tokens")) for c in (cache, local))
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[key], value) for key, value in theirs.items())
        mirror.of(cache.folder).keep(tmp_path / "kept", 10**9)
        streams = [c.stream(["pixels/x"], 12) for c in (cache, local)]
        batches = zip(*(stream.batches() for stream in streams), strict=True)
        for _, both in zip(range(10), batches, strict=False):
            a, b = (stream.decode(batch) for stream, batch in zip(streams, both, strict=True))
            assert all(np.array_equal(a[name], b[name]) for name in b)
    assert list((tmp_path / "kept").rglob("*.tar*"))

    # What has not changed is not read again: a second command only lists.
    proxy.asked.clear()
    mirror.local(url)
    small = [name for (method, name), _ in proxy.asked.items() if name.endswith((".json", ".txt"))]
    assert not small


def test_two_builders_of_one_shard_end_with_one(bucket, service, proxy, fakes, whole):
    through(bucket, service, proxy, lambda *_: 0.02)
    folder = mirror.local(f"{bucket.url}/fake")
    BUCKETS.built_twice(folder, fakes.build)
    stored = bucket.objects("fake")
    wanted = {n: data for n, data in files_of(whole).items() if n.startswith("words/")}
    assert {n: data for n, data in stored.items() if n.startswith("words/")} == wanted
    assert not [p for p in verify.verify(folder, plan.load(folder), "words", deep=True) if p]


def test_a_builder_killed_before_its_marker(bucket, service, proxy, fakes, whole):
    said, url = SAID[bucket.url[:2]], f"{bucket.url}/fake"
    is_marker = "pixels/000001.json"

    def fault(method: str, path: str, n: int):
        return said["denied"] if is_marker in path and method == "PUT" else None

    through(bucket, service, proxy, fault)
    with pytest.raises(StoreError, match="status 403, these credentials may not do that"):
        fakes.build(mirror.local(url), ["pixels"])
    assert {"pixels/000001.tar"} == {n for n in bucket.objects("fake") if "000001" in n}
    folder = mirror.local(url)
    with pytest.raises(ReedError, match="has no shard"):
        schema.load_marker(folder, schema.load_column(folder, "pixels"), 1)

    # The shard is taken, one of other bytes is replaced, and the marker follows.
    bucket.put("fake/pixels/000002.tar", b"of another program")
    through(bucket, service, proxy, lambda *_: None)
    fakes.build(mirror.local(url), ["pixels"])
    for name, data in bucket.objects("fake").items():
        assert data == (whole / name).read_bytes(), name


def test_a_put_that_must_not_replace(bucket, tmp_path):
    (tmp_path / "one").write_bytes(b"first")
    (tmp_path / "two").write_bytes(b"second")
    there = client.Client(f"{bucket.url}/x")
    entry = there.put("a", tmp_path / "one", create=True)
    with pytest.raises(client.Exists):
        there.put("a", tmp_path / "two", create=True)
    data, found = there.get("a")
    assert data == b"first" and found == entry == there.head("a") == there.list()["a"]
    assert bytes(there.read("a", 1, 4, entry.tag)) == b"irs"

    # A reader of the first sees that there is a second.
    there.put("a", tmp_path / "two", create=False)
    with pytest.raises(StoreError, match="x/a: status 412, the object has changed meanwhile"):
        there.read("a", 1, 4, entry.tag)
    there.delete("a")
    there.delete("a")
    assert there.head("a") is None and there.list() == {}
    with pytest.raises(client.Absent):
        there.get("a")


def test_a_large_file_that_breaks_off_is_not_there(bucket, service, proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "PARTS", 20 << 20)
    data = bytes(range(256)) * (96 << 10)  # 24 MiB
    (tmp_path / "large").write_bytes(data)
    said = SAID[bucket.url[:2]]
    ends = ("uploadId", "comp=blocklist")

    def fault(method: str, path: str, n: int):
        is_last = any(end in path for end in ends) and "partNumber" not in path
        return said["denied"] if is_last and method in ("POST", "PUT") else None

    through(bucket, service, proxy, fault)
    there = client.Client(f"{bucket.url}/x")
    with pytest.raises(StoreError, match="status 403"):
        there.put("large", tmp_path / "large", create=True)
    assert there.head("large") is None and there.list() == {}

    through(bucket, service, proxy, lambda *_: None)
    there = client.Client(f"{bucket.url}/x")
    assert there.put("large", tmp_path / "large", create=True).size == len(data)
    assert bucket.get("x/large") == data
    with pytest.raises(client.Exists):
        there.put("large", tmp_path / "large", create=True)


def test_bad_places(bucket, service, monkeypatch, whole):
    scheme = bucket.url[:2]
    what = {"gs": "bucket", "az": "container"}[scheme]
    assert f"status 404, there is no such {what}" in told("info", f"{scheme}://no-such-place/x")
    assert f"no cache at {bucket.url}/x" in told("info", f"{bucket.url}/x")

    # Credentials that are wrong, and none.
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "of another")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "b3RoZXI=")
    bucket.machine()
    wrong = {"gs": "the store does not know these cred", "az": "the store does not accept these"}
    if isinstance(service, Azurite):  # it answers AuthorizationFailure, Azure AuthenticationFailed
        wrong["az"] = "status 403, these credentials may not do that"
    assert wrong[scheme] in told("info", f"{bucket.url}/x")
    for name in ("GOOGLE_BEARER_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.delenv(name)
    bucket.machine()
    began = time.monotonic()
    assert f"no credentials; {ADVICE[scheme]}" in told("info", f"{bucket.url}/x")
    assert time.monotonic() - began < 30
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    bucket.machine()
    assert "status 403" in told("info", f"{bucket.url}/x")
    if scheme == "az":
        monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
        bucket.machine()
        assert "set AZURE_STORAGE_ACCOUNT_NAME" in told("info", f"{bucket.url}/x")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((403, "AuthenticationFailed"), "check the key or the token, until when it is valid"),
        ((401, "ExpiredToken"), "the credentials have expired; renew them, then rerun to go on"),
        ((403, "RequestTimeTooSkewed"), "the clock of this machine is wrong"),
        ((409, "BlobImmutableDueToPolicy"), "a policy keeps the object from being changed"),
        ((400, "InvalidArgument"), "status 400, InvalidArgument: said so"),
    ],
)
def test_what_ends_a_build(bucket, service, proxy, fakes, answer, said):
    def fault(method: str, path: str, n: int):
        return answer if "000001.tar" in path and method == "PUT" else None

    through(bucket, service, proxy, fault)
    with pytest.raises(StoreError) as error:
        fakes.build(mirror.local(f"{bucket.url}/fake"), ["caption"])
    line = str(error.value)
    assert line.startswith(f"cannot write {bucket.url}/fake/caption/000001.tar: ")
    assert said in line and "(1 attempt, " in line and "\n" not in line
