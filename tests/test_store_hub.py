"""A cache in a data set of the hub is read without a copy: one commit of it, by ranges."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import reed
from reed.cli.cache import main as cache_cli
from reed.cli.train import main as train_cli
from reed.errors import ReedError, StoreError
from reed.store import hub_repo, mirror

# The library of the hub hands its files to its own network library in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
HERE = Path(__file__).parent
FAKE = SimpleNamespace(**runpy.run_path(str(HERE / "fake_hub.py")))
TINY = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_cache.py")))
hub = FAKE.hub
URL, NAME = "hf://datasets/me/tiny", "me/tiny"


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A function that goes on as on another machine, which has read nothing yet."""
    count = iter(range(99))

    def another() -> None:
        monkeypatch.setattr(mirror, "_open", {})
        monkeypatch.setattr(mirror.hub, "_pins", {})
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"home{next(count)}"))

    another()
    monkeypatch.setattr(hub_repo, "WAIT", 0.01)
    monkeypatch.setattr(hub_repo, "TRIES", 3)
    return another


def place(hub, folder: Path, name: str = NAME) -> str:
    """Have a commit with the files of a cache; return its URL."""
    paths = [p for p in folder.rglob("*.*") if p.is_file() and p.name != "cost.jsonl"]
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}
    hub.repos.setdefault(name, []).append(files)
    hub.private.setdefault(name, False)
    large = [n for n in files if n.endswith(FAKE.LARGE)]
    hub.objects |= {FAKE.hashlib.sha256(files[n]).hexdigest(): files[n] for n in large}
    return f"hf://datasets/{name}"


