"""reed-cache peek CACHE: the page of a cache, looked at in a browser."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from reed.build import engines
from reed.bytes import human
from reed.cache import plan, reader, schema
from reed.cache.codecs import codecs
from reed.cache.schema import Field
from reed.chem import rdkit
from reed.cli import cache as cli
from reed.errors import ReedError
from reed.extras import pip_install
from reed.view import info, peek
from reed.view.pages import cache as pages
from reed.view.pages import cache_charts, drawings, items, samples, tokens

TESTS = Path(__file__).parent
HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"><!-- é 語 & 'q' {{ 1 }}"


def run(*words):
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def written(cache, out, **settings):
    return pages.save(cache, out, progress=False, **settings)


def data_of(path):
    """What the page's script is given, out of the file."""
    text = re.search(r'<script id="data"[^>]*>(.*?)</script>', path.read_text(), re.S)[1]
    return json.loads(text)


def summaries_of(cache):
    frozen = plan.load(cache)
    return frozen, [info.summary(cache, frozen, name) for name in schema.columns(cache)]


def restored(cache, name, field_name, key):
    """Tokens of a sample in the encoder's channels, read without the page's code."""
    column = schema.load_column(cache, name)
    field, state = column.field(field_name), reader.load_state(cache, column)
    shard, _ = plan.load(cache).locate(plan.load(cache).keys.index(key))
    ((_, values),) = reader.records(cache, column, shard, [field], state, keys={key})
    return codecs.codec_of(field).restore(values[field_name], state[field_name])


def cosines(x):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit @ unit.T


class Patches:
    """Sixteen patches of 24 channels near a few directions, a vector, and a hostile caption."""

    licence, batch_size, reads = "MIT", 8, ("pixels",)
    fields = (
        Field("tokens", "token", (16, 24), "int8"),
        Field("rgb", "data", (3, 8, 8)),
        Field("caption", "text", (), "utf8"),
        Field("vector", "sample", (5,)),
        Field("number", "data", ()),
    )

    def revision(self):
        return "1"

    def load(self, device):
        """Nothing to load."""

    def encode(self, samples):
        rows = [self.one(sample["pixels"]) for sample in samples]
        return {f.name: [row[i] for row in rows] for i, f in enumerate(self.fields)}

    def one(self, pixels):
        rng = np.random.default_rng(abs(int(1e6 * pixels.sum())))
        tokens = rng.standard_normal((16, 3)) @ rng.standard_normal((3, 24)) + 1
        rgb, vector = rng.uniform(-1, 1, (3, 8, 8)), rng.standard_normal(5)
        return tokens.astype(np.float32), rgb.astype(np.float32), HOSTILE, vector, np.float32(2)


@pytest.fixture(scope="module")
def hostile(fakes, tmp_path_factory):
    """A cache with images, a grid of tokens and captions that would like to run."""
    path = fakes.build(tmp_path_factory.mktemp("hostile") / "hostile", ["pixels"])
    engines.run(fakes.job(path, "patches", None, Patches()), engines.Share(), progress=False)
    return path


@pytest.fixture(scope="module")
def hostile_page(hostile, tmp_path_factory):
    return written(hostile, tmp_path_factory.mktemp("page") / "page.html", count=6)


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    pytest.importorskip("rdkit")
    build = runpy.run_path(str(TESTS / "tiny_molecules.py"))["build"]
    return build(tmp_path_factory.mktemp("molecules") / "molecules")


@pytest.fixture(scope="module")
def proteins(tmp_path_factory):
    build = runpy.run_path(str(TESTS / "tiny_chains.py"))["build"]
    return build(tmp_path_factory.mktemp("proteins") / "proteins")


def keys_to(browser, *keys):
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def said(browser):
    return browser.execute_script("return document.querySelector('.said').textContent")


def title(browser):
    return browser.execute_script("return document.querySelector('#sample h3').textContent")


