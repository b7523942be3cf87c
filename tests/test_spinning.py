"""Every process of ours bounds how long idle OpenMP threads spin, before torch loads the runtime.

A sitecustomize.py on PYTHONPATH runs in each Python process, also of a pool or a launch, and notes
the environment at the moment torch is first imported. That the value took effect libgomp says
itself, with OMP_DISPLAY_ENV.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
MAKEFILE = (ROOT / "Makefile").read_text()
OURS = {"GOMP_SPINCOUNT": "5000", "KMP_BLOCKTIME": "1"}
READ = (*OURS, "OMP_WAIT_POLICY")
WATCH = f"""
import json, os, sys
class Watch:
    def find_spec(name, path=None, target=None):
        if name == "torch":
            sys.meta_path.remove(Watch)
            found = {{name: os.environ[name] for name in {READ} if name in os.environ}}
            with open(os.environ["WATCHED"], "a") as file:
                file.write(json.dumps([" ".join(sys.orig_argv), found]) + "\\n")
            if "STOP_AT_TORCH" in os.environ:
                os._exit(0)
sys.meta_path.insert(0, Watch)
"""


OWN = """
import torch
from reed.sources import SOURCES

class Own(SOURCES.get("digits")):
    pass
"""
CLUSTER = """
import ray, sys
ray.init(num_cpus=2, include_dashboard=False, logging_level="warning", log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@dataclass
class Seen:
    """A program that ended well: its output, and (command line, variables) per import of torch."""

    output: str
    imports: list[tuple[str, dict[str, str]]]

    def check(self, *commands: str) -> None:
        """Torch was imported by these, and no other, with ours set; every libgomp read it."""
        for line, found in self.imports:
            assert found == OURS and any(part in line for part in commands), line
        for part in commands:
            assert any(part in line for line, _ in self.imports), part
        assert set(self.spins) == {OURS["GOMP_SPINCOUNT"]}
        assert len(self.spins) >= len(self.imports)

    @property
    def spins(self) -> list[str]:
        """What each libgomp that was loaded displays; scikit-learn has one of its own."""
        return re.findall(r"GOMP_SPINCOUNT = '(\d+)'", self.output)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("spinning")
    (folder / "sitecustomize.py").write_text(WATCH)
    (folder / "own.py").write_text(OWN)
    return folder


@pytest.fixture(scope="module")
def environment(place) -> dict[str, str]:
    """Of a process that is watched, without a word on how threads wait."""
    plain = {name: value for name, value in os.environ.items() if name not in READ}
    plain |= {"PYTHONPATH": str(place), "WATCHED": str(place / "log.jsonl")}
    return plain | {"OMP_NUM_THREADS": "1", "OMP_DISPLAY_ENV": "VERBOSE"}


@pytest.fixture(scope="module")
def watch(place, environment):
    """Run Python with some words, and some variables of the user's."""

    def run(*words: str, **variables: str) -> Seen:
        (place / "log.jsonl").unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, *words], env=environment | variables, cwd=place, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        lines = (place / "log.jsonl").read_text().splitlines()
        return Seen(done.stdout, [tuple(json.loads(line)) for line in lines])

    return run


# ---- importing


@pytest.mark.parametrize(
    "load",
    [
        *(f"import {place.partition(':')[0]}" for place in SCRIPTS.values()),
        *(f"import {name}" for name in re.findall(r"python -m (reed\.\S+)", MAKEFILE)),
        *(f"import runpy; runpy.run_path({str(ROOT / path)!r})"
          for path in re.findall(r"tests/bench/\w+\.py", MAKEFILE)),
    ],
    ids=lambda load: Path(load.split()[-1].strip("')")).name,
)  # fmt: skip
def test_torch_comes_after_us(watch, load):
    """Also where it is imported by the command when that runs: then by the last line here."""
    ((_, found),) = watch("-c", f"{load}\nimport torch", STOP_AT_TORCH="1").imports
    assert found == OURS


