"""Checkpoints: whole or absent, bit for bit, and strict about what they fit."""

import json
import os

import pytest
import torch
from torch import nn

from reed.cache import files
from reed.errors import ReedError
from reed.train import checkpoint
from reed.train.checkpoint import Checkpoint


def tensors(seed):
    torch.manual_seed(seed)
    return {
        "a.weight": torch.randn(3, 4),
        "b·1": torch.randn(5, dtype=torch.float64),
        "half": torch.randn(2, 2).bfloat16(),
        "empty": torch.zeros(0, 3),
        "step": torch.tensor(7.0),
        "strided": torch.randn(4, 6).T[::2],
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
    }


def filled(step):
    groups = [tensors(step + i) for i in range(3)]
    return Checkpoint(step, *groups, extra={"scaler": {"scale": 1024.0}, "note": None})


def bits(tensor):
    return (
        tensor.contiguous().view(torch.uint8) if tensor.ndim else tensor.view(1).view(torch.uint8)
    )


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype and value.shape == theirs[name].shape, name
        assert torch.equal(bits(value), bits(theirs[name])), name


def test_what_was_saved_is_loaded_bit_for_bit(tmp_path):
    saved = filled(12)
    folder = checkpoint.save(tmp_path, saved)
    assert folder == tmp_path / "step-0000012"
    loaded = checkpoint.load(tmp_path)
    for group in ("model", "ema", "optim"):
        same(getattr(loaded, group), getattr(saved, group))
    assert (loaded.step, loaded.extra) == (12, saved.extra)


def test_only_the_groups_that_are_asked_for_are_read(tmp_path):
    folder = checkpoint.save(tmp_path, filled(1))
    (folder / "model.safetensors").unlink()
    loaded = checkpoint.load(tmp_path, groups=("ema",))
    assert loaded.model == {} == loaded.optim
    same(loaded.ema, filled(1).ema)


def test_the_latest_is_the_one_of_the_highest_step(tmp_path):
    for step in (100, 9, 12_345_678, 20):
        checkpoint.save(tmp_path, filled(step))
    assert checkpoint.steps(tmp_path) == [9, 20, 100, 12_345_678]
    assert checkpoint.load(tmp_path).step == 12_345_678
    same(checkpoint.load(tmp_path, 9).model, filled(9).model)


def test_a_step_is_replaced_by_a_later_save(tmp_path):
    checkpoint.save(tmp_path, filled(5))
    changed = Checkpoint(5, {"x": torch.ones(2)}, {}, {}, {})
    checkpoint.save(tmp_path, changed)
    assert list(checkpoint.load(tmp_path, 5).model) == ["x"]
    assert checkpoint.steps(tmp_path) == [5]


def test_half_written_checkpoints_are_ignored_and_swept(tmp_path):
    checkpoint.save(tmp_path, filled(10))
    stale = tmp_path / ".step-0000020.4242.tmp"
    stale.mkdir()
    (stale / "model.safetensors").write_bytes(b"half")
    (tmp_path / "step-20").mkdir()
    (tmp_path / "step-0000030.bak").mkdir()
    assert checkpoint.steps(tmp_path) == [10]
    assert checkpoint.load(tmp_path).step == 10
    checkpoint.save(tmp_path, filled(20))
    assert not stale.exists() and checkpoint.steps(tmp_path) == [10, 20]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_save_that_fails_leaves_no_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, filled(10))
    written = []

    def fails(tensors, path):
        written.append(path)
        if len(written) == 3:
            raise OSError("disk full")
        path.write_bytes(b"x")

    monkeypatch.setattr(checkpoint, "save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path, filled(20))
    assert len(written) == 3 and checkpoint.steps(tmp_path) == [10]


def test_every_file_is_synced_before_the_rename(tmp_path, monkeypatch):
    events, sync, rename = [], files.sync, os.replace
    monkeypatch.setattr(files, "sync", lambda path: (events.append(path.name), sync(path)))
    monkeypatch.setattr(os, "replace", lambda *a: (events.append("rename"), rename(*a)))
    checkpoint.save(tmp_path, filled(3))
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    names = {"model.safetensors", "ema.safetensors", "optim.safetensors", "state.json"}
    assert names < set(before) and before[-1].startswith(".step-0000003")
    assert after == [tmp_path.name]


def test_state_is_plain_json(tmp_path):
    folder = checkpoint.save(tmp_path, filled(3))
    state = json.loads((folder / "state.json").read_text())
    assert state == {"step": 3, "extra": {"scaler": {"scale": 1024.0}, "note": None}}


def test_a_run_without_checkpoints_says_what_to_do(tmp_path):
    with pytest.raises(ReedError, match=r"nowhere has no checkpoint.*reed-train"):
        checkpoint.load(tmp_path / "nowhere")


def test_an_unknown_step_names_those_there_are(tmp_path):
    for step in (4, 8):
        checkpoint.save(tmp_path, filled(step))
    with pytest.raises(ReedError, match=r"no checkpoint of step 6; it has 4, 8"):
        checkpoint.load(tmp_path, 6)
    for step in range(10, 20):
        (tmp_path / f"step-{step:07d}").mkdir()
    with pytest.raises(ReedError, match=r"no checkpoint of step 6; it has 4, 8, 10, 11 … 19"):
        checkpoint.load(tmp_path, 6)


@pytest.mark.parametrize(
    ("file", "content"),
    [("state.json", b"{"), ("model.safetensors", b"half"), ("state.json", None)],
)
def test_a_damaged_checkpoint_is_named(tmp_path, file, content):
    path = checkpoint.save(tmp_path, filled(3)) / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ReedError, match=r"step-0000003 cannot be read.*remove it"):
        checkpoint.load(tmp_path)