def run(command, *words: object) -> str:
    """Run a command that must succeed."""
    result = CliRunner().invoke(command, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def told(*words: object) -> str:
    """Return the one line that a command ends with."""
    result = CliRunner().invoke(cache_cli, [str(word) for word in words])
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1, result.output
    return result.output


def test_every_command_reads_it(hub, whole, machine, tmp_path, monkeypatch):
    url, pinned = place(hub, whole), f"{URL}@{hub.sha(NAME)}"
    monkeypatch.chdir(tmp_path)
    here, there = (run(cache_cli, "info", where).splitlines() for where in (whole, url))
    assert here[1:] == there[1:] and there[0].startswith(f"{pinned}: ")
    assert run(cache_cli, "verify", url, "--deep").endswith(
        f"{pinned}: 16 shards checked, 0 problems\n"
    )
    run(cache_cli, "peek", url, "random", "--out", "sample.png")
    with reed.open_cache(url) as cache, reed.open_cache(whole) as local:
        mine, theirs = (dict(c.records("tokens/tokens")) for c in (cache, local))
    assert mine.keys() == theirs.keys()
    assert all(np.array_equal(mine[key], value) for key, value in theirs.items())
    del hub.repos[NAME][-1]["tokens/000001.json"]
    machine()
    for words in (("rm", f"{url}/tokens", "--force"), ("reindex", url)):
        assert "a data set of the hub can only be read here; build in a folder" in told(*words)


def test_one_record_needs_no_whole_shard(hub, whole):
    url = place(hub, whole)
    with reed.open_cache(url) as cache, reed.open_cache(whole) as local:
        keys = list(local.plan.keys_of(0))
        for key in keys:
            np.testing.assert_array_equal(cache["tokens/tokens"][key], local["tokens/tokens"][key])
        assert not list(cache.folder.rglob("*.tar")) and len(keys) > 3

    # The hub is asked once where the shard is; the signed address then serves all records.
    resolved = hub.asked["GET", "resolve"]
    small = sum(1 for name in hub.files(NAME) if not name.endswith(".tar"))
    assert resolved <= small + 1 and hub.asked["GET", "lfs"] >= len(keys)


@pytest.mark.parametrize("how", ["ranges", "kept"])
def test_training_is_bit_equal(hub, machine, tmp_path, how, one_thread):
    local = TINY.build(tmp_path / "local")
    url = place(hub, local)
    ours = TINY.from_both(url, local, tmp_path, how, steps=4)
    words = ["--config", str(ours / "config.json"), "--dry-run", "--run", str(tmp_path / "x")]
    assert f'"shards": "{url}"' in run(train_cli, *words)


def test_a_push_under_a_reader_does_not_mix(hub, whole, machine, tmp_path):
    url, before = place(hub, whole), hub.sha(NAME)
    with reed.open_cache(url) as cache:
        other = shutil.copytree(whole, tmp_path / "other")
        for path in other.glob("tokens/*.tar"):
            path.write_bytes(bytes(path.stat().st_size))
        for path in other.glob("tokens/*.json"):
            path.write_text("{}")
        place(hub, other)
        with reed.open_cache(whole) as local:
            for key, value in local.records("tokens/tokens"):
                np.testing.assert_array_equal(cache["tokens/tokens"][key], value)
            assert cache.folder.name == "tiny" and cache.folder.parent.name == before

    # The next opening has the new commit, and the old one can be named.
    assert "16 shards checked, 4 problems" not in run(cache_cli, "verify", f"{url}@{before}")
    assert CliRunner().invoke(cache_cli, ["verify", url]).exit_code != 0
    asked = sum(hub.asked.values())
    mirror.local(f"{url}@{before}")
    assert sum(hub.asked.values()) == asked, "a commit that is there is not asked for again"


def test_places_whose_names_differ_after_a_dot_are_kept_apart(machine, tmp_path):
    at = {f"{URL}{more}": str(i) * 40 for i, more in enumerate((".a", ".b", "@v1.0", "@v1.1"))}
    at |= {URL: "7" * 40, f"{URL}@feat/x": "8" * 40}
    for url, commit in at.items():
        path = mirror.hub._pin(url, tmp_path)
        path.parent.mkdir(parents=True)
        path.write_text(f"{URL}@{commit}")
    found = {url: mirror.hub.last_pinned(url, tmp_path) for url in at}
    assert found == {url: f"{URL}@{commit}" for url, commit in at.items()}


def test_what_may_pass_is_tried_again(hub, whole):
    """Busy, broken off, and a signed address that has expired."""
    url, seen = place(hub, whole), set()

    def fault(method, path):
        if path in seen or method != "GET":
            return None
        seen.add(path)
        return {0: 503, 1: "cut"}.get(len(seen) % 3)

    hub.fault = fault
    with reed.open_cache(url) as cache, reed.open_cache(whole) as local:
        theirs = dict(local.records("tokens/tokens"))
        expired = []

        def expire(method, path):
            is_large = path.startswith("/lfs/")
            expired.append(is_large)
            return 403 if is_large and expired.count(True) == 5 else None

        hub.fault = expire
        for key, value in theirs.items():
            np.testing.assert_array_equal(cache["tokens/tokens"][key], value)
        assert expired.count(True) > 5

        # One that stays away is told with the file and the attempts.
        hub.fault = lambda method, path: 503
        key = next(iter(theirs))
        where = f"cannot read {URL}@{hub.sha(NAME)}/tokens/000000.tar: status 503"
        with pytest.raises(StoreError) as error:
            cache["tokens/tokens"][key]
        assert str(error.value).startswith(where) and "(3 attempts)" in str(error.value)
        assert "\n" not in str(error.value)


def test_bad_places(hub, whole, machine, monkeypatch):
    url = place(hub, whole)
    assert "there is no such data set, or this token may not see it" in told("info", f"{url}x")
    assert "there is no revision 'v9'" in told("info", f"{url}@v9")
    assert "is no data set of the hub; write hf://datasets/OWNER/NAME" in told(
        "info", "hf://models/x"
    )
    hub.repos["me/empty"], hub.private["me/empty"] = [{"README.md": b"x"}], False
    assert "no cache at hf://datasets/me/empty@" in told("info", "hf://datasets/me/empty")

    # Its owner lets in only some; the token is not known; there is no network.
    is_file = "/resolve/"
    hub.fault = lambda method, path: (403, "GatedRepo") if is_file in path else None
    assert "its owner lets in only who has asked; ask on its page" in told("info", url)
    hub.fault = lambda *_: None
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "the hub does not know this token; run hf auth login" in told("info", url)
    monkeypatch.delenv("HF_TOKEN")
    hub.private[NAME] = True
    assert "this token may not see it" in told("info", url)
    constants = hub_repo.hub.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids the network; unset it" in told("info", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 does not answer" in told("info", url)


def test_a_damaged_shard_is_found(hub, whole, tmp_path):
    other = shutil.copytree(whole, tmp_path / "other")
    shard = other / "tokens" / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    url = place(hub, other)
    with reed.open_cache(url) as cache, pytest.raises(ReedError, match="sha256 .*marker says"):
        dict(cache.records("tokens"))
    result = CliRunner().invoke(cache_cli, ["verify", url, "--deep"])
    assert "tokens/000001.tar" in result.output and "1 problem" in result.output
