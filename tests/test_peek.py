"""reed-cache peek: one sample of every column as a picture."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from reed import picture
from reed.build import column, engines
from reed.cache import plan, schema
from reed.cli import cache as cli
from reed.errors import ReedError
from reed.extras import pip_install
from reed.view import info, peek, shares


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The digits cache, as the command line builds it."""
    path = tmp_path_factory.mktemp("digits") / "digits"
    done = run("build", "digits", "--cache", path)
    assert done.exit_code == 0, (done.output, done.exception)
    return path


def run(*words):
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def pixels(path):
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def shown(cache, row=0):
    return peek.panels(cache, plan.load(cache), row)


def test_a_picture_of_a_digit(digits, tmp_path):
    done = run("peek", digits, "#5", "--out", tmp_path / "new" / "p.png")
    assert done.exit_code == 0 and done.stdout == f"{tmp_path / 'new' / 'p.png'}\n"
    found = pixels(tmp_path / "new" / "p.png")
    across, down = 3, 2
    want = (down * peek.HEIGHT + 0.5) * peek.DPI, across * peek.WIDTH * peek.DPI, 3
    assert found.shape == tuple(map(round, want))
    top, panel = found[60:], round(peek.WIDTH * peek.DPI)
    for place in range(across):  # every panel has ink
        for half in np.array_split(top[:, place * panel : (place + 1) * panel], down):
            assert half.std() > 10


def test_every_column_of_a_digit_has_its_panels(digits):
    labels, found = shown(digits)
    assert labels == [f"label {labels[0].split()[1]}"] and labels[0].split()[1] in "0123456789"
    assert [(panel.title, panel.shows) for panel in found] == [
        ("pixels/pixels", "image"),
        ("caption-ngrams/embedding", "bars"),
        ("describe/caption", "text"),
        ("digits-vit/tokens", "image"),
        ("digits-vit/tokens", "map"),
        ("digits-vit/cls", "bars"),
    ]
    values = [panel.value for panel in found]
    assert values[0].shape == (8, 8, 3) and values[0].dtype == np.uint8 and values[0].std() > 30
    assert values[3].shape == (4, 4, 3) and values[3].std(axis=(0, 1)).min() > 5
    assert values[4].shape == (4, 4) and values[4].min() > 0
    assert found[3].caption.startswith("token 16x64, int8")


def test_colours_are_the_same_whichever_sample_is_drawn_first(digits):
    assert np.array_equal(shown(digits, 300)[1][3].value, shown(digits, 300)[1][3].value)
    column = np.stack([shown(digits, row)[1][3].value for row in (0, 300, 900)]).astype(int)
    assert 60 < column.mean() < 195  # three standard deviations of all tokens, not of one sample's


