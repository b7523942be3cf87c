"""Weights: found without a network, hashed, read without running code, compared key for key."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from reed import state_dict, weights
from reed.errors import ReedError
from reed.extras import pip_install
from reed.weights import Origin

ORIGIN = Origin("some/model", "0123456789abcdef0123456789abcdef01234567")
NO_HUB = Origin(url="https://example.org/vit.pth.tar")
STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.fixture
def model():
    return torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2)})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub's cache of its own, with the network forbidden; returns a way to fill it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def fill(origin: Origin, files: dict[str, bytes]) -> Path:
        folder = tmp_path / "hub" / f"models--{origin.repo.replace('/', '--')}"
        snapshot = folder / "snapshots" / origin.revision
        for name, content in files.items():
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / name).write_bytes(content)
        return snapshot

    return fill


def message(call, *args) -> str:
    with pytest.raises(ReedError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_file_or_a_folder_with_one_is_taken_as_it_is(tmp_path):
    save_file(STATE, tmp_path / "mine.safetensors")
    for place in (tmp_path, tmp_path / "mine.safetensors"):
        found = weights.find("enc", ORIGIN, str(place))
        assert found.folder == tmp_path and found.files == (tmp_path / "mine.safetensors",)


def test_safetensors_go_before_pickled_files_and_the_origins_name_before_others(tmp_path):
    (tmp_path / "old.pth").write_bytes(b"x")
    save_file(STATE, tmp_path / "mine.safetensors")
    assert weights.find("enc", ORIGIN, str(tmp_path)).files[0].name == "mine.safetensors"
    save_file(STATE, tmp_path / "model.safetensors")
    assert weights.find("enc", ORIGIN, str(tmp_path)).files[0].name == "model.safetensors"
    text = message(weights.find, "enc", NO_HUB, str(tmp_path / "gone"))
    assert "enc: there are no weights at" in text and "--set enc.weights=PATH" in text


def test_a_folder_of_several_weights_or_none_is_refused(tmp_path):
    text = message(weights.find, "enc", ORIGIN, str(tmp_path))
    assert "holds no weights (neither model.safetensors nor one file of another name" in text
    assert ".pth" in text and "download " in text
    text = message(weights.find, "enc", Origin(files=("a.bin",)), str(tmp_path / "gone"))
    assert text.endswith("gone; give the file of a.bin: --set enc.weights=PATH")
    for name in ("a.pth", "b.pt"):
        (tmp_path / name).write_bytes(b"x")
    assert "several weights (a.pth, b.pt)" in message(weights.find, "enc", ORIGIN, str(tmp_path))


def test_the_hubs_cache_is_used_without_asking_the_network(hub):
    snapshot = hub(ORIGIN, {"model.safetensors": b"1234"})
    found = weights.find("enc", ORIGIN)
    assert found.files == (snapshot / "model.safetensors",)
    assert weights.prefetch("enc", ORIGIN) == found


def test_a_split_checkpoint_counts_only_when_all_its_parts_are_there(hub):
    origin = Origin("some/model", "f" * 40, ("*.json", "*.safetensors"))
    index = b'{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}'
    snapshot = hub(origin, {"model.safetensors.index.json": index, "one.safetensors": b"1"})
    assert "lacks some of" in message(weights.find, "enc", origin)
    hub(origin, {"two.safetensors": b"2"})
    found = weights.find("enc", origin)
    assert [path.name for path in found.files] == ["one.safetensors", "two.safetensors"]
    before = found.sha256
    (snapshot / "two.safetensors").write_bytes(b"3 now")
    assert weights.find("enc", origin).sha256 != before


def test_offline_and_not_cached_says_which_file_to_put_where(hub):
    for call in (weights.find, weights.prefetch):
        text = message(call, "enc", ORIGIN)
        assert "some/model at 0123456789" in text and "model.safetensors from https://" in text
        assert "reed-cache prefetch PIPELINE --encoder enc" in text and text.endswith(
            "--set enc.weights=PATH"
        )


def test_weights_that_no_hub_has_are_asked_for_by_their_place():
    for call in (weights.find, weights.prefetch):
        text = message(call, "enc", NO_HUB)
        assert "not on the hub" in text and NO_HUB.url in text and "prefetch" not in text
    assert "--set COLUMN.weights=PATH" in message(weights.find, "timm:x.y", NO_HUB)


def test_the_variable_of_the_hubs_library_forbids_the_network(tmp_path):
    code = (
        "from reed.encoders import ENCODERS\nfrom reed.errors import ReedError\n"
        "try:\n    ENCODERS.get('dinov2-b')().load('cpu')\n"
        "except ReedError as error:\n    print(error)\n"
    )
    setting = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=setting,
        timeout=60,
        check=True,
        cwd=Path(weights.__file__).parents[1],
    )
    assert time.perf_counter() - began < 30
    (line,) = done.stdout.splitlines()
    assert "timm/vit_base_patch14_dinov2.lvd142m" in line and "dinov2-b.weights=PATH" in line


def test_an_index_that_does_not_parse_is_named(tmp_path):
    save_file(STATE, tmp_path / "one.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    origin = Origin("some/model", files=("*.safetensors",))
    text = message(weights.find, "enc", origin, str(tmp_path))
    assert "cannot read" in text and "model.safetensors.index.json" in text


def test_the_hash_is_of_the_content_and_follows_it(tmp_path):
    path = tmp_path / "w.bin"
    path.write_bytes(b"abc")
    found = weights.find("enc", ORIGIN, str(path))
    assert found.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(b"abcd")
    assert found.sha256.startswith("88d4266fd4e6338d13b845fcf289579d")
    path.unlink()
    assert "No such file" in message(lambda: found.sha256)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_tensors_are_read_from_both_formats(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    save_file(STATE, path) if suffix == ".safetensors" else torch.save(STATE, path)
    read = weights.read(path)
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[key], STATE[key]) for key in STATE)


def test_the_old_pickle_format_and_nested_tables_are_read(tmp_path):
    path = tmp_path / "w.pth.tar"
    torch.save({"state_dict": STATE, "epoch": 3}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(weights.read(path)["state_dict"]["a.bias"], STATE["a.bias"])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"<!DOCTYPE html><html>Dropbox</html>", "is a web page"),
        (b"\n\n <html>", "is a web page"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a Git LFS pointer"),
        (b"PK\x03\x04 and then nothing", "cannot read the weights"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_is_not_weights_is_refused(tmp_path, content, problem, suffix):
    path = tmp_path / f"last{suffix}"
    path.write_bytes(content)
    text = message(weights.read, path)
    assert str(path) in text and problem in text and "download" in text


def test_a_header_whose_length_looks_like_a_page_is_no_page(tmp_path):
    path = tmp_path / "w.safetensors"
    for note in range(15000, 15500):  # until the length, little-endian, reads " <"
        save_file(STATE, path, metadata={"note": "x" * note})
        if path.read_bytes()[:2] == b" <":
            break
    assert path.read_bytes()[:2] == b" <"
    assert weights.read(path).keys() == STATE.keys()


def test_an_absent_file_and_a_tensor_alone_are_refused(tmp_path):
    assert "No such file" in message(weights.read, tmp_path / "w.pth")
    torch.save(torch.ones(2), tmp_path / "w.pth")
    assert "holds Tensor, not a table" in message(weights.read, tmp_path / "w.pth")


class Trap:
    """A pickle of this writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_that_needs_code_is_refused_and_not_run(tmp_path):
    torch.save({"a": Trap(tmp_path / "ran")}, tmp_path / "w.pth")
    text = message(weights.read, tmp_path / "w.pth")
    assert "would run code" in text and "safetensors" in text
    assert not (tmp_path / "ran").exists()


def test_fill_loads_key_for_key_and_lists_what_differs(model):
    state_dict.fill(model, STATE, "enc: w.pth")
    assert torch.equal(model["a"].weight, STATE["a.weight"])
    wrong = {"a.weight": torch.ones(2, 4), "b.weight": torch.ones(1)}
    text = message(state_dict.fill, model, wrong, "enc: w.pth")
    assert "1 missing (a.bias)" in text and "1 unexpected (b.weight)" in text
    assert "a.weight (2, 4) instead of (2, 3)" in text and text.startswith("enc: w.pth: ")
    many = STATE | {f"b{i:02}": torch.ones(1) for i in range(20)}
    assert "20 unexpected (b00, " in message(state_dict.fill, model, many, "w")
    assert "b07 and 12 more)" in message(state_dict.fill, model, many, "w")


def test_a_library_that_is_not_installed_is_named_with_its_extra():
    text = message(weights.library, "timm_of_the_future.x")
    assert "needs timm_of_the_future" in text and pip_install("images") in text
