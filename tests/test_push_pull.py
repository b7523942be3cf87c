"""A cache goes to the hub and comes back, against a hub of this machine."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import reed
from reed.bytes import file_sha256
from reed.exchange import push
from reed.store import hub_repo

# The library of the hub hands its files to its own network library in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
HERE = Path(__file__).parent
FAKE = SimpleNamespace(**runpy.run_path(str(HERE / "fake_hub.py")))
hub = FAKE.hub
URL, NAME = "hf://datasets/me/tiny", "me/tiny"
LOCAL = ("cost.jsonl", "seen.json")


COMMANDS = runpy.run_path(str(Path(__file__).with_name("commands.py")))
run, refused = COMMANDS["run"], COMMANDS["refused"]


def files_of(folder: Path) -> dict[str, bytes]:
    """The files that a cache consists of."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name not in LOCAL]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


@pytest.fixture(scope="module")
def whole(fakes, tmp_path_factory):
    """Pixels and tokens of 20 samples, one of which fails, in three shards."""
    folder = tmp_path_factory.mktemp("push") / "tiny"
    source = fakes.Source(20, bad=(3,))
    return fakes.build(folder, ("pixels", "tokens"), source, shard_size=8, max_failed=0.1)


@pytest.fixture
def cache(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "tiny")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(hub_repo, "WAIT", 0.01)
    monkeypatch.setattr(hub_repo, "TRIES", 3)


def test_what_was_pushed_is_pulled_byte_for_byte(hub, cache, tmp_path):
    told = run("push", cache, URL)
    assert "sent" in told and hub.private[NAME]
    stored = hub.files(NAME)
    assert {n: d for n, d in stored.items() if n not in ("README.md", ".gitattributes")} == (
        files_of(cache)
    )
    back = tmp_path / "back"
    assert "2 columns" in run("pull", URL, back)
    assert files_of(back) == files_of(cache)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    assert "0 problems" in run("verify", back, "--deep")

    # A second push sends nothing, and makes no commit.
    commits, asked = len(hub.repos[NAME]), hub.asked.copy()
    assert "0 files sent" in run("push", cache, URL)
    assert len(hub.repos[NAME]) == commits
    assert hub.asked["PUT", "lfs"] == asked["PUT", "lfs"]


def test_the_card_says_what_there_is(hub, cache):
    run("push", cache, URL, "--public")
    assert not hub.private[NAME]
    text = hub.files(NAME)["README.md"].decode()
    yaml = text.split("---\n")[1]
    assert "viewer: false" in yaml and "- n<1K" in yaml and "license: " in yaml
    manifest = json.loads((cache / "manifest.json").read_bytes())
    with reed.open_cache(cache) as opened:
        assert "20 samples, 3 shards per column" in text and manifest["keys_sha256"] in text
        for name, column in opened.columns.items():
            sizes = sum(p.stat().st_size for p in (cache / name).glob("*.tar"))
            row = next(line for line in text.splitlines() if line.startswith(f"| {name} | "))
            assert column.encoder in row and reed.bytes.human(sizes) in row
            assert all(field.name in row for field in column.fields) and "1 sample" in row
            assert f"| {name} | `{column.identity()}` | `{column.revision}` |" in text

    # A card of somebody else stays.
    hub.repos[NAME][-1]["README.md"] = b"# Mine\n"
    assert "stays as it is" in run("push", cache, URL)
    assert hub.files(NAME)["README.md"] == b"# Mine\n"


def test_columns_one_after_the_other(hub, cache, tmp_path):
    run("push", cache, URL, "--column", "pixels")
    assert not any(name.startswith("tokens/") for name in hub.files(NAME))
    back = tmp_path / "back"
    run("pull", URL, back)
    before = files_of(back)
    assert "0 columns" in run("pull", URL, back)
    run("push", cache, URL)
    assert "(tokens)" in run("pull", URL, back)
    assert files_of(back) == files_of(cache) and before.items() <= files_of(back).items()
    (back / "tokens" / "000001.json").unlink()
    told = refused("pull", URL, back)
    assert f"column 'tokens' of {back} is there and is not whole" in told and "cache rm" in told
    shutil.rmtree(back)
    assert "1 column," in run("pull", f"{URL}@{hub.sha(NAME)}", back, "--column", "tokens")
    assert not (back / "pixels").exists()


def test_a_killed_push_goes_on(hub, cache, monkeypatch):
    monkeypatch.setattr(push, "FILES", 2)
    sent = []

    def fault(method, path):
        if "/commit/" in path:
            sent.append(path)
            return 403 if len(sent) == 3 else None
        return None

    hub.fault = fault
    assert "may not do that" in refused("push", cache, URL)
    assert "manifest.json" not in hub.files(NAME)  # so it is no cache
    assert "holds no cache" in refused("pull", URL, cache.with_name("no"))
    assert not cache.with_name("no").exists()
    hub.fault, puts = lambda *_: None, hub.asked["PUT", "lfs"]
    told = run("push", cache, URL)
    assert "4 were there already" in told
    assert hub.asked["PUT", "lfs"] == 7 and puts >= 2  # six shards and a calibration
    assert files_of(cache).items() <= hub.files(NAME).items()