def test_a_key_a_row_and_a_draw(digits):
    keys = plan.load(digits).keys
    assert peek.find(digits, keys[7]) == peek.find(digits, "#7") == 7
    draws = [peek.find(digits, "random", seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2] and max(draws) < len(keys)


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("digit-00000", ["no sample 'digit-00000'", "'digit-0000'", "'#ROW' (of 1797)"]),
        ("0894", ["no sample '0894'", "'digit-0894'"]),
        ("", ["no sample ''", "random"]),
        ("#1797", ["no row 1797", "#0 to #1796"]),
        ("#-1", ["no sample '#-1'"]),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(digits, key, parts):
    done = run("peek", digits, key)
    assert done.exit_code == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert all(part in done.stderr for part in parts), done.stderr


def test_the_picture_is_named_after_the_key(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("peek", whole, "a/sample-007.png")
    assert done.stdout == "peek-a-sample-007.png.png\n", done.stderr
    assert pixels(tmp_path / "peek-a-sample-007.png.png").std() > 10


def test_what_a_column_lacks_is_said(fakes, tmp_path):
    fakes.build(tmp_path, ["pixels", "caption"], fakes.Source(120, bad=(3,)), shard_size=100)
    (tmp_path / "caption" / "000001.json").unlink()
    keys = plan.load(tmp_path).keys
    _, found = shown(tmp_path, keys.index("a/sample-003.png"))
    assert ("pixels", "left out: the file is empty") in [(p.title, p.value) for p in found]
    _, found = shown(tmp_path, 119)
    assert ("caption", "shard 1 is not built yet") in [(p.title, p.value) for p in found]
    assert peek.save(tmp_path, 119, tmp_path / "p.png").is_file()


def test_every_kind_and_shape_can_be_drawn(odd, tmp_path):
    found = {panel.title + panel.shows: panel for panel in shown(odd)[1]}
    assert found["odd/latentimage"].value.shape == (4, 4, 3)
    assert "mean, channels 1 to 3" in found["odd/latentimage"].caption
    two = found["odd/twoimage"].value
    assert np.array_equal(two[..., 0], two[..., 2]) and (two.min(), two.max()) == (0, 255)
    assert found["odd/rgbimage"].value.shape == (4, 4, 3)
    assert found["odd/linemap"].value.shape == (30, 3)
    assert found["odd/manyimage"].value.shape == (3, 3, 3)
    assert "pca:4" in found["odd/manyimage"].caption
    assert found["odd/raggedmap"].value.shape == (1, 7)
    assert found["odd/nonetext"].value == "[]"
    assert found["odd/pairmap"].value.shape == (5, 4)
    thin = found["odd/thinimage"].value
    assert (thin[..., 1:] == 128).all() and np.ptp(thin[..., 0]) > 0
    assert pixels(peek.save(odd, 0, tmp_path / "p.png")).std() > 10


def test_a_label_has_the_name_of_its_class(digits):
    """Of the source's labels alone: another column may hold other numbers."""
    made = replace(schema.load_column(digits, "pixels"), reads=("image", "label"))
    (field,) = (field for field in made.fields if field.kind == "label")
    names = [f"n{n}" for n in range(10)]
    assert shares.label_text(made, field, names, np.int64(3)) == "label 3 (n3)"
    assert shares.label_text(made, field, [], np.int64(3)) == "label 3"
    assert shares.label_text(made, field, names[:3], np.int64(3)) == "label 3"
    other = replace(made, reads=("own",))
    assert shares.label_text(other, field, names, np.int64(3)) == "label 3"
    assert shares.label_text(made, field, names, np.array([1, 2])) == "label [1 2]"


def test_every_view_is_drawn_beside_the_first(fakes, tmp_path):
    source = fakes.Source()
    frozen = plan.freeze(
        tmp_path,
        source.listing(),
        pipeline="fake",
        domain="image",
        source="fakes",
        shard_size=16,
        flip=True,
    )
    for name in ("pixels", "caption"):
        job = column.open_job(tmp_path, frozen, name, fakes.make(name), source)
        engines.run(job, engines.Share(), progress=False)
    labels, found = shown(tmp_path, 20)
    assert [panel.title for panel in found] == [
        "pixels/x, view 0",
        "pixels/x, view 1",
        "caption/text, view 0",
        "caption/text, view 1",
    ]
    assert len(labels) == 1
    values = [panel.value for panel in found]
    assert np.array_equal(values[0], values[1][:, ::-1]) and values[2] == values[3][::-1]
    assert "views 2" in "\n".join(info.lines(tmp_path))


@pytest.mark.parametrize("name", ["matplotlib", "PIL"])
def test_a_missing_library_is_one_line(name, whole, tmp_path, monkeypatch):
    for loaded in [each for each in sys.modules if each.split(".")[0] == name]:
        monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.setitem(sys.modules, name, None)
    if name == "PIL":
        command = re.escape(pip_install("plot"))
        with pytest.raises(ReedError, match=f"a picture needs Pillow, .* {command}"):
            picture.save_png(np.zeros((2, 2, 3), np.uint8), tmp_path / "p.png")
    else:
        done = run("peek", whole, "#0", "--out", tmp_path / "p.png")
        assert done.exit_code == 2 and done.stderr.count("\n") == 1
        assert "a picture needs matplotlib" in done.stderr and pip_install("plot") in done.stderr
    assert not (tmp_path / "p.png").exists()


def test_a_place_that_cannot_be_written_is_one_line(whole, tmp_path):
    (tmp_path / "p.png").mkdir()
    with pytest.raises(ReedError, match="cannot write .*p.png: .*; choose another --out"):
        peek.save(whole, 0, tmp_path / "p.png")
