"""What goes wrong between here and an object store: tried again, or told in one line."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import reed
from reed.cache import schema, verify
from reed.cache.plan import load
from reed.cli.cache import main as cache_cli
from reed.errors import ReedError, StoreError
from reed.store import client, mirror, reasons
from reed.train import checkpoint

HERE = Path(__file__).parent
TINY = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_cache.py")))
BUCKETS = SimpleNamespace(**runpy.run_path(str(HERE / "buckets.py")))
server, proxy, bucket = BUCKETS.server, BUCKETS.proxy, BUCKETS.bucket


def through(bucket, proxy, fault=None) -> None:
    """Go on as another machine, which reaches the server through the proxy."""
    bucket.machine(AWS_ENDPOINT_URL=proxy.url)
    proxy.fault = fault or (lambda *_: None)


def told(*words: str) -> str:
    """Return the one line that a command ends with."""
    result = CliRunner().invoke(cache_cli, list(words))
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1, result.output
    return result.output


FAULTS = {
    "unavailable": lambda method, path, n: 503 if n % 3 == 0 else None,
    "reset": lambda method, path, n: "reset" if n % 4 == 1 else None,
    "cut": lambda method, path, n: "cut" if n % 3 == 0 and method == "GET" else None,
    "late": lambda method, path, n: 0.02,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost(bucket, proxy, fakes, whole, fault):
    through(bucket, proxy, FAULTS[fault])
    url = f"{bucket.url}/fake"
    fakes.build(mirror.local(url), ["caption"])
    through(bucket, proxy, FAULTS[fault])
    with reed.open_cache(url) as cache, reed.open_cache(whole) as local:
        assert dict(cache.records("caption/text")) == dict(local.records("caption/text"))
    stored = bucket.objects("fake")
    assert {n for n in stored if "/" in n} == {
        f"caption/{p.name}" for p in (whole / "caption").iterdir() if p.name != "cost.jsonl"
    }
    assert all((whole / name).read_bytes() == data for name, data in stored.items())


def test_a_store_that_is_silent_once(bucket, proxy, whole):
    url = bucket.upload(whole, "fake")
    through(bucket, proxy, lambda method, path, n: "silent" if n == 3 else None)
    began = time.monotonic()
    mirror.local(url)
    assert time.monotonic() - began < 2.9, "it waits for no answer longer than its timeout"


@pytest.mark.parametrize("fault", [503, "reset", "cut"])
def test_a_store_that_stays_away(bucket, proxy, whole, fault):
    url = bucket.upload(whole, "fake")
    is_shard = "tokens/000001.tar"
    through(bucket, proxy, lambda method, path, n: fault if is_shard in path else None)
    with reed.open_cache(url) as cache, pytest.raises(StoreError) as error:
        dict(cache.records("tokens"))
    line = str(error.value)
    assert line.startswith(f"cannot read {url}/tokens/000001.tar: ") and "(4 attempts, " in line
    assert "\n" not in line and (fault != 503 or "status 503" in line)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (403, "status 403, these credentials may not do that"),
        (400, "the credentials have expired; renew them, then rerun to go on"),
    ],
)
def test_what_is_refused_is_not_tried_again(bucket, proxy, fakes, whole, fault, said):
    """No permission to write, or a token that expires during a build: a rerun goes on."""
    url = f"{bucket.url}/fake"
    through(
        bucket,
        proxy,
        lambda method, path, n: fault if "pixels/000002" in path and method == "PUT" else None,
    )
    with pytest.raises(StoreError) as error:
        fakes.build(mirror.local(url), ["pixels"])
    assert said in str(error.value) and "(1 attempt, " in str(error.value)
    assert f"cannot write {url}/pixels/000002.tar" in str(error.value)
    names = set(bucket.objects("fake"))
    assert "pixels/000001.json" in names and "pixels/000002.tar" not in names

    through(bucket, proxy)
    fakes.build(mirror.local(url), ["pixels"])
    assert bucket.objects("fake")["pixels/000002.tar"] == (whole / "pixels/000002.tar").read_bytes()
    assert proxy.asked["PUT", "000001.tar"] == 1, "what was stored is not built again"


def test_bad_places(bucket, proxy, monkeypatch):
    assert "there is no such bucket" in told("info", "s3://no-such-bucket/x")
    through(bucket, proxy, lambda *_: 403)
    assert "status 403" in told("verify", f"{bucket.url}/x")
    through(bucket, proxy)
    assert "(4 attempts" in told("info", "http://127.0.0.1:9/x")
    bucket.machine(AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert "no connection: Connection refused (4 attempts" in told("info", f"{bucket.url}/x")
    through(bucket, proxy, lambda *_: "silent")
    assert "no answer in time (4 attempts" in told("info", f"{bucket.url}/x")
    through(bucket, proxy)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "no credentials; set AWS_ACCESS_KEY_ID" in told("info", f"{bucket.url}/x")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("status code: 301 Moved: <Code>PermanentRedirect</Code>", "in another region; set AWS_RE"),
        ("status code: 403: <Code>RequestTimeTooSkewed</Code>", "the clock of this machine is"),
        ("status code: 401 Unauthorized: no", "the store does not know these credentials"),
        ("Generic S3 error: odd in 3ms - it broke\n\nDebug source: x", "it broke"),
    ],
)
def test_reasons_that_no_server_here_gives(reason, said):
    assert said in reasons.explained(reason, reasons.code(reason))


def test_an_object_that_changes_under_a_reader(bucket, whole):
    url = bucket.upload(whole, "fake")
    with reed.open_cache(url) as cache:
        key = cache.plan.keys_of(1)[0]
        bucket.put("fake/tokens/000001.tar", bytes(len(bucket.get("fake/tokens/000001.tar"))))
        with pytest.raises(StoreError, match="tokens/000001.tar: status 412, the object has chan"):
            cache["tokens/tokens"][key]
    with pytest.raises(ReedError, match="sha256 .*, its marker says .*; run reed-cache repair s3:"):
        with reed.open_cache(url) as cache:
            dict(cache.records("tokens"))
    bucket.put("fake/tokens/000001.tar", b"short")
    with reed.open_cache(url) as cache, pytest.raises(ReedError, match="5 bytes, its marker says"):
        cache["tokens/tokens"][key]


def test_a_stream_ends_with_the_line(bucket, proxy, tmp_path, one_thread):
    """A store that goes away in training ends it in one line; the same command goes on."""
    local = TINY.build(tmp_path / "local")
    url = bucket.upload(local, "tiny")
    through(bucket, proxy, lambda method, path, n: 503 if ".tar" in path and n > 60 else None)
    wanted = TINY.settings(url, tmp_path / "run", steps=12, every={"save": 1})
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"cannot read s3://.*\.tar: status 503.*\(4 attempts"):
        TINY.train(wanted, progress=False)
    assert time.monotonic() - began < 20
    through(bucket, proxy)
    TINY.trained(wanted)
    theirs = TINY.trained(TINY.settings(local, tmp_path / "theirs", steps=12))
    TINY.same(checkpoint.load(tmp_path / "run", 12), checkpoint.load(theirs, 12))


# ---- two builders of one shard


def test_a_builder_killed_before_its_marker(bucket, proxy, fakes, whole):
    url = f"{bucket.url}/fake"
    is_marker = "pixels/000001.json"
    through(
        bucket,
        proxy,
        lambda method, path, n: 403 if is_marker in path and method == "PUT" else None,
    )
    with pytest.raises(StoreError):
        fakes.build(mirror.local(url), ["pixels"])
    assert {"pixels/000001.tar"} == {n for n in bucket.objects("fake") if "000001" in n}
    assert "has no shard" in str(_no_marker(url)), "what has no marker counts as absent"

    # The shard of the first builder is taken; one of other bytes is replaced.
    bucket.put("fake/pixels/000002.tar", b"of another program")
    through(bucket, proxy)
    fakes.build(mirror.local(url), ["pixels"])
    for name, data in bucket.objects("fake").items():
        assert data == (whole / name).read_bytes(), name


def _no_marker(url: str) -> ReedError:
    folder = mirror.local(url)
    with pytest.raises(ReedError) as error:
        schema.load_marker(folder, schema.load_column(folder, "pixels"), 1)
    return error.value


@pytest.mark.parametrize("shard_is", ["ours", "theirs"])
def test_the_marker_of_another_builder(bucket, fakes, whole, shard_is):
    """Whoever puts the marker second takes the first one, unless the shard is its own."""
    url = f"{bucket.url}/fake"
    fakes.build(mirror.local(url), ["pixels"])
    folder = mirror.folder_of(url)
    column, name = schema.load_column(folder, "pixels"), "fake/pixels/000001.json"
    ours = bucket.get(name)
    other = json.loads(ours) | {"sha256": "0" * 64}
    theirs = schema.dump({k: v for k, v in other.items() if k != "self"})
    bucket.put(name, theirs)
    if shard_is == "theirs":
        bucket.put("fake/pixels/000001.tar", b"of another program")

    # As a builder that has not seen it.
    path = schema.marker_path(folder, column, 1)
    path.unlink()
    reed_files = __import__("reed.cache.files", fromlist=["write_atomic"])
    reed_files.write_atomic(path, ours)
    stays = ours if shard_is == "ours" else theirs
    assert bucket.get(name) == path.read_bytes() == stays


def test_two_builders_at_once(bucket, proxy, fakes, whole):
    through(bucket, proxy, FAULTS["late"])
    folder = mirror.local(f"{bucket.url}/fake")
    BUCKETS.built_twice(folder, fakes.build)
    stored = bucket.objects("fake")
    assert {n for n in stored if n.startswith("words/")} == {
        f"words/{p.name}" for p in (whole / "words").iterdir() if p.name != "cost.jsonl"
    }
    assert all(data == (whole / name).read_bytes() for name, data in stored.items() if "/" in name)
    assert not [p for p in verify.verify(folder, load(folder), "words", deep=True) if p]


def test_large_files_go_up_in_parts(bucket, proxy, tmp_path, monkeypatch):
    """Each part is tried again alone, and nothing is visible before the last one."""
    monkeypatch.setattr(client, "PARTS", 20 << 20)
    data = bytes(range(256)) * (96 << 10)  # 24 MiB
    (tmp_path / "large").write_bytes(data)
    seen = []

    def fault(method: str, path: str, n: int):
        seen.append("partNumber=2" in path)
        return 503 if seen[-1] and seen.count(True) < 3 else None

    through(bucket, proxy, fault)
    there = client.Client(f"{bucket.url}/x")
    entry = there.put("large", tmp_path / "large", create=True)
    assert entry.size == len(data) and bucket.get("x/large") == data
    assert sum(n for (m, _), n in proxy.asked.items() if m == "PUT") > 4
    with pytest.raises(client.Exists):
        there.put("large", tmp_path / "large", create=True)
    there.delete("large")
    there.delete("large")
    assert there.head("large") is None


@pytest.mark.slow
def test_a_build_that_is_killed_goes_on(bucket, proxy, tmp_path):
    """Killed at three places: every marker in the store has its shard, and a rerun completes it."""
    url = f"{bucket.url}/digits"
    words = [sys.executable, "-m", "reed.cli.cache", "build", "digits", "--encoder", "digits-vit"]
    subprocess.run([*words, "--cache", str(tmp_path / "local")], check=True, capture_output=True)
    for puts in (4, 9, 16):
        bucket.machine(AWS_ENDPOINT_URL=proxy.url)
        proxy.asked.clear()
        proxy.fault = lambda *_: 0.05
        child = subprocess.Popen([*words, "--cache", url], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while sum(n for (m, _), n in proxy.asked.items() if m == "PUT") < puts:
            assert child.poll() is None and time.monotonic() < until
            time.sleep(0.005)
        child.kill()
        child.wait()
        stored = bucket.objects("digits")
        markers = [n for n in stored if re.fullmatch(r".*/\d+\.json", n)]
        for name in markers:
            shard = stored[name.replace(".json", ".tar")]
            assert hashlib.sha256(shard).hexdigest() == json.loads(stored[name])["sha256"]

    proxy.fault = lambda *_: None
    subprocess.run([*words, "--cache", url], check=True, capture_output=True)
    local = [p for p in (tmp_path / "local").rglob("*.*") if p.name not in ("cost.jsonl",)]
    stored = bucket.objects("digits")
    assert {n: (tmp_path / "local" / n).read_bytes() for n in stored} == stored
    assert len(stored) == len([p for p in local if p.is_file()])
