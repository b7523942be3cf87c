"""Configuration: what merges, what a --set says, and what building refuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reed import config
from reed.errors import ReedError, suggest


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None


@dataclass(frozen=True)
class Tap:
    tap: int
    detach: bool = False


@dataclass(frozen=True)
class Run:
    name: str
    steps: int = 10
    where: Path = Path("runs")
    optim: Optim = Optim()
    extra: Tap | None = None
    align: dict[str, Tap] = field(default_factory=dict)
    layers: tuple[int, ...] = ()
    names: list[str] = field(default_factory=list)
    free: dict[str, object] = field(default_factory=dict)
    schedule: float | str = 1.0
    derived: int = field(default=0, init=False)


def refused(data, *parts, cls=Run):
    with pytest.raises(ReedError) as error:
        config.build(cls, {"name": "a", **data} if cls is Run else data)
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_merge_lays_tables_on_tables_and_replaces_the_rest():
    base = {"optim": {"lr": 1, "betas": [1, 2]}, "steps": 5, "align": {"a": {"tap": 1}}}
    over = {"optim": {"betas": [3]}, "align": {"b": {"tap": 2}}, "steps": {"n": 1}}
    assert config.merge(base, over) == {
        "optim": {"lr": 1, "betas": [3]},
        "steps": {"n": 1},
        "align": {"a": {"tap": 1}, "b": {"tap": 2}},
    }


def test_merge_changes_neither_argument():
    base, over = {"a": {"x": 1}}, {"a": {"y": 2}, "b": {"z": 3}}
    config.merge(base, over)
    assert (base, over) == ({"a": {"x": 1}}, {"a": {"y": 2}, "b": {"z": 3}})


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("optim.lr=2e-4", {"optim": {"lr": 2e-4}}),
        (" steps = 7 ", {"steps": 7}),
        ("layers=[1, 2]", {"layers": [1, 2]}),
        ("detach=true", {"detach": True}),
        ("name=run-a/b.c", {"name": "run-a/b.c"}),
        ('name="quoted"', {"name": "quoted"}),
        ("name=7.5.1", {"name": "7.5.1"}),
        ("name=", {"name": ""}),
        ("name=a=b", {"name": "a=b"}),
        ('name=größe 😀 \\ "x"', {"name": 'größe 😀 \\ "x"'}),
        ('align."v1.5".tap=4', {"align": {"v1.5": {"tap": 4}}}),
        ("align.dinov2-b.tap=4", {"align": {"dinov2-b": {"tap": 4}}}),
    ],
)
def test_assignment_reads_toml_or_a_bare_word(text, table):
    assert config.assignment(text) == table


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("steps", "not of the form name=value"),
        ("=3", "not of the form name=value"),
        ("a b=3", "not a dotted name"),
        ("a..b=3", "not a dotted name"),
    ],
)
def test_assignment_refuses_what_names_nothing(text, part):
    with pytest.raises(ReedError, match=part) as error:
        config.assignment(text)
    assert repr(text) in str(error.value)


def test_build_converts_and_fills_in_defaults():
    run = config.build(
        Run,
        {
            "name": "a",
            "where": "x/y",
            "optim": {"lr": 1, "clip": None, "betas": [0, 1]},
            "align": {"d": {"tap": 3}},
            "layers": [1, 2],
            "names": ["a"],
            "extra": {"tap": 1},
            "schedule": "cosine",
            "free": {"k": [1, {"z": None}]},
        },
    )
    assert run == Run(
        "a",
        10,
        Path("x/y"),
        Optim(1.0, (0.0, 1.0)),
        Tap(1),
        {"d": Tap(3)},
        (1, 2),
        ["a"],
        {"k": [1, {"z": None}]},
        "cosine",
    )
    assert type(run.optim.lr) is float and type(run.layers) is tuple


def test_a_dataclass_is_accepted_as_it_is():
    assert config.build(Run, {"name": "a", "optim": Optim(3.0)}).optim == Optim(3.0)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"stpes": 3}, ["unknown setting 'stpes'", "Did you mean 'steps'?"]),
        ({"optim": {"lrr": 3}}, ["unknown setting 'optim.lrr'", "Did you mean 'lr'?"]),
        ({"align": {"d": {"tpa": 1}}}, ["unknown setting 'align.d.tpa'", "'tap'"]),
        ({"extra": {"tpa": 1}}, ["unknown setting 'extra.tpa'", "Did you mean 'tap'?"]),
        ({"derived": 3}, ["unknown setting 'derived'"]),
        ({"align": {"d": {}}}, ["setting 'align.d.tap' is missing"]),
        ({"steps": 1.0}, ["steps must be int, got float 1.0"]),
        ({"steps": True}, ["steps must be int, got bool True"]),
        ({"steps": "7"}, ["steps must be int, got str '7'"]),
        ({"steps": None}, ["steps must be int, got NoneType None"]),
        ({"optim": {"lr": True}}, ["optim.lr must be float, got bool True"]),
        ({"optim": {"clip": "a"}}, ["optim.clip", "'a'"]),
        ({"extra": {"tap": 1, "detach": 1}}, ["extra.detach must be bool, got int 1"]),
        ({"extra": 3}, ["extra", "3"]),
        ({"schedule": [1]}, ["schedule cannot be [1]"]),
        ({"optim": 3}, ["optim must be a table, got 3"]),
        ({"align": 3}, ["align must be a table, got 3"]),
        ({"layers": 3}, ["layers must be a list, got 3"]),
        ({"layers": [1, "b"]}, ["layers[1] must be int, got str 'b'"]),
        ({"names": "abc"}, ["names must be a list, got 'abc'"]),
        ({"optim": {"betas": [1]}}, ["optim.betas must have 2 entries, got 1"]),
        ({"where": 3}, ["where must be", "3"]),
    ],
)
def test_build_refuses(data, parts):
    refused(data, *parts)


def test_build_refuses_a_missing_key_and_a_list_for_a_table():
    refused({}, "setting 'tap' is missing", cls=Tap)
    refused([1], "the configuration must be a table, got [1]", cls=Tap)


def test_plain_of_a_build_builds_the_same_again():
    data = {"name": "a", "align": {"d": {"tap": 3}}, "where": "x", "layers": [4], "free": {"a": 1}}
    run = config.build(Run, data)
    plain = config.plain(run)
    assert config.build(Run, plain) == run
    assert plain["where"] == "x" and plain["layers"] == [4] and "derived" not in plain


def test_read_knows_toml_and_json(tmp_path):
    (tmp_path / "a.toml").write_text('[optim]\nlr = 1e-3\nname = "ü"\n', encoding="utf-8")
    (tmp_path / "a.json").write_text('{"optim": {"lr": 0.001, "name": "ü"}}', encoding="utf-8")
    assert config.read(tmp_path / "a.toml") == config.read(str(tmp_path / "a.json"))


def test_read_names_the_file_that_it_cannot_read(tmp_path):
    (tmp_path / "bad.toml").write_text("a = = 1")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "latin.toml").write_bytes(b"a = '\xfc'")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "folder.toml").mkdir()
    for name in ("list.json", "bad.toml", "bad.json", "latin.toml", "folder.toml", "absent.toml"):
        with pytest.raises(ReedError, match=name):
            config.read(tmp_path / name)


def test_suggest_names_the_nearest_and_all():
    assert suggest("lrr", ["wd", "lr"]) == " Did you mean 'lr'? Available: lr, wd"
    assert suggest("zzz", ["lr"]) == " Available: lr"
    assert suggest("zzz", ["", "lr"]) == " Available: lr"  # an empty value is left out
    assert suggest("lr", []) == " (none are available)"
