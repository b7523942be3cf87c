"""The documentation builds, its links lead somewhere, and its tables say what the code does."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reed import config
from reed.cli import cache, evaluate, sample, train
from reed.domains.image import ImageDomain
from reed.domains.molecule import MoleculeDomain
from reed.domains.protein import ProteinDomain
from reed.guides.settings import GuideConfig
from reed.train import align, recipe
from reed.train.groups import GroupConfig

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PROGRAMS = {
    "reed-cache": cache.main,
    "reed-train": train.main,
    "reed-sample": sample.main,
    "reed-eval": evaluate.main,
}
SETTINGS = {
    "Of a run": recipe.TrainConfig,
    "`[optim]`": recipe.OptimConfig,
    "`[optim.groups.NAME]`": GroupConfig,
    "`[every]`": recipe.EveryConfig,
    "`[preview]`": recipe.PreviewConfig,
    "`[loader]`": recipe.LoaderConfig,
    "`[align.NAME]`": align.AlignConfig,
    "`[guide.NAME]`": GuideConfig,
    "`[domain]` of images": ImageDomain,
    "`[domain]` of proteins": ProteinDomain,
    "`[domain]` of molecules": MoleculeDomain,
}


def section(page: str, title: str) -> str:
    """What stands under a heading of a page."""
    text = (DOCS / page).read_text()
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    assert found, f"{page} has no heading {title!r}"
    return found.group(1)


def rows(text: str) -> list[list[str]]:
    """The rows of the tables in a text, without their heads."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    lines = [[cell.strip() for cell in line] for line in lines]
    ends = [number for number, line in enumerate(lines) if set("".join(line)) == {"-"}]
    return [line for number, line in enumerate(lines) if number not in ends + [e - 1 for e in ends]]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` builds it: a link to nothing is a warning, and so an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", out / "tmp"]
    done = subprocess.run([*command, DOCS, out], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.docs
@pytest.mark.timeout(1200)  # three minutes on two idle cores
def test_every_page_is_built(site):
    for page in DOCS.glob("*.md"):
        assert (site / f"{page.stem}.html").is_file(), page


@pytest.mark.docs
@pytest.mark.timeout(1200)  # three minutes on two idle cores
def test_a_page_fetches_nothing_from_elsewhere(site):
    for page in site.glob("*.html"):
        text = page.read_text()
        assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(?:https?:)?//", text), page


def test_every_link_of_the_readme_leads_to_a_file():
    text = (ROOT / "README.md").read_text()
    found = [place for place in re.findall(r"\]\(([^)]+)\)", text) if "://" not in place]
    assert len(found) > 5
    for place in found:
        path, _, anchor = place.partition("#")
        file = ROOT / (path or "README.md")
        assert file.exists(), place
        if anchor:
            heads = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads]


def test_pictures_are_small_and_used():
    pages = "".join(path.read_text() for path in (*DOCS.glob("*.md"), ROOT / "README.md"))
    for path in (DOCS / "images").iterdir():
        assert path.stat().st_size < 200_000 and f"images/{path.name}" in pages, path


@pytest.mark.parametrize("title", SETTINGS)
def test_the_table_of_settings_is_that_of_the_code(title):
    """Names and defaults; what has none, or a table of its own, is left empty."""
    told = {name.strip("`"): default for name, default, _ in rows(section("recipes.md", title))}
    fields = [field for field in dataclasses.fields(SETTINGS[title]) if field.init]
    assert set(told) == {field.name for field in fields}
    for field in fields:
        assert told[field.name] == shown(field), field.name


def shown(field: dataclasses.Field) -> str:
    """A default as the tables have it."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return ""
    if dataclasses.is_dataclass(value):
        return ""
    value = float(f"{value:.4g}") if type(value) is float else config.plain(value)
    return json.dumps(value)


def test_the_tables_of_encoders_are_those_of_the_registry():
    """If this fails: python docs/encoder_tables.py."""
    made = runpy.run_path(str(DOCS / "encoder_tables.py"))
    page = (DOCS / "encoders.md").read_text()
    assert page == made["written"](page)
    with pytest.raises(AssertionError, match="has no table for the encoders of molecule.unimol"):
        made["written"](page.replace(" molecule.unimol -->", " -->"))


def template(node: ast.AST) -> str:
    """The regular expression of a text in the code: what is filled in may be anything."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(template, node.values))
    return ".*"


