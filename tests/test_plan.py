"""The frozen plan: a pure function of the listing and a few integers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reed.cache import plan
from reed.errors import ReedError


def listing(count, prefix="s"):
    return {f"{prefix}{i:04d}": f"stamp{i}" for i in range(count)}


def freeze(cache, found, **changes):
    settings = {"pipeline": "p", "domain": "image", "source": "src", "shard_size": 4} | changes
    return plan.freeze(cache, found, **settings)


def contents(cache):
    return {path.name: path.read_bytes() for path in cache.iterdir()}


def refused(*parts, call):
    with pytest.raises(ReedError) as error:
        call()
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


# ---- the plan


def test_every_key_is_in_one_shard_and_locate_finds_it(tmp_path):
    frozen = freeze(tmp_path, listing(11))
    assert frozen.shards == 3
    assert [len(frozen.rows(i)) for i in range(3)] == [4, 4, 3]
    keys = [key for i in range(3) for key in frozen.keys_of(i)]
    assert keys == list(frozen.keys) and sorted(keys) == sorted(listing(11))
    for row in range(11):
        shard, place = frozen.locate(row)
        assert frozen.rows(shard)[place] == row


def test_shards_never_cross_a_segment(tmp_path):
    frozen = freeze(tmp_path, listing(11))
    manifest = plan.schema.replace(frozen.manifest, segments=(5, 6))
    split = plan.Plan(manifest, frozen.keys, frozen.stamps)
    assert [split.rows(i) for i in range(split.shards)] == [
        range(0, 4),
        range(4, 5),
        range(5, 9),
        range(9, 11),
    ]


def test_the_order_of_the_listing_does_not_matter(tmp_path):
    found = listing(50)
    freeze(tmp_path / "a", found)
    freeze(tmp_path / "b", dict(reversed(found.items())))
    for name in ("keys.txt", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_order_is_mixed_and_depends_on_its_seed(tmp_path):
    one = freeze(tmp_path / "a", listing(200))
    other = freeze(tmp_path / "b", listing(200), order_seed=1)
    assert one.keys != other.keys and sorted(one.keys) == sorted(other.keys)
    jumps = np.abs(np.diff([int(key[1:]) for key in one.keys]))
    assert jumps.mean() > 40  # 1 when sorted, 67 when mixed


def test_a_second_run_reads_the_same_plan_and_writes_nothing(tmp_path):
    first = freeze(tmp_path, listing(9))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert freeze(tmp_path, listing(9)) == first == plan.load(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_keys_and_stamps_of_any_kind_come_back(tmp_path):
    found = {"größe/日本 😀.png": "1 2", " lead": "", "a\u2028b\x85c\x0b": "x", "#": "\u2029"}
    frozen = freeze(tmp_path, found)
    assert dict(zip(frozen.keys, frozen.stamps, strict=True)) == found


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda d: d | {"zz": "1", "y": "1"}, ["2 new (first: 'y')"]),
        (lambda d: {k: v for k, v in d.items() if k > "s0001"}, ["2 gone (first: 's0000')"]),
        (lambda d: d | {"s0003": "other"}, ["1 changed (first: 's0003')"]),
        (
            lambda d: {k: v for k, v in d.items() if k > "s0000"} | {"t": "", "s0005": ""},
            ["1 new (first: 't')", "1 gone (first: 's0000')", "1 changed (first: 's0005')"],
        ),
    ],
)
def test_a_changed_source_is_refused_with_the_difference(tmp_path, change, parts):
    freeze(tmp_path, listing(9))
    before = contents(tmp_path)
    flags = ("--extend", "--rebuild")
    refused(str(tmp_path), *parts, *flags, call=lambda: freeze(tmp_path, change(listing(9))))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("what", ["pipeline", "source", "domain"])
def test_another_pipeline_source_or_domain_is_refused(tmp_path, what):
    freeze(tmp_path, listing(9))
    refused(
        f"built with {what}",
        "'other'",
        call=lambda: freeze(tmp_path, listing(9), **{what: "other"}),
    )


@pytest.mark.parametrize("key", ["", "a\tb", "a\nb", "a\rb", "a\0b", "a\udc80b"])
def test_a_key_that_no_file_can_hold_is_refused(tmp_path, key):
    refused(repr(key), "rename it", call=lambda: freeze(tmp_path, {"good": "", key: ""}))
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("stamp", ["a\nb", "\udc80"])
def test_a_stamp_that_no_line_can_hold_is_a_bug_of_the_source(tmp_path, stamp):
    with pytest.raises(AssertionError, match="stamp of 'good'"):
        freeze(tmp_path, {"good": stamp})
    assert not (tmp_path / "manifest.json").exists()


def test_an_empty_source_is_refused(tmp_path):
    refused("'src' has no samples", call=lambda: freeze(tmp_path, {}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "tamper", [lambda b: b[:-3], lambda b: b.replace(b"s0001", b"s0002"), lambda b: b + b"x\t\n"]
)
def test_tampered_keys_are_refused(tmp_path, tamper):
    freeze(tmp_path, listing(9))
    path = tmp_path / "keys.txt"
    path.write_bytes(tamper(path.read_bytes()))
    refused("keys.txt", "sha256", "restore them", call=lambda: plan.load(tmp_path))


def test_missing_keys_are_refused(tmp_path):
    freeze(tmp_path, listing(9))
    (tmp_path / "keys.txt").unlink()
    refused("keys.txt", call=lambda: plan.load(tmp_path))


def test_a_manifest_of_another_count_is_refused(tmp_path, edit_json):
    freeze(tmp_path, listing(9))
    edit_json(tmp_path / "manifest.json", segments=[8])
    refused("9 keys", "says 8", call=lambda: plan.load(tmp_path))


def test_a_folder_without_a_cache_is_refused(tmp_path):
    refused("no cache at", "reed-cache build", call=lambda: plan.load(tmp_path))


def test_a_manifest_of_another_format_is_refused(tmp_path, edit_json):
    freeze(tmp_path, listing(9))
    edit_json(tmp_path / "manifest.json", format=2)
    refused("manifest.json", "format 2", "reads 1", call=lambda: plan.load(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"format": 1}', "\x00"])
def test_a_broken_manifest_is_refused(tmp_path, text):
    freeze(tmp_path, listing(9))
    (tmp_path / "manifest.json").write_text(text)
    refused("manifest.json", call=lambda: plan.load(tmp_path))


def test_a_manifest_with_an_unknown_entry_is_refused(tmp_path, edit_json):
    freeze(tmp_path, listing(9))
    edit_json(tmp_path / "manifest.json", sourse="x")
    refused("manifest.json.sourse", "Did you mean 'source'", call=lambda: plan.load(tmp_path))


def test_the_plan_on_disk_is_what_the_readme_says(tmp_path):
    frozen = freeze(tmp_path, listing(9))
    lines = (tmp_path / "keys.txt").read_text().splitlines()
    assert lines == [f"{k}\t{s}" for k, s in zip(frozen.keys, frozen.stamps, strict=True)]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == {
        "format": 1,
        "pipeline": "p",
        "domain": "image",
        "source": "src",
        "shard_size": 4,
        "order_seed": 0,
        "segments": [9],
        "keys_sha256": frozen.manifest.keys_sha256,
        "views": 1,
        "options": {},
        "self": manifest["self"],
    }


def test_the_frozen_shard_size_and_views_win(tmp_path):
    first = freeze(tmp_path, listing(9), flip=True)
    assert first.manifest.views == 2
    assert freeze(tmp_path, listing(9), shard_size=2, flip=False) == first


def test_views_cannot_be_added(tmp_path):
    freeze(tmp_path, listing(9))
    refused("1 view", "--flip", "--rebuild", call=lambda: freeze(tmp_path, listing(9), flip=True))


def test_a_proposal_is_what_is_frozen_and_writes_nothing(tmp_path):
    settings = {"pipeline": "p", "domain": "image", "source": "src", "shard_size": 4}
    proposed = plan.propose(tmp_path / "c", listing(9), **settings)
    assert not (tmp_path / "c").exists()
    assert freeze(tmp_path / "c", listing(9)) == proposed
    before = contents(tmp_path / "c")
    proposed = plan.propose(tmp_path / "c", listing(12), extend=True, **settings)
    assert contents(tmp_path / "c") == before
    assert freeze(tmp_path / "c", listing(12), extend=True) == proposed


# ---- extended, and started anew


def test_an_extension_goes_into_new_shards(tmp_path):
    first = freeze(tmp_path, listing(9))
    text = (tmp_path / "keys.txt").read_bytes()
    more = freeze(tmp_path, listing(14), extend=True)
    assert (tmp_path / "keys.txt").read_bytes() == text
    assert more == plan.load(tmp_path) == freeze(tmp_path, listing(14))
    assert more.manifest.segments == (9, 5) and more.keys[:9] == first.keys
    assert sorted(more.keys) == sorted(listing(14))
    assert [more.keys_of(i) for i in range(3)] == [first.keys_of(i) for i in range(3)]
    assert [len(more.rows(i)) for i in range(more.shards)] == [4, 4, 1, 4, 1]
    third = freeze(tmp_path, listing(15), extend=True)
    assert third.manifest.segments == (9, 5, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "keys-1.txt",
        "keys-2.txt",
        "keys.txt",
        "listing.json",
        "manifest.json",
    ]


def test_an_extension_depends_on_what_is_new_alone(tmp_path):
    for name in "ab":
        freeze(tmp_path / name, listing(9))
        found = listing(60)
        freeze(
            tmp_path / name, found if name == "a" else dict(reversed(found.items())), extend=True
        )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    new = [int(key[1:]) for key in plan.load(tmp_path / "a").keys[9:]]
    assert np.abs(np.diff(new)).mean() > 8  # 1 when sorted, 17 when mixed


def test_extending_by_nothing_writes_nothing(tmp_path):
    frozen, before = freeze(tmp_path, listing(9)), contents(tmp_path)
    assert freeze(tmp_path, listing(9), extend=True) == frozen
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [lambda d: {k: v for k, v in d.items() if k != "s0003"}, lambda d: d | {"s0003": "other"}],
)
def test_an_extension_by_a_changed_source_is_refused(tmp_path, change):
    freeze(tmp_path, listing(9))
    before = contents(tmp_path)
    refused(
        "1 new (first: 's0009')",
        "(first: 's0003')",
        call=lambda: freeze(tmp_path, change(listing(10)), extend=True),
    )
    assert contents(tmp_path) == before


def test_an_extension_that_died_between_its_files_is_harmless(tmp_path, monkeypatch):
    first = freeze(tmp_path, listing(9))
    write = plan.files.write_atomic

    def dying(path, *args, **kwargs):
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        write(path, *args, **kwargs)

    monkeypatch.setattr(plan.files, "write_atomic", dying)
    with pytest.raises(KeyboardInterrupt):
        freeze(tmp_path, listing(12), extend=True)
    monkeypatch.undo()
    assert (tmp_path / "keys-1.txt").is_file()
    assert plan.load(tmp_path) == freeze(tmp_path, listing(9)) == first
    more = freeze(tmp_path, listing(11), extend=True)  # the source has changed once more
    assert plan.load(tmp_path) == more and more.manifest.segments == (9, 2)


def test_tampered_keys_of_an_extension_are_refused(tmp_path):
    freeze(tmp_path, listing(9))
    freeze(tmp_path, listing(12), extend=True)
    path = tmp_path / "keys-1.txt"
    path.write_bytes(path.read_bytes().replace(b"s0010", b"s0013"))
    refused("keys-1.txt", "restore them", "--rebuild", call=lambda: plan.load(tmp_path))


def test_what_is_discarded_is_gone_but_for_what_is_not_ours(fakes, cache):
    (cache / "notes.txt").write_text("mine")
    (cache / "other").mkdir()
    plan.discard(cache)
    assert sorted(path.name for path in cache.iterdir()) == ["notes.txt", "other"]


def test_a_killed_discard_is_finished_by_the_next_build(fakes, cache, whole, monkeypatch):
    columns = plan.schema.columns(cache)
    left = iter(range(7))
    unlink = plan.Path.unlink

    def dying(path, **kwargs):
        if next(left, None) is None:
            raise KeyboardInterrupt
        unlink(path, **kwargs)

    monkeypatch.setattr(plan.Path, "unlink", dying)
    with pytest.raises(KeyboardInterrupt):
        plan.discard(cache)
    monkeypatch.undo()
    assert not (cache / "manifest.json").exists() and plan.schema.columns(cache) == columns
    fakes.build(cache)
    assert fakes.tree(cache) == fakes.tree(whole)


def test_columns_without_a_plan_are_not_adopted(fakes, cache):
    (cache / "manifest.json").unlink()
    names = "caption, pixels, tokens, words"
    refused(names, "no manifest.json", "--rebuild", call=lambda: fakes.build(cache))
