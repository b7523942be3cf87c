"""reed-cache list: a line on each name, and the encoders of a file that was never installed."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from reed import pipelines
from reed.cache.codecs import codecs
from reed.cli.cache import main
from reed.encoders import ENCODERS
from reed.sources import SOURCES
from reed.view import listing

EXAMPLE = Path(__file__).resolve().parent.parent / "docs" / "examples" / "patches.py"


def listed(what):
    found = CliRunner().invoke(main, ["list", what])
    assert found.exit_code == 0, found.output
    return dict(line.split(maxsplit=1) for line in found.stdout.splitlines())


@pytest.fixture
def patches(tmp_path, monkeypatch):
    """A fresh folder with the encoder of the documentation in a file."""
    (tmp_path / "patches.py").write_bytes(EXAMPLE.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    yield tmp_path
    sys.modules.pop("patches", None)


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("encoders", [*ENCODERS.names(), "diffusers:NAME", "timm:NAME", "transformers:NAME"]),
        ("sources", SOURCES.names()),
        ("pipelines", pipelines.names()),
        ("codecs", codecs.NAMES),
    ],
)
def test_every_name_comes_first_and_is_explained(what, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = listed(what)
    assert list(found) == list(names)
    assert all(len(text) > 10 and "cannot" not in text for text in found.values())


def test_an_encoder_says_its_model_and_licence():
    found = dict(listing.encoder_lines(Path("nowhere")))
    assert found["dinov2-b"] == "timm/vit_base_patch14_dinov2.lvd142m [Apache-2.0]"
    assert found["describe"].startswith("One English sentence per digit")
    assert found["describe"].endswith(" [MIT]")


def test_where_there_is_no_cache_a_line_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build = "build one: reed-cache build digits (reed-cache list pipelines shows the others)\n"

    def said():
        found = CliRunner().invoke(main, ["list"])
        assert found.exit_code == 0 and found.stdout == ""
        return found.stderr

    place = tmp_path / "cache"
    assert said() == f"no caches: there is no folder {place}; go where it is, or {build}"
    place.mkdir()
    assert said() == f"no caches: no folder in {place} has a manifest.json; {build}"
    (place / "half" / "pixels").mkdir(parents=True)
    (place / "README.md").touch()
    looked = f"no folder in {place} has a manifest.json (1 folder without one: half)"
    assert said() == f"no caches: {looked}; {build}"


@pytest.mark.parametrize("what", ["pipelines", "encoders", "sources", "codecs"])
def test_an_empty_listing_says_so(what, tmp_path, monkeypatch):
    """`reed-cache list encoders` without an encoder spoke of caches."""
    monkeypatch.chdir(tmp_path)
    for name in ("pipeline_lines", "source_lines", "codec_lines"):
        monkeypatch.setattr(listing, name, lambda: iter(()))
    monkeypatch.setattr(listing, "encoder_lines", lambda folder: iter(()))
    found = CliRunner().invoke(main, ["list", what])
    again = "install it again, then: reed-cache doctor\n"
    assert found.output == f"no {what} are installed with reed; {again}"


def test_a_codec_says_how_it_stores_the_values():
    found = dict(listing.codec_lines())
    assert found["float16"] == "The values as float16."
    assert found["float32+nan"] == "The values as float32; NaN marks missing values."
    assert found["pca:K+int8"].endswith("components of the channels, stored as int8.")
    assert found["standard"].endswith("divided by its standard deviation, stored as float16.")


def test_the_encoder_of_the_documentation_is_listed_and_built(patches, monkeypatch):
    found = listed("encoders")
    assert list(found)[-1] == "patches:Patches"
    assert found["patches:Patches"].startswith("An encoder of your own: the four")
    assert "patches" not in sys.modules  # the file was read, not run
    words = ["build", "digits", "--cache", "c", "--encoder", "patches=patches:Patches"]
    built = CliRunner().invoke(main, words)
    assert built.exit_code == 0, built.output
    assert len(list((patches / "c" / "patches").glob("*.tar"))) == 8


def test_what_is_registered_is_listed_and_other_classes_are_not(patches):
    (patches / "table.py").write_text(
        "class Row:\n    def encode(self): ...\n\n"
        "@ENCODERS.register('mine')\nclass Mine(Base):\n    '''Of its own.'''\n"
    )
    found = dict(listing._in_files(patches))
    assert list(found) == ["patches:Patches", "table:Mine"]
    assert found["table:Mine"] == "Of its own. (in table.py)"


def test_a_file_that_is_not_python_is_named(patches):
    (patches / "broken.py").write_text("print 'two'\n")
    found = listed("encoders")
    assert "cannot be read: Missing parentheses" in found["broken.py"]
    assert "patches:Patches" in found


def test_an_installed_encoder_is_listed_and_built_by_its_name(patches, monkeypatch):
    about = patches / "strange-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[reed.encoders]\npatches = patches:Patches\nlost = no_such_module:Lost\n"
    )
    monkeypatch.syspath_prepend(patches)
    points = metadata.entry_points(group="reed.encoders")
    monkeypatch.setattr(ENCODERS, "_plugins", points)
    found = listed("encoders")
    assert found["patches"] == "[MIT]"  # its class has no docstring
    assert found["lost"].startswith("cannot be used: ") and "no_such_module" in found["lost"]
    built = CliRunner().invoke(main, ["build", "digits", "--cache", "c", "--encoder", "patches"])
    assert built.exit_code == 0, built.output
    assert (patches / "c" / "patches" / "000000.tar").is_file()
