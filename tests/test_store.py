"""A cache in an object store is the cache of a folder: built, read, checked and mended there."""

from __future__ import annotations

import runpy
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import obstore
import pytest
from click.testing import CliRunner

import reed
from reed.cache import mend, plan, verify
from reed.cli.cache import main as cache_cli
from reed.cli.train import main as train_cli
from reed.errors import ReedError
from reed.jobs import JobSpec
from reed.store import mirror

HERE = Path(__file__).parent
TINY = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_cache.py")))
BUCKETS = SimpleNamespace(**runpy.run_path(str(HERE / "buckets.py")))
server, proxy, bucket = BUCKETS.server, BUCKETS.proxy, BUCKETS.bucket
LOCAL = ("cost.jsonl", "seen.json")


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of a cache in a folder, without what stays on a machine."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name not in LOCAL]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def run(command, *words: str) -> str:
    """Run a command that must succeed."""
    result = CliRunner().invoke(command, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def refused(command, *words: str) -> str:
    """Run a command that must end with one line of error."""
    result = CliRunner().invoke(command, list(words))
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1, result.output
    return result.output


def values(place, name: str = "tokens/tokens") -> dict[str, np.ndarray]:
    with reed.open_cache(place) as cache:
        return dict(cache.records(name))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Web(ThreadingHTTPServer):
    request_queue_size = 64


def test_a_build_in_a_store_is_a_local_build(bucket, fakes, whole):
    folder = mirror.local(f"{bucket.url}/a/fake")
    fakes.build(folder)
    assert bucket.objects("a/fake") == files_of(whole)
    assert not list(folder.glob("*/*.tar")), "shards are copies elsewhere"

    # A second build of the same has nothing to do, on this machine and on another one.
    for _ in range(2):
        before = {m["path"]: m["e_tag"] for batch in obstore.list(bucket.raw) for m in batch}
        fakes.build(mirror.local(f"{bucket.url}/a/fake"))
        after = {m["path"]: m["e_tag"] for batch in obstore.list(bucket.raw) for m in batch}
        assert after == before
        bucket.machine()


def test_every_command_reads_it(bucket, whole, tmp_path, monkeypatch):
    url = bucket.upload(whole, "fake")
    monkeypatch.chdir(tmp_path)
    assert (
        run(cache_cli, "info", url).splitlines()[1:]
        == (run(cache_cli, "info", str(whole)).splitlines()[1:])
    )
    assert run(cache_cli, "verify", url).endswith(f"{url}: 16 shards checked, 0 problems\n")
    run(cache_cli, "verify", url, "--deep")
    run(cache_cli, "peek", url, "random", "--out", "sample.png")
    run(cache_cli, "convert", url, "--to", "h5", "--out", "copy")
    assert "no cache at s3://" in refused(cache_cli, "info", f"{url}-other")


def test_values_by_range_and_whole(bucket, whole):
    url = bucket.upload(whole, "fake")
    local = values(whole)
    with reed.open_cache(url) as cache:
        key = next(iter(local))
        np.testing.assert_array_equal(cache["tokens/tokens"][key], local[key])
        store = mirror.of(cache.folder)
        assert not list(store.folder.rglob("*.tar")), "one record needs no whole shard"
    remote = values(url)
    assert remote.keys() == local.keys()
    for key, value in local.items():
        np.testing.assert_array_equal(remote[key], value)


@pytest.mark.parametrize("how", ["ranges", "kept"])
def test_training_from_a_store_is_bit_equal(bucket, tmp_path, how, one_thread):
    local = TINY.build(tmp_path / "local")
    url = bucket.upload(local, "tiny")
    ours = TINY.from_both(url, local, tmp_path, how, steps=6)
    assert f'"shards": "{url}"' in (ours / "config.json").read_text()

    # The command names the run after the cache, and goes on from the URL in its settings.
    shutil.copytree(ours, tmp_path / "more")
    words = ["--config", str(ours / "config.json"), "--run", str(tmp_path / "more"), "--dry-run"]
    assert f'"shards": "{url}"' in run(train_cli, *words)


def test_a_web_server_is_read(bucket, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "www" / "fake")
    handler = partial(Quiet, directory=str(tmp_path / "www"))
    with Web(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{web.server_address[1]}/fake"
        assert "0 problems" in run(cache_cli, "verify", url, "--deep")
        assert values(url).keys() == values(whole).keys()
        told = refused(cache_cli, "reindex", url) if _lose_marker(tmp_path) else ""
        assert "this store can only be read" in told, told
        web.shutdown()


def _lose_marker(tmp_path: Path) -> bool:
    (tmp_path / "www" / "fake" / "tokens" / "000001.json").unlink()
    return True


def test_a_file_url_is_its_folder(whole):
    assert mirror.local(f"file://{whole}") == whole
    assert values(f"file://{whole}").keys() == values(whole).keys()


def test_damage_is_found_and_mended(bucket, fakes, whole):
    url = bucket.upload(whole, "fake")
    damaged = bytearray(bucket.get("fake/tokens/000001.tar"))
    damaged[1500] ^= 1
    bucket.put("fake/tokens/000001.tar", bytes(damaged))
    obstore.delete(bucket.raw, "fake/tokens/000002.tar")
    folder = mirror.local(url)
    frozen = plan.load(folder)
    found = [p for p in verify.verify(folder, frozen, "tokens", deep=True) if p]
    assert [p.where for p in found] == [f"{url}/tokens/{n:06d}.tar" for n in (1, 2)]
    assert "its marker says" in found[0].what and "missing" in found[1].what

    # Mending removes them from the store, and a build makes only these.
    assert mend.repair(folder, found) == {"tokens": [1, 2]}
    assert not [n for n in bucket.objects("fake") if n.startswith("tokens/000001")]
    fakes.build(folder)
    assert bucket.objects("fake") == files_of(whole)


def test_what_another_machine_did_is_seen(bucket, fakes, whole):
    """A mirror follows the store: shards of other builders count, and removed ones do not."""
    url = f"{bucket.url}/fake"
    fakes.build(mirror.local(url), names=["pixels"])
    first = mirror.folder_of(url)
    bucket.machine()
    fakes.build(mirror.local(url))
    assert bucket.objects("fake") == files_of(whole)

    # On the first machine again, which has an old mirror.
    bucket.machine(XDG_CACHE_HOME=str(first.parents[2].parent))
    assert len(list(mirror.local(url).glob("*/[0-9]*.json"))) == len(
        list(whole.glob("*/[0-9]*.json"))
    )
    obstore.delete(bucket.raw, "fake/tokens/000000.json")
    assert not (mirror.local(url) / "tokens" / "000000.json").exists()


def test_extend_rebuild_and_remove(bucket, fakes, tmp_path):
    url = f"{bucket.url}/fake"
    for folder in (tmp_path / "fake", mirror.local(url)):
        fakes.build(folder, ["words"], source=fakes.Source(40))
        fakes.build(folder, ["caption", "words"], source=fakes.Source(60), extend=True)
    assert bucket.objects("fake") == files_of(tmp_path / "fake")
    run(cache_cli, "rm", f"{url}/words", "--force")
    assert not [n for n in bucket.objects("fake") if n.startswith("words/")]
    plan.discard(mirror.local(url))
    assert bucket.objects("fake") == {}
    fakes.build(mirror.local(url), names=["pixels"])
    assert "manifest.json" in bucket.objects("fake")


def test_no_library(bucket, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    told = refused(cache_cli, "info", f"{bucket.url}/x")
    assert "needs obstore, which is not installed" in told and "[store]" in told


def test_a_forked_process_is_told_to_be_spawned(bucket, whole):
    with reed.open_cache(bucket.upload(whole, "fake")) as cache:
        store = mirror.of(cache.folder)
        store.client._process += 1
        with pytest.raises(ReedError, match="cannot be read in a forked process"):
            store.client.get("manifest.json")


@pytest.mark.slow
def test_a_job_for_another_machine(bucket, tmp_path, monkeypatch):
    """A Ray worker opens the cache by its URL, with a mirror of its own."""
    url, words = f"{bucket.url}/digits", ["build", "digits", "--encoder", "digits-vit"]
    run(cache_cli, *words, "--cache", url)
    folder = mirror.folder_of(url)
    spec = JobSpec.of_column(folder, "digits-vit", None, "cpu").absolute()
    bucket.machine()
    assert mirror.of(folder) is not None and spec.cache == Path(url)
    job = spec.open()
    assert job.cache == mirror.folder_of(url) != folder and job.plan.shards == 8
