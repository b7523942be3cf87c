"""What is published of a cache names no path of the machine that made it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import reed
from reed.cache import sealed
from reed.cli.cache import main as cli
from reed.exchange import private

# The library of the hub hands its files to its own network library in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
FAKE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "fake_hub.py")))
hub = FAKE.hub
URL, NAME = "hf://datasets/me/tiny", "me/tiny"


def run(*words, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture
def cache(tmp_path) -> Path:
    """An imported cache: its settings and the reason of a failure have paths of this machine."""
    data, folder = tmp_path / "secret", tmp_path / "cache"
    data.mkdir()
    latents = torch.randn(8, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    latents[3] = torch.nan
    tensors = {"latents": latents, "latents_flip": latents + 1, "labels": torch.arange(8)}
    save_file(tensors, data / "a.safetensors")
    torch.save({"mean": torch.zeros(4), "std": torch.ones(4)}, data / "latents_stats.pt")
    run("import", folder, data, "--layout", "lightningdit", "--stats", data / "latents_stats.pt")
    marker = folder / "latents" / "000000.json"
    table = sealed.read(marker)
    table["failed"] = {key: f"no such file: '{data}/x.npy'" for key in table["failed"]}
    marker.write_bytes(sealed.dump(table))
    return folder


def test_paths_of_this_machine_stay_on_it(hub, cache, tmp_path):
    told = run("push", cache, URL)
    assert "left out, as paths of this machine: latents.stats" in told
    published = dict(hub.files(NAME))
    assert not any(str(tmp_path).encode() in data for data in published.values())
    assert json.loads(published["latents/000000.json"])["failed"] == {
        "a/000003": "no such file: 'x.npy'"
    }
    mine = json.loads((cache / "latents" / "column.json").read_bytes())
    assert str(tmp_path) in mine["options"].pop("stats")
    theirs = json.loads(published["latents/column.json"])
    assert mine | {"self": ""} == theirs | {"self": ""}

    # It is sound, has the same identity, and is what the data set has when it is pushed.
    run("pull", URL, tmp_path / "back")
    assert "0 problems" in run("verify", tmp_path / "back", "--deep")
    with reed.open_cache(cache) as a, reed.open_cache(tmp_path / "back") as b:
        assert a.column("latents").identity() == b.column("latents").identity()
    commits = len(hub.repos[NAME])
    assert "0 files sent" in run("push", cache, URL)
    assert len(hub.repos[NAME]) == commits

    # What an older version has pushed is replaced.
    hub.repos[NAME][-1]["latents/column.json"] = (cache / "latents/column.json").read_bytes()
    assert "1 file sent" in run("push", cache, URL)
    assert hub.files(NAME)["latents/column.json"] == published["latents/column.json"]


def test_the_account_of_an_export_has_none_either(cache, tmp_path):
    run("export", cache, "--to", "mds", "--out", tmp_path / "mds")
    account = json.loads((tmp_path / "mds" / "export.json").read_bytes())
    assert account["left_out"]["latents"] == {"a/000003": "no such file: 'x.npy'"}


def test_the_folder_where_one_is_has_a_name(hub, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(cache)
    run("push", ".", URL)
    assert "\n# cache\n" in hub.files(NAME)["README.md"].decode()
    assert "0 columns" in run("pull", URL, ".")


def test_only_paths_of_this_machine_are_paths():
    for value in ("/data/x", "~/x", "../x", "C:\\x", "file:///data/x", "\\\\host\\x"):
        assert private.is_path(value), value
    for value in ("x", "a/b", "s3://bucket/x", "hf://datasets/me/x", "n01/a.JPEG", "", 3, None):
        assert not private.is_path(value), value
    settings = {"a": 1, "b": {"c": "/x", "d": "y"}, "e": ["/x", "y"], "f": ["y"]}
    assert private.without_paths(settings, "col.") == (
        {"a": 1, "b": {"d": "y"}, "f": ["y"]},
        ["col.b.c", "col.e"],
    )
    for text, want in {
        "cannot read /home/me/a.npz: [Errno 2]": "cannot read a.npz: [Errno 2]",
        "see https://a.b/c/d and n01/a.JPEG, 1/2": "see https://a.b/c/d and n01/a.JPEG, 1/2",
        "C:\\Users\\me\\a.npz is none": "a.npz is none",
        "'~/x/a.npz'": "'a.npz'",
    }.items():
        assert private.text(text) == want


def test_a_path_that_the_identity_depends_on_is_told_before(hub, cache, monkeypatch):
    described = cache / "labels" / "column.json"
    table = sealed.read(described) | {"encoder": "diffusers:/home/me/vae"}
    described.write_bytes(sealed.dump(table))
    hub.fault = lambda method, path: 403 if "/commit/" in path else None
    told = run("push", cache, URL, code=2)
    where = "labels: encoder is diffusers:/home/me/vae, a path of this machine"
    assert where in told and told.index(where) < told.index("Error: ")


def test_what_is_in_the_way_of_a_pull_is_one_line(hub, cache, tmp_path):
    run("push", cache, URL)
    back = tmp_path / "back"
    run("pull", URL, back, "--column", "labels")
    (back / "latents").mkdir()
    (back / "latents" / "notes.txt").write_text("mine")
    assert "latents is there and is no column" in run("pull", URL, back, code=2)
    assert (back / "latents" / "notes.txt").read_text() == "mine"
    (back / "latents" / "notes.txt").unlink()
    assert "(latents)" in run("pull", URL, back)
    (tmp_path / "file").write_text("mine")
    assert "is there and is no cache" in run("pull", URL, tmp_path / "file", code=2)
    assert not (tmp_path / ".file.pulling").exists()
    for url in ("s3://bucket/x", "hf://datasets/me/other", "file:///x"):
        assert "is a URL, a folder of this machine is wanted" in run("pull", URL, url, code=2)
    assert "2 shards checked" not in run("verify", back, "labels", "labels")