def templates() -> list[re.Pattern[str]]:
    """Every text in the code with at least fifteen letters of its own."""
    found = set()
    for path in (*(ROOT / "reed").rglob("*.py"), *(ROOT / "pipelines").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            text = template(node)
            if len(re.sub(r"\.\*|\\", "", text)) >= 15:
                found.add(text)
    return [re.compile(text) for text in found]


def told() -> list[str]:
    """The messages that the page of troubles quotes, without what the command puts before."""
    page = (DOCS / "troubleshooting.md").read_text()
    blocks = re.findall(r"^```text\n(.*?)^```", page, re.M | re.S)
    return [line.removeprefix("Error: ") for block in blocks for line in block.splitlines()]


def test_every_message_that_is_told_is_one_of_the_code():
    known = templates()
    assert len(told()) > 50
    lost = [line for line in told() if not any(text.fullmatch(line) for text in known)]
    assert not lost, "\n".join(lost)
    assert not any(
        text.fullmatch("cache/digits has one column too many; drop it") for text in known
    )


def test_every_surprise_says_what_when_and_what_we_do():
    """Package with a version, guess, behaviour and what we do; the tests that are cited exist."""
    page = (DOCS / "surprises.md").read_text()
    told = re.split(r"^### ", page, flags=re.M)[1:]
    assert len(told) > 10
    for surprise in told:
        entries = re.findall(r"^- \*\*(.*?):\*\* (.*?)(?=^- |^#|\Z)", surprise, re.M | re.S)
        assert [name for name, _ in entries] == ["Package", "Guess", "What happens", "What we do"]
        assert re.search(r"\b\d+\.\d+", entries[0][1]), surprise
    cited = set(re.findall(r"`(tests/[\w.]+|findings/)`", page))
    assert len(cited) > 6 and all((ROOT / path).exists() for path in cited)
    assert "\nsurprises\n" in (DOCS / "index.md").read_text()


TRAIN = "reed-train --shards cache/digits"
REFUSED = [
    "reed-train --shards cache/digit",
    "reed-train --shards cache/part",
    f"{TRAIN} --set optim.lrr=1",
    f"{TRAIN} --variant siit",
    f"{TRAIN} --set align.digits-vit.tap=9",
    f"{TRAIN} --set domain.net_settings.patch_size=4",
    f"{TRAIN} --set align.mine.target=digits-vit/tokens --set align.mine.tap=1",
    f"{TRAIN} --set align.digits-vit.target=dinov2-b/tokens",
    f"{TRAIN} --run runs/a --set seed=1",
    "reed-sample --run runs/digits",
    "reed-sample --run runs/a --num 4 --steps 3 --out s",
    "reed-eval s.npz --reference cache/digits --num 50000",
    "reed-eval s.npz --reference nothing",
    "reed-cache build digits --encoder mine:Encoder",
    "reed-cache build digits --flip",
    "reed-cache build digit",
    "reed-cache build imagenet",
    "reed-cache build imagenet --data /data/imagenet",
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with a cache of the digits, a part of one, a run and samples."""
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for text in (
            "reed-cache build digits",
            "reed-cache build digits --cache cache/part --shards-to 4",
            f"{TRAIN} --run runs/a --set steps=1",
            "reed-sample --run runs/a --num 4 --steps 2 --out s",
        ):
            found = command(text)
            assert found.exit_code == 0, found.output
    return folder


def command(text: str) -> Result:
    """Run one of our commands in this process."""
    program, *words = text.split()
    return CliRunner().invoke(PROGRAMS[program], words)


@pytest.mark.parametrize("text", REFUSED)
def test_a_command_says_what_the_page_of_troubles_quotes(digits, monkeypatch, text):
    monkeypatch.chdir(digits)
    found = command(text)
    assert found.exit_code == 2, found.output
    assert found.stderr.splitlines()[-1].removeprefix("Error: ") in told()


DRAWN = re.compile(r"step-\d{7}-[\w.-]*(?:bf16|fp32|tf32|fp64)\.\w+")


def test_no_example_names_a_file_after_the_precision_of_one_kind_of_device():
    """The default name of samples ends in bf16 on a GPU and in fp32 on a CPU."""
    texts = {page: page.read_text() for page in (*DOCS.glob("*.md"), ROOT / "README.md")}
    texts |= {page: page.read_text() for page in (ROOT / "cli").glob("*.py")}
    assert {page: found for page in texts if (found := DRAWN.findall(texts[page]))} == {}
    assert DRAWN.findall("reed-eval samples/step-0000800-euler50-fp64.npz")
