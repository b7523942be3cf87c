"""Names to objects: found by scanning one package, or by path."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from reed.errors import ReedError
from reed.registry import Registry


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A registry over a package of two modules, each of which registers one thing."""
    package = tmp_path / "shelf"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from reed.registry import Registry\nTHINGS = Registry('thing', 'shelf')\n"
    )
    for name in ("apple", "pear"):
        (package / f"{name}.py").write_text(
            f"from shelf import THINGS\nTHINGS.register('{name}')({name!r}.upper())\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("shelf", "shelf.apple", "shelf.pear"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import shelf

    return shelf.THINGS


def test_names_and_get_find_what_the_modules_register(table):
    assert table.get("pear") == "PEAR"
    assert table.names() == ["apple", "pear"]


def test_nothing_is_imported_before_it_is_asked_for(table):
    assert "shelf.apple" not in sys.modules
    table.names()
    assert "shelf.apple" in sys.modules


def test_a_module_of_the_name_is_imported_alone(table):
    """A run on images must not wait for the nets of proteins and molecules."""
    assert table.get("pear") == "PEAR"
    assert "shelf.apple" not in sys.modules
    assert table.get("apple") == "APPLE"


def test_a_module_of_the_name_may_register_something_else(table):
    folder = Path(sys.modules["shelf"].__file__).parent
    (folder / "plum.py").write_text("from shelf import THINGS\nTHINGS.register('fig')('FIG')\n")
    (folder / "grove.py").write_text("from shelf import THINGS\nTHINGS.register('plum')('P')\n")
    assert table.get("plum") == "P" and table.get("fig") == "FIG"


def test_an_unknown_name_is_refused_with_the_nearest(table):
    with pytest.raises(ReedError, match=r"unknown thing 'aple'\. Did you mean 'apple'\?.*pear"):
        table.get("aple")


def test_a_path_needs_no_registration(table):
    assert table.get("json:dumps")(1) == "1"
    assert "json:dumps" not in table.names()


def test_a_prefix_makes_the_object_from_the_rest(table):
    table.prefixes["fruit"] = str.title
    assert table.get("fruit:plum") == "Plum"
    assert "fruit:plum" not in table.names()


@pytest.mark.parametrize(
    "path",
    ["no_such_module:x", "json:no_such", "json:", ":dumps", ".json:dumps", "json.decoder.x:y"],
)
def test_a_path_to_nothing_is_refused(table, path):
    with pytest.raises(ReedError, match="cannot load thing") as error:
        table.get(path)
    assert repr(path) in str(error.value)


def test_register_returns_the_object_and_refuses_a_second():
    registry = Registry("thing", "json")

    @registry.register("a")
    def first():
        return 1

    assert first() == 1
    with pytest.raises(ReedError, match="thing 'a' is registered twice; rename"):
        registry.register("a")(first)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution of one module on the path: install(name, text, thing=place)."""

    def put(name, text, **points):
        (tmp_path / f"{name}.py").write_text(text)
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{thing} = {place}" for thing, place in points.items()]
        (about / "entry_points.txt").write_text("\n".join(["[shelf]", *lines]) + "\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()

    return put


def test_an_installed_package_offers_more_by_name(table, install):
    install("market", "PLUM = 'PLUM'", plum="market:PLUM")
    assert table.names() == ["apple", "pear", "plum"]
    assert "market" not in sys.modules  # its name is known without importing it
    assert table.get("plum") == "PLUM"
    with pytest.raises(ReedError, match=r"Did you mean 'plum'\? Available: apple, pear, plum"):
        table.get("plumm")


def test_a_plugin_may_register_what_it_offers(table, install):
    install("market", "import shelf\nPLUM = shelf.THINGS.register('plum')('P')", plum="market:PLUM")
    assert table.get("plum") == "P" == table.get("plum")
    assert table.names() == ["apple", "pear", "plum"]


def test_a_name_with_two_owners_is_refused(table, install):
    install("market", "X = 'x'", pear="market:X", plum="market:X")
    install("orchard", "Y = 'y'", plum="orchard:Y")
    with pytest.raises(ReedError, match="'pear' is offered by the package market and by shelf"):
        table.get("pear")
    with pytest.raises(ReedError, match="'plum' .* package (market|orchard) and by the package"):
        table.get("plum")
    assert table.get("market:X") == "x"  # what the message advises


def test_a_plugin_that_cannot_be_imported_is_named(table, install):
    install("market", "import no_such_module", plum="market:PLUM")
    with pytest.raises(ReedError, match="thing 'market:PLUM': No module named 'no_such_module'"):
        table.get("plum")
