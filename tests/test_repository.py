"""What stands beside the code: workflows, templates, citation, container."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")  # accelerate brings it

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def commands(path: Path) -> list[str]:
    """The commands of a workflow, with every value of its matrix filled in."""
    lines = []
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for step in job["steps"]:
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
    assert {"make test", "make test-oldest", "make test-newest", "make lint"} <= set(lines)


def test_a_release_is_checked_before_it_is_published():
    release = ROOT / ".github" / "workflows" / "release.yml"
    workflow = yaml.safe_load(release.read_text())
    assert "python -m twine check --strict dist/*" in commands(release)
    publish = workflow["jobs"]["publish"]
    assert publish["needs"] == "build" and publish["permissions"] == {"id-token": "write"}
    assert workflow[True]["push"] == {"tags": ["v*"]}  # YAML reads "on" as true


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