def test_every_kind_of_program_is_looked_at():
    programs = re.findall(r"python -m (reed\.\S+)", MAKEFILE)
    assert len(SCRIPTS) == 4 and len(programs) >= 6
    benches = set(re.findall(r"tests/bench/\w+\.py", MAKEFILE))
    scripts = {
        path for path in (ROOT / "tests" / "bench").glob("*.py") if "__main__" in path.read_text()
    }
    peers = ROOT / "tests" / "bench" / "store_peers.py"  # run by another Python, without reed
    assert {ROOT / bench for bench in benches} == scripts - {peers}


@pytest.mark.parametrize(
    ("users", "found", "spins"),
    [
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7", "KMP_BLOCKTIME": "1"}, "7"),
        ({"KMP_BLOCKTIME": "0"}, {"GOMP_SPINCOUNT": "5000", "KMP_BLOCKTIME": "0"}, "5000"),
        ({"OMP_WAIT_POLICY": "passive"}, {"OMP_WAIT_POLICY": "passive"}, "0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_what_the_user_has_set_stays(watch, users, found, spins):
    seen = watch("-c", "import reed, torch", **users)
    assert [variables for _, variables in seen.imports] == [found]
    assert seen.spins == [spins]


def test_after_torch_it_is_too_late_but_for_the_processes_started_then(watch):
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'])"
    seen = watch("-c", f"import torch, reed; {child}")
    assert [variables for _, variables in seen.imports] == [{}, OURS]
    assert seen.spins == ["300000", OURS["GOMP_SPINCOUNT"]]


# ---- the four commands


@pytest.fixture(scope="module")
def built(watch) -> Seen:
    return watch("-m", "reed.cli.cache", "build", "digits", "--source", "own:Own",
                 "--workers", "1", "--cache", "digits")  # fmt: skip


@pytest.fixture(scope="module")
def trained(watch, built) -> Seen:
    return watch("-m", "reed.cli.train", "--shards", "digits", "--run", "run",
                 "--set", "steps=1", "--set", "preview.every=0")  # fmt: skip


@pytest.fixture(scope="module")
def drawn(watch, trained) -> Seen:
    return watch("-m", "reed.cli.sample", "--run", "run", "--num", "4", "--steps", "1",
                 "--out", "samples")  # fmt: skip


def test_reed_cache_and_a_process_that_reads_for_it(built):
    built.check("reed.cli.cache", "spawn_main")


def test_reed_train(trained):
    trained.check("reed.cli.train")


def test_reed_sample(drawn):
    drawn.check("reed.cli.sample")


def test_reed_eval(watch, drawn, place):
    (samples,) = place.glob("samples*.npz")
    seen = watch("-m", "reed.cli.evaluate", str(samples), "--reference", "digits",
                 "--features", "digits-mlp")  # fmt: skip
    seen.check("reed.cli.evaluate")


@pytest.mark.parametrize(
    "launcher", [("torch.distributed.run", "--nproc-per-node", "1"),
                 ("accelerate.commands.launch", "--cpu", "--num_processes", "1")],
    ids=lambda launcher: launcher[0],
)  # fmt: skip
def test_a_launcher_has_torch_and_what_it_starts_has_ours(watch, built, launcher):
    seen = watch("-m", *launcher, "-m", "reed.cli.train", "--shards", "digits", "--dry-run")
    (first, by_then), (second, found) = seen.imports
    assert launcher[0] in first and by_then == {}
    assert launcher[0] not in second and found == OURS
    assert set(seen.spins) == {OURS["GOMP_SPINCOUNT"], "300000"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_ray_worker_of_a_cluster_that_was_there(watch, environment):
    """Its nodes were started without ours, so that nothing is inherited."""
    pytest.importorskip("ray", reason="ray is not installed")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], env=environment | token, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as cluster:  # fmt: skip
        address = cluster.stdout.readline().strip()
        seen = watch("-m", "reed.cli.cache", "build", "digits", "--cache", "ray",
                     "--engine", "ray", RAY_ADDRESS=address, **token)  # fmt: skip
        cluster.stdin.close()
    workers = [found for line, found in seen.imports if "reed.cli" not in line]
    assert workers and all(found == OURS for found in workers), seen.imports
