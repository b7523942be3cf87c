"""Names to objects: found by scanning one package, or by path."""

from __future__ import annotations

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
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    import shelf

    return shelf.THINGS


def test_names_and_get_find_what_the_modules_register(table):
    assert table.get("pear") == "PEAR"
    assert table.names() == ["apple", "pear"]


def test_nothing_is_imported_before_it_is_asked_for(table):
    import sys

    assert "shelf.apple" not in sys.modules
    table.names()
    assert "shelf.apple" in sys.modules


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
    with pytest.raises(AssertionError, match="'a' is registered twice"):
        registry.register("a")(first)