def test_weights_that_do_not_fit_are_listed():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = net.state_dict()
    state["0.weight"] = torch.zeros(4, 2)
    state["2.bias"] = state.pop("1.bias")
    with pytest.raises(ReedError) as caught:
        checkpoint.load_strict(net, state, "runs/x step 7")
    for part in ("runs/x step 7", "missing (1.bias)", "unexpected (2.bias)", "shape (0.weight "):
        assert part in str(caught.value)
    same(net.state_dict(), before)


def test_weights_that_fit_are_loaded():
    net, other = nn.Linear(2, 3), nn.Linear(2, 3)
    checkpoint.load_strict(net, other.state_dict(), "it")
    same(net.state_dict(), other.state_dict())


def adamw(net):
    return torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)


def stepped(net, optimizer, count):
    for i in range(count):
        torch.manual_seed(i)
        net(torch.randn(4, 2)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_an_optimizer_goes_on_as_if_never_stopped(tmp_path):
    torch.manual_seed(0)
    net, other = nn.Linear(2, 3), nn.Linear(2, 3)
    optimizer = adamw(net)
    stepped(net, optimizer, 3)
    names = {id(p): name for name, p in net.named_parameters()}
    optim = checkpoint.optimizer_tensors(optimizer, names)
    assert {"exp_avg/weight", "exp_avg_sq/bias", "step/bias"} <= set(optim)
    checkpoint.save(tmp_path, Checkpoint(3, net.state_dict(), {}, optim, {}))
    loaded = checkpoint.load(tmp_path)
    checkpoint.load_strict(other, loaded.model, "it")
    resumed = adamw(other)
    checkpoint.load_optimizer(resumed, dict(other.named_parameters()), loaded.optim)
    stepped(net, optimizer, 2)
    stepped(other, resumed, 2)
    same(net.state_dict(), other.state_dict())


def test_optimizer_state_of_another_net_is_refused():
    net = nn.Linear(2, 3)
    with pytest.raises(ReedError, match=r"'head.weight'.*lacks"):
        saved = {"exp_avg/head.weight": torch.zeros(1)}
        checkpoint.load_optimizer(adamw(net), dict(net.named_parameters()), saved)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_follow_the_umask(tmp_path, mask):
    """safetensors makes files that only their owner can read, whatever the umask says."""
    before = os.umask(mask)
    try:
        folder = checkpoint.save(tmp_path, filled(1))
        assert os.umask(mask) == mask  # it is as it was
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert len(modes) == 4 and set(modes.values()) == {0o666 & ~mask}, modes


def test_a_checkpoint_that_may_not_be_read_is_not_to_be_removed(tmp_path, monkeypatch):
    folder = checkpoint.save(tmp_path, filled(1))
    path, whole = folder / "ema.safetensors", open

    def refused(name, *more, **options):
        if str(name) == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return whole(name, *more, **options)

    def load(name):
        refused(name)

    monkeypatch.setattr("builtins.open", refused)
    monkeypatch.setattr(checkpoint, "load_file", load)
    with pytest.raises(ReedError, match="no permission to read .*ema.safetensors") as caught:
        checkpoint.load(tmp_path, groups=("ema",))
    assert "chmod a+r" in str(caught.value) and "remove" not in str(caught.value)
