"""Every command of the README and of docs/ runs, top to bottom, at smoke scale.

A page is a test. Its commands run in one folder, through click in this process, with the words that
tests/smoke_scale.py adds. The slow test starts launchers, Ray and demos in processes of their own;
the other one runs what they launch, once, and looks whether the targets of `make` parse.
"""

from __future__ import annotations

import re
import runpy
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from reed.encoders import ENCODERS
from reed.errors import ReedError
from reed.metrics import FEATURES
from reed.metrics.timm_space import TimmSpace

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

HERE = Path(__file__).parent
DOCS, BOX = (
    SimpleNamespace(**runpy.run_path(str(HERE / f"{name}.py")))
    for name in ("documented", "documented_sandbox")
)
PROGRAMS, PAGES, ROOT = BOX.PROGRAMS, DOCS.pages(), DOCS.ROOT


def refusal(sandbox: SimpleNamespace, command: SimpleNamespace) -> str:
    """Why a command is not what its page says; empty where it runs and leaves what it tells of."""
    try:
        sandbox.run(command.text)
        for path in re.findall(r"(?:cache|runs)/[\w./-]*\w", command.said):
            assert Path(sandbox.placed(path)).exists(), f"there is no {path} after it"
    except (AssertionError, click.ClickException, ReedError) as error:
        return getattr(error, "message", "") or str(error)
    return ""


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("world")


@pytest.fixture
def page_in(world, tmp_path, monkeypatch):
    """Runs the commands of a page in a folder of its own; those that fail: page_in(page, fully)."""
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sys, "path", [str(HERE / "bench"), *sys.path])
    for registry in (ENCODERS, FEATURES):  # a page may register its own
        registry.names()
        monkeypatch.setattr(registry, "_items", dict(registry._items))
    model = BOX.SMALL.WORLD.IMAGES.VISION["convnext"]
    for name in ("dinov2-l", "clip-l-336"):  # a gigabyte each
        FEATURES._items[name] = partial(TimmSpace, name, model)
    before = set(sys.modules)

    def run(page: str, fully: bool) -> list[str]:
        for name, text in DOCS.files(page).items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text)
        sandbox = BOX.Sandbox(world, fully)
        return [f"{c}\n{why}" for c in DOCS.commands(page) if (why := refusal(sandbox, c))]

    yield run
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize(
    "page",
    [page if page == "README.md" else pytest.param(page, marks=pytest.mark.docs) for page in PAGES],
)
def test_the_commands_of_a_page_run(page, page_in):
    failed = page_in(page, fully=False)
    assert not failed, "\n\n".join(failed)


DRAWN = "runs/digits/samples"
WRONG = {
    "red-cache build digits": "document command not executable: red-cache",
    "torchrun --nproc-per-node 8 -m reed.cli.caches build digits": "not executable",
    "reed-cache build digits --fast": "No such option",
    "reed-cache list encoders  # cache/digits": "there is no cache/digits after it",
    "reed-cache plan imagenet --data /data/imagenet/val": "has no file /data/imagenet/val",
    f"reed-eval {DRAWN}/step-0000801-euler50-fp32.npz --reference cache/digits": (
        "the recipe has no such checkpoint: 800 steps, every 200"
    ),
    f"reed-eval {DRAWN}/step-0000800-euler9-fp32.npz --reference cache/digits": (
        "step-0000002-euler9-fp32.npz"
    ),
    "make demos": "No rule to make target",
    "make bench-speedup ARGS='--settings gpu'": "No such option",
    "pip install -e '.[image]'": "pyproject.toml has no extra {'image'}",
}


def test_a_command_that_cannot_be_is_named_with_its_line(page_in, tmp_path):
    lines = [line for text in WRONG for line in ("```sh", text, "```", "")]
    (tmp_path / "page.md").write_text("\n".join(lines))
    failed = page_in(str(tmp_path / "page.md"), fully=False)
    assert len(failed) == len(WRONG), failed
    for number, (text, why) in enumerate(WRONG.items()):
        head, _, said = failed[number].partition("\n")
        assert head.endswith(f"/page.md:{4 * number + 2}: {text.partition('  #')[0]}")
        assert why in said


def test_fences_say_what_they_hold(tmp_path):
    def wrong(page: str) -> list[str]:
        return [
            f"{block.page}:{block.line}: {why}"
            for block in DOCS.blocks(page)
            if (why := DOCS.unreadable(block))
        ]

    found = [line for page in PAGES for line in wrong(page)]
    assert not found, "\n".join(found)
    assert not any(map(DOCS.unclosed, PAGES))
    page = tmp_path / "page.md"
    page.write_text("```yaml\na: 1\n```\n```toml\na: 1\n```\n  ```python\n  a = 1\n  ```\n```sh\n")
    first, second = wrong(str(page))
    assert f"{page}:2: a fence of 'yaml'" in first and f"{page}:5: is no toml" in second
    assert DOCS.unclosed(str(page)) == 1


def test_the_commands_in_the_text_exist():
    found = [
        f"{page}: `{text}`: {why}"
        for page in PAGES
        for text in sorted(DOCS.mentioned(page))
        if (why := unknown(text))
    ]
    assert not found, "\n".join(found)
    assert unknown("make demos") and unknown("pip install -e '.[image]'")
    assert unknown("reed-cache bild NAME") == "has no command bild"
    assert unknown("reed-train export RUN --in FILE") == "has no option --in"


def unknown(text: str) -> str:
    """What a command that is named in a sentence has that does not exist."""
    program, *words = text.split() or [""]
    if program == "make" and words:
        listed = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M)
        return "" if words[0] in listed else "is no target of the Makefile"
    if text.startswith("pip install") and "…" not in text:
        return BOX.extras(text)
    if program not in PROGRAMS:
        return ""
    main = PROGRAMS[program]
    if isinstance(main, click.Group) and words and words[0].islower() and words[0][0] != "-":
        if words[0] not in main.commands:
            return f"has no command {words[0]}"
        main = main.commands[words[0]]
    known = {name for option in main.params for name in (*option.opts, *option.secondary_opts)}
    known |= {"--help"}
    lost = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    return f"has no option {lost[0]}" if lost else ""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [p for p in PAGES if any(map(BOX.is_slow, DOCS.commands(p)))])
def test_launchers_ray_and_demos_run(page, page_in):
    failed = page_in(page, fully=True)
    assert not failed, "\n\n".join(failed)