def test_the_command_writes_a_page(hostile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("peek", hostile, "--samples", 2)
    assert done.exit_code == 0, done.output
    size = (tmp_path / "peek-hostile.html").stat().st_size
    assert done.stdout == f"peek-hostile.html ({human(size)})\n" and size < 6e6
    key = plan.load(hostile).keys[7]
    done = run("peek", hostile, key, "--html", tmp_path / "own.html", "--samples", 3)
    found = [each["key"] for each in data_of(tmp_path / "own.html")["samples"]]
    assert found[0] == key and len(set(found)) == 3
    assert "the one that was named" in (tmp_path / "own.html").read_text()
    (tmp_path / "folder").mkdir()
    for words, problem in (
        (["--out", "p.png"], "--out is for the picture"),
        (["#0", "--samples", 3], "add --html"),
        (["--html", tmp_path / "folder"], "choose another --html"),
        (["nobody", "--html", "p.html"], "has no sample 'nobody'"),
    ):
        done = run("peek", hostile, *words)
        assert done.exit_code == 2 and problem in done.stderr, done.stderr


def test_samples_are_drawn_by_the_seed_from_what_is_built(fakes, tmp_path):
    fakes.build(tmp_path, ["tokens", "caption"])
    for shard in (0, 2):
        (tmp_path / "caption" / f"{shard:06d}.json").unlink()
    frozen, found = summaries_of(tmp_path)
    built = {*frozen.rows(1), *frozen.rows(3)}
    draws = [samples.choose(frozen, found, 8, seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] == sorted(draws[0]) and draws[0] != draws[2]
    assert set(draws[0] + draws[2]) <= built and len(set(draws[0])) == 8
    assert sorted(samples.choose(frozen, found, 100, 0)) == sorted(built)
    named = samples.choose(frozen, found, 8, 0, first=0)
    assert named[0] == 0 and len(named) == 8 and 0 not in built
    (only,) = samples.read(tmp_path, frozen, found, [0], progress=False)
    assert only.missing == {"caption": "shard 0 is not built yet"} and "tokens" in only.values


def test_numbers_are_those_of_info(whole, tmp_path):
    frozen, found = summaries_of(whole)
    text = written(whole, tmp_path / "p.html", count=1).read_text()
    body = text[text.index("<h1>") :]
    for each in found:
        assert human(each.bytes) in body and each.column.identity() in body
        assert each.column.identity() in "\n".join(info.lines(whole))
        row = pages._column(each)
        assert row[3] == 60 and row[5] == human(each.bytes)
        stored = sum(pages._payload(f, each, 1) for f in each.column.fields)
        assert 0 < stored < each.bytes
    tokens_ = next(each for each in found if each.column.name == "tokens")
    assert pages._payload(tokens_.column.field("tokens"), tokens_, 1) == 60 * (6 * 8 + 6 * 4)
    assert pages._payload(tokens_.column.field("mean"), tokens_, 1) == 60 * 16
    caption = next(each for each in found if each.column.name == "caption")
    letters = fakes_letters(frozen)
    assert pages._payload(caption.column.field("text"), caption, 1) == letters
    size = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    assert dict(pages._facts(whole, frozen, found))["on disk"] == human(size)


def fakes_letters(frozen):
    """The bytes of all sentences of the fakes."""
    numbers = [int(key[-7:-4]) for key in frozen.keys]
    return sum(len(f"a picture of the nümber {n % 10}".encode()) + n % 4 for n in numbers)


def test_charts_count_what_there_is(whole):
    frozen, found = summaries_of(whole)
    charts = {each.title: each for each in cache_charts.charts(whole, frozen, found, [], False)}
    sizes = {row[0]: row[1] for row in charts["Bytes per column"].rows}
    assert sizes == {each.column.name: each.bytes for each in found}
    assert charts["Labels: pixels/label"].rows == [[i, 6] for i in range(10)]
    want = Counter(len("a picture of the nümber 0".encode()) + n % 4 for n in range(60))
    rows = charts["Lengths: caption/text"].rows
    assert {row[0]: row[1] for row in rows} == {str(k): v for k, v in want.items()}
    assert len(charts) == 3


def test_many_classes_and_a_bound_on_labels(whole, monkeypatch):
    monkeypatch.setattr(cache_charts, "CLASSES", 5)
    monkeypatch.setattr(cache_charts, "LABELS", 30)
    frozen, found = summaries_of(whole)
    (chart,) = (
        each
        for each in cache_charts.charts(whole, frozen, found, [], False)
        if each.title.startswith("Sizes of classes")
    )
    assert (
        sum(row[1] for row in chart.rows) == 10 and "the first 30, in cache order" in chart.caption
    )


def test_bins_are_whole_for_whole_numbers_and_hold_all():
    chart = cache_charts._histogram("t", "c.", "tokens", "samples", np.array([3, 3, 90, 151]))
    assert sum(row[1] for row in chart.rows) == 4 and chart.rows[0] == ["3 to 7", 2]
    same = cache_charts._histogram("t", "c.", "norm", "tokens", np.full(7, 2.5))
    assert [row[1] for row in same.rows] == [7] and "Median 2.5" in same.caption


def test_cosines_are_as_near_as_the_page_says(hostile, monkeypatch):
    monkeypatch.setattr(tokens, "DIRECTIONS", 8)
    frozen, found = summaries_of(hostile)
    shown = samples.read(hostile, frozen, found, range(5), progress=False)
    (grid,) = items.grids(hostile, found, shown)
    off = []
    for at, each in enumerate(shown):
        true = cosines(restored(hostile, "patches", "tokens", each.key).astype(np.float64))
        steps = tokens.steps(grid.arrays[at], grid.basis).astype(np.float64)
        off.append(np.abs(cosines(steps) - true))
    assert grid.basis.shape == (8, 24) and 0.5 < grid.kept < 1
    assert np.max(off) == pytest.approx(grid.worst, abs=1e-6) and grid.worst > 0.001
    assert np.sum(off) / (5 * 16 * 15) == pytest.approx(grid.error, rel=1e-6)
    assert "8 of 24 directions" in grid.note
    assert [tokens._up(x) for x in (0.0, 0.0111, 0.02, 0.96, 1e-9)] == [
        "0",
        "0.02",
        "0.02",
        "1",
        "1e-09",
    ]


def test_nearest_are_those_of_numpy():
    vectors = dict(enumerate(np.random.default_rng(0).standard_normal((9, 4))))
    del vectors[4]
    found = samples.nearest(vectors)
    x = np.stack(list(vectors.values()))
    true = cosines(x)
    for row, place in enumerate(vectors):
        others = sorted((-true[row, i], p) for i, p in enumerate(vectors) if p != place)[:5]
        assert [other for other, _ in found[place]] == [p for _, p in others]
        assert found[place][0][1] == pytest.approx(-others[0][0], abs=1e-4)
    assert samples.nearest({3: np.ones(2)}) == {}


def test_a_page_of_images_in_a_browser(hostile, hostile_page, open_page):
    browser = open_page(hostile_page)
    assert browser.title == f"Cache {hostile}"  # no caption took it
    text = browser.execute_script("return document.querySelector('.text').textContent")
    assert text == HOSTILE and not browser.execute_script("return document.images.length > 50")
    data, key = data_of(hostile_page), title(browser)
    (field,), true = data["tokens"], restored(hostile, "patches", "tokens", key)
    script = """const box = document.querySelectorAll('.tile canvas')[arguments[0]];
        const at = arguments[1], {left, top, width, height} = box.getBoundingClientRect();
        box.dispatchEvent(new MouseEvent('click', {clientX: left + width * (at % 4 + 0.5) / 4,
            clientY: top + height * (Math.floor(at / 4) + 0.5) / 4}));"""
    browser.execute_script(script, 2, 9)
    spoken, expected = said(browser), np.delete(cosines(true)[9], 9)
    values = [
        float(x) for x in re.findall(r"(?:least|median|most|is) (-?[\d.]+?)(?=[,;.]? |\.$)", spoken)
    ]
    want = [expected.min(), np.median(expected), expected.max(), np.linalg.norm(true[9])]
    worst = float(re.search(r"and (\S+) at most", field["note"])[1])
    assert spoken.startswith("Patch in row 3, column 2: ")
    assert values[:3] == pytest.approx(want[:3], abs=worst + 0.005)
    assert values[3] == pytest.approx(want[3], rel=0.005)
    boxes = browser.find_elements("css selector", ".tile canvas")
    sizes = [tuple(box.size.values()) for box in boxes]
    assert len(sizes) == 4 and len(set(sizes)) == 1  # the image beside its tokens


def test_keys_move_among_samples_and_tokens(hostile_page, open_page):
    from selenium.webdriver.common.keys import Keys

    browser, found = open_page(hostile_page), data_of(hostile_page)["samples"]
    assert title(browser) == found[0]["key"]
    browser.execute_script("document.querySelector('#gallery [aria-current]').focus()")
    keys_to(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert title(browser) == found[2]["key"] and len(found) == 6
    assert browser.switch_to.active_element.get_attribute("title") == found[2]["key"]
    current = "return [...document.querySelectorAll('#gallery [aria-current]')].map((b) => b.title)"
    assert browser.execute_script(current) == [found[2]["key"]]
    keys_to(browser, Keys.END, Keys.ARROW_RIGHT)
    assert title(browser) == found[5]["key"]
    keys_to(browser, Keys.HOME, Keys.TAB)  # past the other samples, to the tokens
    assert browser.switch_to.active_element.tag_name == "canvas"
    keys_to(browser, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_UP)
    assert said(browser).startswith("Patch in row 1, column 2: ")
    keys_to(browser, Keys.END)
    assert said(browser).startswith("Patch in row 4, column 4: ")
    keys_to(browser, Keys.TAB)
    near = browser.switch_to.active_element
    key = near.get_attribute("title")
    near.send_keys(Keys.ENTER)
    assert title(browser) == key and said(browser).startswith("Patch in row 4, column 4: ")


def test_a_link_leads_to_a_sample(hostile_page, open_page):
    browser, found = open_page(hostile_page), data_of(hostile_page)["samples"]
    browser.execute_script("document.querySelectorAll('#gallery button')[3].click()")
    address = browser.current_url
    assert address.endswith("#sample=" + found[3]["key"].replace("/", "%2F"))
    browser.get("about:blank")
    browser.get(address)
    assert title(browser) == found[3]["key"]
    browser.execute_script("location.hash = arguments[0]", f"#sample={found[1]['key']}")
    assert (
        browser.execute_async_script(
            "setTimeout(() => arguments[0](document.querySelector('#sample h3').textContent), 50)"
        )
        == found[1]["key"]
    )
    browser.execute_script("location.hash = '#sample=%'")
    assert title(browser) == found[1]["key"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_has_room_for_it(molecules, proteins, hostile_page, tmp_path, open_page, dark):
    paths = [
        hostile_page,
        written(molecules, tmp_path / "m.html", count=3),
        written(proteins, tmp_path / "p.html", count=3),
    ]
    for path in paths:
        browser = open_page(path, 390, dark)
        browser.execute_script("document.querySelectorAll('details').forEach((d) => d.open = true)")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        ground, ink = browser.execute_script(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        )
        ground, ink = (sum(map(int, re.findall(r"\d+", text)[:3])) for text in (ground, ink))
        assert (ground < 150) == dark and abs(ink - ground) > 500


def test_molecules_are_drawn_with_their_atoms(molecules, tmp_path, open_page):
    path = written(molecules, tmp_path / "p.html", count=20)
    browser, data = open_page(path), data_of(path)
    for each in data["samples"]:
        (shape,) = each["drawings"]
        heavy = [i for i, name in enumerate(shape["names"]) if name != "H"]
        assert sorted(point[0] for point in shape["points"]) == heavy and "problem" not in shape
        assert all(0 <= x <= drawings.SIDE >= y >= 0 for _, x, y, _ in shape["points"])
    first = data["samples"][0]
    token = first["drawings"][0]["points"][1][0]
    browser.execute_script(
        "document.querySelector(`.tile circle[data-token='${arguments[0]}']`)"
        ".dispatchEvent(new MouseEvent('click'))",
        token,
    )
    name = first["drawings"][0]["names"][token]
    total = first["drawings"][0]["total"]
    assert said(browser).startswith(f"Token {token + 1} of {total} ({name}): ")
    chosen = "return [...document.querySelectorAll('circle.chosen')].map((c) => c.dataset.token)"
    assert browser.execute_script(chosen) == [str(token)]


def test_molecules_without_rdkit_say_so(molecules, tmp_path, open_page, monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit.Chem", None)
    browser = open_page(written(molecules, tmp_path / "p.html", count=2))
    text = browser.execute_script("return document.querySelector('#sample .bad').textContent")
    assert text.startswith("not drawn: molecules need RDKit") and pip_install("molecules") in text


def test_what_is_no_molecule_is_drawn_or_the_reason_said(monkeypatch):
    pytest.importorskip("rdkit")
    atoms = np.array([3] * 6)
    bonds = np.full((6, 6), 3) * (1 - np.eye(6, dtype=int))
    broken = rdkit.Molecule(np.eye(6, 3, dtype=np.float32), atoms, 0 * atoms, bonds)
    assert len(rdkit.drawing(broken, 320)[1]) == 6 and rdkit.sanitised(broken) is None

    def fail(*_):
        raise ValueError("no\nplace")

    monkeypatch.setattr(rdkit.library("Chem.rdDepictor"), "Compute2DCoords", fail)
    with pytest.raises(ReedError, match="RDKit cannot draw it: no place"):
        rdkit.drawing(broken, 320)


def test_proteins_are_drawn_as_traces(proteins, tmp_path, open_page):
    path = written(proteins, tmp_path / "p.html", count=24)
    data, browser = data_of(path), open_page(path)
    for each in data["samples"]:
        (shape,) = each["drawings"]
        assert len(shape["points"]) == shape["total"] and len(shape["lines"]) == shape["total"] - 1
        assert set(shape["sequence"]) <= set("ENX") and shape["names"] == list(shape["sequence"])
    assert (
        browser.execute_script("return document.querySelectorAll('.looks circle').length")
        == (data["samples"][0]["drawings"][0]["total"])
    )
    assert len(data["tokens"]) == 2  # two fields of one length: one choice for both
    browser.execute_script(
        "document.querySelectorAll('.tile circle')[5].dispatchEvent(new MouseEvent('click'))"
    )
    both = [each.text.partition(":")[0] for each in browser.find_elements("class name", "said")]
    assert both[0] == both[1] and both[0].startswith("Token ")


def test_a_trace_breaks_at_chains_gaps_and_what_is_missing():
    coords = np.cumsum(np.ones((7, 4, 3)), 0) * [1.0, 2.0, 0.5]
    coords[1] = np.nan
    values = {"chain": np.array([0, 0, 0, 0, 1, 1, 1]), "number": np.array([0, 1, 2, 3, 4, 5, 9])}
    shape = drawings._trace(coords, values)
    assert shape["lines"] == [[2, 3], [4, 5]] and len(shape["points"]) == 6
    assert shape["caption"] == "CA trace of 7 residues in 2 chains; 1 without coordinates"
    assert {point[0]: point[3] for point in shape["points"]} == {0: 0, 2: 0, 3: 0, 4: 1, 5: 1, 6: 1}
    none = drawings._trace(np.full((2, 4, 3), np.nan), {})
    assert none["problem"] == "not drawn: no CA has coordinates"


def test_an_incomplete_cache_with_failures(fakes, tmp_path, open_page, monkeypatch):
    monkeypatch.setattr(pages, "FAILURES", 1)
    source = fakes.Source(300, (3, 5))
    cache = fakes.build(tmp_path / "c", ["pixels", "caption"], source, shard_size=256)
    (cache / "caption" / "000001.json").unlink()
    bad = plan.load(cache).keys.index("a/sample-003.png")
    browser = open_page(written(cache, tmp_path / "p.html", count=4, first=bad))
    text = browser.find_element("tag name", "body").text
    assert "incomplete: caption" in text and "INCOMPLETE" in text and "1/2" in text
    failed = sum(len(each.failed) for each in summaries_of(cache)[1])
    assert f"{failed} times a sample was left out of a column; the first 1 are listed" in text
    assert "pixels: left out: the file is empty" in browser.find_element("id", "sample").text


def test_a_cache_without_tokens_of_one_sample(fakes, tmp_path, open_page):
    cache = fakes.build(tmp_path / "c", ["caption"], fakes.Source(1))
    path = written(cache, tmp_path / "p.html")
    browser = open_page(path)
    assert "1 of 1 samples" in browser.find_element("id", "main").text
    assert title(browser) == "a/sample-000.png" and data_of(path)["near"] == []
    one = fakes.build(tmp_path / "d", ["tokens"], fakes.Source(1))
    assert "Token 1 of 6: cosine" in said(open_page(written(one, tmp_path / "q.html")))


def test_a_cache_without_a_shard_or_a_column(fakes, tmp_path, open_page):
    cache = fakes.build(tmp_path / "c", ["tokens"], fakes.Source(20))
    for marker in (cache / "tokens").glob("0*.json"):
        marker.unlink()
    text = open_page(written(cache, tmp_path / "p.html")).find_element("id", "main").text
    assert "No shard of any column is built yet" in text and "0/2" in text
    fakes.freeze(tmp_path / "e", fakes.Source(20))
    text = open_page(written(tmp_path / "e", tmp_path / "q.html")).find_element("id", "main").text
    assert "No column is built yet" in text and "There is nothing to chart yet" in text


def test_every_kind_and_shape_can_be_shown(odd, tmp_path, open_page):
    path = written(odd, tmp_path / "p.html", count=2)
    browser, data = open_page(path), data_of(path)
    shown = {
        panel["title"]: panel for name in ("shows", "others") for panel in data["samples"][0][name]
    }
    assert shown["odd/none"]["text"] == "[]" and shown["odd/latent"]["shows"] == "image"
    assert shown["odd/pair"]["shows"] == "map" and "語" in shown["odd/text"]["text"]
    fields = {each["title"]: each for each in data["tokens"]}
    assert set(fields) == {"odd/many", "odd/ragged", "odd/thin"}
    grids = {
        name: (each["is_grid"], each["samples"]["0"]["across"]) for name, each in fields.items()
    }
    assert grids == {"odd/many": (True, 3), "odd/ragged": (False, 4), "odd/thin": (True, 2)}
    headings = [each.text for each in browser.find_elements("css selector", ".tokens > h4")]
    assert headings[:3] == [
        "odd/many · 3 × 3 patches",
        "odd/ragged · 7 tokens, row by row",
        "odd/thin · 2 × 2 patches",
    ]


def test_a_missing_library_is_one_line(whole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    done = run("peek", whole, "--html", tmp_path / "p.html", "--samples", 1)
    assert done.exit_code == 2 and "a picture needs plotly" in done.stderr
    assert pip_install("plot") in done.stderr and not (tmp_path / "p.html").exists()


def test_large_images_and_maps_are_reduced_and_it_is_said():
    image = np.arange(600 * 300 * 3, dtype=np.uint32).reshape(600, 300, 3).astype(np.uint8)
    small = items._panel(peek.Panel("t", "c", "image", image))
    assert (small["height"], small["width"]) == (200, 100) and "1/3 of its size" in small["caption"]
    map_ = items._panel(peek.Panel("t", "c", "map", np.arange(300.0 * 100).reshape(300, 100)))
    assert (map_["rows"], map_["columns"]) == (100, 100)
    assert "one of 3 rows and of 1 columns" in map_["caption"] and map_["low"] == 0
    empty = items._panel(peek.Panel("t", "c", "bars", np.full(3, np.nan)))
    assert (empty["low"], empty["high"]) == (0.0, 0.0) and empty["levels"] == "////"


def test_the_first_of_two_views_is_shown_and_it_is_said(fakes, tmp_path):
    cache = fakes.build(tmp_path / "c", ["pixels", "caption"], fakes.Source(8), flip=True)
    path = written(cache, tmp_path / "p.html")
    assert "The cache has 2 views of each; the first is shown." in path.read_text()
    found = {each["key"]: each["shows"] for each in data_of(path)["samples"]}
    texts = [panel["text"] for panels in found.values() for panel in panels if "text" in panel]
    assert len(texts) == 8 and all(text.startswith("a picture") for text in texts)


def test_importing_pages_needs_none_of_the_libraries():
    code = "import reed.view.pages.cache, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    names = {name.partition(".")[0] for name in loaded.split()}
    assert "reed" in names and not names & {"rdkit", "plotly", "jinja2", "PIL", "matplotlib"}
