"""A run starts without the compiler: neither net nor optimizer imports torch._dynamo."""

import copy
import gc
import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from reed.cli.common import importing
from reed.train.adamw import AdamW

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
cache = TINY.cache  # a fixture
TRAIN = """
import json, sys
from reed.cli.train import main
main(sys.argv[1:], standalone_mode=False)
print(json.dumps(sorted(sys.modules)))
"""
NETS = """
import json, sys
from reed.nets.mpnn import MPNN, MPNNConfig
from reed.nets.semla import Semla, SemlaConfig
from reed.train.recipe import shapes_alone
with shapes_alone():
    nets = MPNN(MPNNConfig()), Semla(SemlaConfig())
assert all(weight.is_meta for net in nets for weight in net.parameters())
print(json.dumps(sorted(sys.modules)))
"""


def imported(code, *words):
    """The modules that a program has imported at its end, which its last line lists."""
    program = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_plain_run_never_imports_the_compiler(cache, tmp_path):
    table = tmp_path / "table.json"
    preview = {"preview": {"every": 1, "num": 2, "options": {"steps": 1}}}
    table.write_text(json.dumps(TINY.TABLE | preview))
    run = tmp_path / "run"
    words = ("--shards", cache, "--run", run, "--config", table, "--set", "steps=1")
    modules = imported(TRAIN, *words)
    assert (run / "step-0000001").is_dir()
    assert (run / "previews" / "step-0000001.png").is_file()
    assert not {"torch._dynamo", "sympy", "torch.distributed.tensor"} & modules


def test_a_net_for_its_shape_alone_needs_no_compiler():
    assert not {"torch._dynamo", "sympy"} & imported(NETS)


def test_garbage_is_looked_for_again_after_the_imports():
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()


def both(**settings):
    """A net with our optimizer, and an equal one with torch's."""
    pairs = []
    for cls in (AdamW, torch.optim.AdamW):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 7), nn.SiLU(), nn.Linear(7, 3))
        pairs.append((net, cls(net.parameters(), lr=0.1, weight_decay=0.3, fused=True, **settings)))
    return pairs


def steps(net, optimizer, first, last):
    """The weights after some steps, on batches that depend on their numbers."""
    for number in range(first, last):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(number))
        net(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert all(weight.grad is None for weight in net.parameters())
    return torch.cat([weight.detach().flatten() for weight in net.parameters()])


def test_our_optimizer_is_that_of_torch_bit_for_bit():
    (ours, mine), (theirs, other) = both()
    before, after = steps(ours, mine, 0, 0), steps(ours, mine, 0, 3)
    assert torch.equal(after, steps(theirs, other, 0, 3))
    assert not torch.equal(after, before)


def test_the_state_of_one_optimizer_is_loaded_by_the_other():
    (ours, mine), (theirs, other) = both()
    steps(ours, mine, 0, 3)
    theirs.load_state_dict(ours.state_dict())
    other.load_state_dict(copy.deepcopy(mine.state_dict()))  # torch would share the moments
    again, back = both()[0]
    again.load_state_dict(theirs.state_dict())
    back.load_state_dict(copy.deepcopy(other.state_dict()))
    wanted = steps(ours, mine, 3, 5)
    assert torch.equal(steps(theirs, other, 3, 5), wanted)
    assert torch.equal(steps(again, back, 3, 5), wanted)


def test_a_step_is_skipped_where_an_infinity_was_found():
    net, optimizer = both()[0]
    before = steps(net, optimizer, 0, 0)
    optimizer.found_inf = torch.ones(())
    assert torch.equal(steps(net, optimizer, 0, 1), before)


def test_hooks_of_a_step_and_closures_still_work():
    net, optimizer = both()[0]
    called = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    loss = net(torch.ones(1, 5)).sum()
    assert optimizer.step(lambda: loss) is loss
    assert called == [1]


@pytest.mark.parametrize("name", ["step", "zero_grad", "add_param_group"])
def test_the_methods_of_torch_still_have_wrappers_to_leave_out(name):
    assert hasattr(getattr(torch.optim.AdamW, name), "__wrapped__")