def test_errors_that_pass_are_tried_again(hub, cache, tmp_path):
    spoiled = set()

    def fault(method, path):
        for part in ("/commit/", "/tree/"):
            if part in path and part not in spoiled:
                spoiled.add(part)
                return 503
        if method == "GET" and path.startswith("/lfs/") and path not in spoiled:
            spoiled.add(path)
            return "cut"
        return None

    hub.fault = fault
    run("push", cache, URL)
    run("pull", URL, tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(cache)
    assert len(spoiled) == 2 + 7


def test_a_pull_that_stopped_goes_on(hub, cache, tmp_path):
    run("push", cache, URL)
    back, got = tmp_path / "back", []

    def fault(method, path):
        if method == "GET" and path.startswith("/lfs/"):
            got.append(path)
            return 404 if len(got) > 3 else None
        return None

    hub.fault = fault
    assert "cannot read" in refused("pull", URL, back)
    assert not back.exists() and (tmp_path / ".back.pulling").is_dir()
    hub.fault, before = lambda *_: None, hub.asked["GET", "lfs"]
    run("pull", URL, back)
    assert hub.asked["GET", "lfs"] - before == 4  # of seven, three were there
    assert files_of(back) == files_of(cache) and not (tmp_path / ".back.pulling").exists()


def test_a_shard_that_is_not_its_marker_does_not_appear(hub, cache, tmp_path):
    run("push", cache, URL)
    hub.repos[NAME][-1]["tokens/000001.tar"] = other = b"other" * 100
    hub.objects[hashlib.sha256(other).hexdigest()] = other
    told = refused("pull", URL, tmp_path / "back")
    digest = file_sha256(cache / "tokens" / "000001.tar")[:12]
    assert "tokens/000001.tar: sha256" in told and digest in told and "push that column" in told
    assert not (tmp_path / "back").exists()


def test_what_cannot_be_pushed_is_one_line(hub, fakes, cache, tmp_path, monkeypatch):
    assert "no column 'tokns'. Did you mean 'tokens'?" in refused(
        "push", cache, URL, "--column", "tokns"
    )
    assert "write hf://datasets/OWNER/NAME" in refused("push", cache, "hf://me/tiny")
    run("push", cache, URL)
    other = fakes.build(tmp_path / "other", ("pixels",), fakes.Source(10), shard_size=8)
    told = refused("push", other, URL)
    assert "holds another cache: 20 samples" in told and "10 samples" in told
    assert "is another cache than" in refused("pull", URL, other)
    (tmp_path / "file").mkdir()
    assert "is there and is no cache" in refused("pull", URL, tmp_path / "file")
    assert "no column 'x'" in refused("pull", URL, tmp_path / "b", "--column", "x")
    assert "no revision 'v9'" in refused("pull", f"{URL}@v9", tmp_path / "b")

    # A column of that name that was made otherwise, a damaged shard, a missing one, no column.
    described = cache / "tokens" / "column.json"
    text = described.read_text()
    hub.repos[NAME][-1]["tokens/column.json"] = b"{}"
    assert "made in another way" in refused("push", cache, URL)
    hub.repos[NAME][-1]["tokens/column.json"] = text.encode()
    shard = cache / "tokens" / "000001.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    del hub.repos[NAME][-1]["tokens/000001.tar"]
    assert "its marker says" in refused("push", cache, URL)
    shard.unlink()
    assert "repair it first" in refused("push", cache, URL)
    for name in ("tokens", "pixels"):
        shutil.rmtree(cache / name)
    assert "has no columns" in refused("push", cache, URL)


def test_who_may_not_is_told_in_one_line(hub, cache, tmp_path, monkeypatch):
    assert "no such data set" in refused("pull", "hf://datasets/me/gone", tmp_path / "b")
    run("push", cache, URL)
    monkeypatch.setenv("HF_TOKEN", FAKE.READER)
    (cache / "pixels" / "column.json").touch()
    hub.repos[NAME].append({".gitattributes": b""})
    told = refused("push", cache, URL)
    assert "may not do that" in told
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not know this token" in refused("pull", URL, tmp_path / "b")
    monkeypatch.delenv("HF_TOKEN")
    assert "no token of the hub" in refused("push", cache, URL)
    assert "no such data set, or this token" in refused("pull", URL, tmp_path / "b")


def test_a_hub_that_fails_is_one_line(hub, cache, tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    hub.fault = lambda method, path: 500 if "/api/datasets" in path else None
    told = refused("pull", URL, tmp_path / "b")
    assert "status 500" in told and "rerun to go on" in told
    hub.fault = lambda method, path: None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused("pull", URL, tmp_path / "b")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "does not answer" in refused("push", cache, URL)


@pytest.mark.slow
def test_a_push_that_is_killed_at_any_moment_is_finished_by_the_next(hub, cache, tmp_path):
    words = [sys.executable, "-m", "reed.cli.cache", "push", str(cache), URL]
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": FAKE.WRITER, "HF_HUB_DISABLE_XET": "1"}
    slow = lambda method, path: time.sleep(0.05)  # noqa: E731
    hub.fault = slow
    for number in range(6):
        process = subprocess.Popen(words, env=os.environ | settings)
        while sum(hub.asked.values()) < 8 + 4 * number and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(words, env=os.environ | settings).returncode == 0
    run("pull", URL, tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(cache)
