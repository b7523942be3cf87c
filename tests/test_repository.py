"""What stands beside the code: workflows, templates, citation, container."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import reed

yaml = pytest.importorskip("yaml")  # accelerate brings it

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELEASE = ROOT / ".github" / "workflows" / "release.yml"
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def commands(path: Path) -> list[str]:
    """The commands of a workflow, with every value of its matrix filled in."""
    lines = []
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for step in job.get("steps", []):  # none where another workflow is called
            text = step.get("run", "")
            names = re.findall(r"\$\{\{ matrix\.(\w+) \}\}", text)
            values = [matrix[name] for name in names] or [[""]]
            lines += [re.sub(r"\$\{\{.*?\}\}", value, text) for value in values[0]]
    return [line for line in lines if line]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_that_exist(path):
    targets = {line.removeprefix("make ") for line in commands(path) if line.startswith("make ")}
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.M), target


def test_the_lock_the_oldest_and_the_newest_are_tested():
    lines = commands(ROOT / ".github" / "workflows" / "test.yml")
    wanted = {"test", "test-docs", "test-oldest", "test-newest", "lint"}
    assert {f"make {target}" for target in wanted} <= set(lines)


def test_a_release_is_checked_before_it_is_published():
    workflow = yaml.safe_load(RELEASE.read_text())
    assert "python -m twine check --strict dist/*" in commands(RELEASE)
    publish = workflow["jobs"]["publish"]
    assert publish["needs"] == ["test", "build"] and publish["permissions"] == {"id-token": "write"}
    assert workflow[True]["push"] == {"tags": ["v*"]}  # YAML reads "on" as true
    called = ROOT / workflow["jobs"]["test"]["uses"]
    assert "workflow_call" in yaml.safe_load(called.read_text())[True]


def release_step(name: str, folder: Path, tag: str) -> subprocess.CompletedProcess[str]:
    """Run a named step of the job that builds a release in a folder, as GitHub does."""
    steps = yaml.safe_load(RELEASE.read_text())["jobs"]["build"]["steps"]
    (script,) = [step["run"] for step in steps if step.get("name", "").startswith(name)]
    env = {"PATH": os.environ["PATH"], "GITHUB_REF_NAME": tag}
    env |= {"GITHUB_SERVER_URL": "https://example.org", "GITHUB_REPOSITORY": "lab/reed"}
    command = ["bash", "-e", "-c", script]
    return subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True)


def test_a_tag_that_is_not_the_version_is_not_published(tmp_path):
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / f"reed_diffusion-{reed.__version__}.tar.gz").touch()
    assert release_step("Compare the tag", tmp_path, f"v{reed.__version__}").returncode == 0
    refused = release_step("Compare the tag", tmp_path, "v99.0")
    assert refused.returncode == 1
    assert refused.stdout.startswith("tag v99.0 is not v and the version of dist/reed_diffusion-")


def test_links_of_the_readme_work_where_only_its_text_is_shown(tmp_path):
    before = (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text(before)
    done = release_step("Make the README's links", tmp_path, "v1.0")
    assert done.returncode == 0, done.stderr

    links = re.compile(r"(!?)\[[^]]*\]\(([^)]+)\)")
    pairs = zip(
        links.findall(before), links.findall((tmp_path / "README.md").read_text()), strict=True
    )
    for (picture, link), (_, made) in pairs:
        kind = "raw" if picture else "blob"
        kept = "://" in link or link.startswith("#")
        assert made == (link if kept else f"https://example.org/lab/reed/{kind}/v1.0/{link}")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_asks_for_doctor(path):
    fields = yaml.safe_load(path.read_text())["body"]
    labels = [field["attributes"]["label"] for field in fields]
    assert any("reed-cache doctor" in label for label in labels)


def test_the_citation_is_that_of_the_documentation():
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    paper = content["preferred-citation"]
    page = (ROOT / "docs" / "citing.md").read_text()
    assert content["cff-version"] == "1.2.0" and paper["title"] in page
    names = [f"{a['family-names']}, {a['given-names']}" for a in paper["authors"]]
    assert " and ".join(names) in re.sub(r"\s+", " ", page)
    assert paper["identifiers"][0]["value"] in page


def test_the_container_and_the_package_want_one_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = re.search(r"^FROM python:(\d+\.\d+)", (ROOT / "Dockerfile").read_text(), re.M)
    assert project["requires-python"] == f">={version[1]}"


def test_ci_runs_the_commands_of_the_readme_in_an_environment_of_its_own():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    readme = (ROOT / "README.md").read_text().partition("## Install")[2]
    typed = re.findall(r"^(make \w+)", readme.partition("```sh\n")[2].partition("```")[0], re.M)
    assert typed == ["make demo", "make test"]
    made = lines.index('export VENV="$fresh/venv"')
    assert all(lines.index(command) > made for command in typed)
