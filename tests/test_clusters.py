"""The job files in docs/examples: they parse, and what they run has options that exist."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import tomllib
from pathlib import Path

import click
import pytest
import yaml

from reed.cli import cache

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
FILES = sorted(path.name for path in EXAMPLES.glob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RECORDER = '#!/bin/sh\necho "$RANK/$WORLD_SIZE" > said; for word; do echo "$word" >> said; done\n'


def at(tree, path):
    """The value at a path such as "spec/containers/0/image"."""
    for name in path.split("/"):
        tree = tree[int(name) if isinstance(tree, list) else name]
    return tree


# File -> (where its command is, the variables that the scheduler sets, what must stand where).
JOBS = {
    "build-kubernetes.yaml": (
        "spec/template/spec/containers/0/args/0",
        {"JOB_COMPLETION_INDEX": "3"},
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "spec/completionMode": "Indexed",
            "spec/completions": 16,
            "spec/parallelism": 16,
            "spec/template/spec/restartPolicy": "Never",
            "spec/template/spec/containers/0/command": ["bash", "-c"],
            "spec/podFailurePolicy/rules/0/onPodConditions/0/type": "DisruptionTarget",
            "spec/podFailurePolicy/rules/1/onExitCodes/values": [2],
        },
    ),
    "build-skypilot.yaml": (
        "run",
        {"RANK": "3", "WORLD_SIZE": "16"},
        {"resources/use_spot": True, "envs/WORLD_SIZE": "16", "workdir": "."},
    ),
}


def job(name):
    return yaml.safe_load((EXAMPLES / name).read_text())


def test_every_job_file_is_tested_and_documented():
    assert sorted(JOBS) == FILES
    page = (ROOT / "docs" / "clusters.md").read_text()
    assert [name for name in FILES if f"examples/{name}" not in page] == []


@pytest.mark.parametrize("name", FILES)
def test_a_job_file_has_what_its_scheduler_needs(name):
    tree, (_, _, wanted) = job(name), JOBS[name]
    assert {path: at(tree, path) for path in wanted} == wanted


def test_kubernetes_own_schema_takes_its_job_file():
    """Also without what it does not know: a field that is misspelt is refused."""
    theirs = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    tree = job("build-kubernetes.yaml")
    theirs.validate(tree, "1.31", strict=True)
    tree["spec"]["completionmode"] = tree["spec"].pop("completionMode")
    with pytest.raises(theirs.ValidationError, match="completionmode"):
        theirs.validate(tree, "1.31", strict=True)


@pytest.mark.parametrize("name", FILES)
def test_a_job_is_a_rank_of_a_build(name, tmp_path):
    """Its command is run by bash with a program in place of ours that writes down its words."""
    place, variables, _ = JOBS[name]
    program = tmp_path / "reed-cache"
    program.write_text(RECORDER)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", "-euc", at(job(name), place)]
    subprocess.run(command, cwd=tmp_path, env=path | variables, check=True)
    said = (tmp_path / "said").read_text().replace("s3://", f"file://{tmp_path}/")
    share, build, *words = said.splitlines()
    assert share == "3/16" and build == "build"

    # click refuses an option that does not exist; nothing is built.
    given = cache.build.make_context("build", words).params
    assert given["pipeline"] == "imagenet" and str(given["data"]) == "/data/imagenet/train"
    with pytest.raises(click.NoSuchOption):
        cache.build.make_context("build", [*words, "--fast"])


def test_the_extras_that_a_job_installs_exist():
    found = re.findall(r"^pip install .*$", job("build-skypilot.yaml")["setup"], re.MULTILINE)
    (extras,) = re.findall(r"\[(.*)\]", shlex.split(found[0])[-1])
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
