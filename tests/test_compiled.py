"""reed-sample --compile: equal samples to rounding, equal bits for any share, what is said."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from reed.cli import sample as cli_sample
from reed.domains.image import SampleOptions
from reed.errors import ReedError
from reed.flows.samplers import Guidance
from reed.sample import compiled
from reed.sample.compiled import Compiled, Cost, Passes, check_compiler, compile_net, said
from reed.sample.sampler import Sampler

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_cache.py"))))
OPTIONS = SampleOptions("heun", 6, Guidance(1.5, 0.1, 0.8))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    cache = TINY.build(folder / "cache")
    return TINY.trained(TINY.settings(cache, folder / "run", steps=2, every={"save": 2}))


def call(*words):
    return CliRunner().invoke(cli_sample.main, [str(word) for word in words])


def recorder(calls):
    """What records passes as a CUDA graph does: into one output that every replay overwrites."""

    def record(forward, inputs):
        buffers, calls[0] = [x.clone() for x in inputs], calls[0] + 1
        out = forward(*buffers)[0]

        def replay(*given):
            for buffer, x in zip(buffers, given, strict=True):
                buffer.copy_(x)
            out.copy_(forward(*buffers)[0])
            return out.clone(), {}

        return replay

    return record


def test_a_pass_is_recorded_once_for_each_shape():
    recorded = [0]
    passes = Passes(lambda x, t: (x * t, {}), recorder(recorded))
    first, second = torch.arange(6.0).view(2, 3), torch.ones(2, 3)
    kept = passes(first, torch.tensor(2.0))[0]
    assert torch.equal(passes(second, torch.tensor(3.0))[0], 3 * second)
    assert torch.equal(kept, 2 * first)  # not what the second call left in the buffer
    assert torch.equal(passes(torch.ones(4, 3), torch.tensor(3.0))[0], 3 * torch.ones(4, 3))
    assert recorded == [2] and sorted(cost.calls for cost in passes.costs.values()) == [1, 2]


def test_passes_with_keywords_are_not_recorded():
    recorded = [0]
    passes = Passes(lambda x, taps=(), extra=None: (x + extra, {}), recorder(recorded))
    for extra in (1.0, 2.0):
        assert passes(torch.zeros(2), taps=(1,), extra=extra)[0].tolist() == [extra, extra]
    assert recorded == [0] and len(passes.costs) == 1


def test_what_is_said_of_the_cost_is_arithmetic():
    """(24.016 - 0.012 + 12) / (50 * (0.020 - 0.012) + 10 * (0.030 - 0.02)) batches."""
    costs = [Cost(0.020, 24.016, 0.012, 50), Cost(0.030, 12.02, 0.020, 10)]
    line = said(costs, 60, 64)
    assert line == (
        "--compile: 36 s to compile; a pass takes 13.3 ms, 21.7 ms without, so it pays after "
        "72 batches of 64"
    )
    assert said([Cost(0.01, 5, 0.02, 3)], 3, 8).endswith("so it does not pay here")


def test_it_is_said_once_and_only_when_something_was_drawn():
    lines, passes = [], Passes(lambda x: (x, {}))
    made = Compiled([passes], lines.append)
    made.drew(8)
    assert not lines
    passes(torch.ones(2))
    made.drew(8)
    made.drew(8)
    assert len(lines) == 1 and "batches of 8" in lines[0] or "does not pay" in lines[0]


def test_a_machine_without_a_compiler_is_told_in_one_line(run, monkeypatch, tmp_path):
    def broken(call):
        def fail(*args):
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nmore lines")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ReedError, match=r"No working C\+\+ compiler found\); it needs a C\+\+"):
        check_compiler(torch.device("cpu"))
    done = call("--run", run, "--out", tmp_path / "out", "--compile", "--device", "cpu")
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and "leave --compile" in done.stderr


def test_samples_of_many_shapes_are_refused():
    sampler = SimpleNamespace(domain=object(), kind="molecule")
    with pytest.raises(ReedError, match="'molecule' have many"):
        compile_net(sampler, print)


def test_compiling_is_part_of_the_recipe_and_of_the_name(run, monkeypatch, tmp_path):
    """Nothing is compiled here, so the samples are those of the plain sampler."""
    monkeypatch.setattr(compiled, "check_compiler", lambda device: None)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: None)
    words = ("--run", run, "--num", 4, "--device", "cpu", "--steps", 2)
    done = call(*words, "--compile")
    assert done.exit_code == 0 and done.stderr.count("--compile: ") == 1, done.output
    made = next((run / "samples").glob("*-compiled-*.json"))
    assert json.loads(made.read_text())["compile"] is True

    plain = call(*words, "--out", tmp_path / "plain")
    assert plain.exit_code == 0 and "compile" not in json.loads(
        (tmp_path / "plain.json").read_text()
    )
    drawn = [np.load(path)["arr_0"] for path in (made.with_suffix(".npz"), tmp_path / "plain.npz")]
    assert np.array_equal(*drawn)
    mixed = call(*words, "--out", tmp_path / "plain", "--compile")
    assert mixed.exit_code and "was drawn without compile, now with compile = True" in mixed.stderr


def on_cpu(run, precision="fp32"):
    sampler, lines = Sampler.of_run(run, precision=precision), []
    compile_net(sampler, lines.append)
    return sampler, lines


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what compiling warns of differs between versions of torch
def test_compiled_samples_are_equal_to_rounding_and_bit_for_bit_among_themselves(run):
    plain = Sampler.of_run(run).draw(8, OPTIONS, batch=4, progress=False)["x"]
    (one, lines), (other, _) = on_cpu(run), on_cpu(run)
    whole = one.draw(8, OPTIONS, batch=4, progress=False)["x"]
    assert np.abs(whole - plain).max() <= 1e-5 * np.abs(plain).max()
    # The second process of two begins with the second batch.
    assert np.array_equal(other.batch(1, OPTIONS, 4)["x"], whole[4:])
    assert np.array_equal(other.batch(0, OPTIONS, 4)["x"], whole[:4])
    assert len(lines) == 1


@pytest.mark.slow
def test_without_a_compiler_torch_says_so(tmp_path):
    """The error that users see, from torch itself."""
    code = "import torch; from reed.sample.compiled import check_compiler as check; "
    code += "check(torch.device('cpu'))"
    env = {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    error = done.stderr.splitlines()[-1]
    assert "does not work on this machine for cpu (InvalidCxxCompiler" in error


@pytest.mark.gpu
def test_on_a_gpu_a_recorded_pass_gives_the_same_samples(run):
    plain = Sampler.of_run(run, device="cuda").draw(8, OPTIONS, batch=4, progress=False)["x"]
    for precision, atol in (("fp32", 1e-4), ("bf16", 0.1)):
        sampler = Sampler.of_run(run, device="cuda", precision=precision)
        compile_net(sampler, print)
        whole = sampler.draw(8, OPTIONS, batch=4, progress=False)["x"]
        assert np.abs(whole - plain).max() <= atol * np.abs(plain).max()
        again = sampler.batch(1, OPTIONS, 4)["x"]
        assert np.array_equal(again, whole[4:])
