"""Keeping a cache: finding every damaged bit, repairing, reindexing, converting."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from reed.bytes import file_sha256
from reed.cache import convert, files, mend, plan, reader, schema, sealed, verify
from reed.cli import cache as cli
from reed.errors import ReedError

NAMES = ("pixels", "words", "tokens")


def run(*words):
    """The command line in this process."""
    result = CliRunner().invoke(cli.main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def problems(cache):
    """What a deep verification finds; a plan that cannot be read is found, too."""
    try:
        frozen = plan.load(cache)
    except ReedError as error:
        return [error]
    found = []
    for name in verify.names(cache):
        found += [p for p in verify.verify(cache, frozen, name, deep=True) if p]
    return found


def restore(folder, want: dict[str, bytes], name: str) -> None:
    (folder / name).write_bytes(want[name])


@pytest.fixture(scope="module")
def mixed(fakes, tmp_path_factory):
    """A small cache with a column in each container: every kind of file that there is."""
    folder = tmp_path_factory.mktemp("mixed")
    built = fakes.build(folder / "tar", source=fakes.Source(8), shard_size=4)
    convert.convert(built, folder / "h5", "h5", ["tokens"], progress=False)
    convert.convert(folder / "h5", folder / "mixed", "zarr", ["caption"], progress=False)
    return folder / "mixed"


def kinds(cache) -> dict[str, list[str]]:
    """The files of a cache by kind."""
    found: dict[str, list[str]] = {}
    for path in sorted(p for p in cache.rglob("*") if p.is_file()):
        kind = "marker" if path.name[0].isdigit() and path.suffix == ".json" else path.name
        kind = f"shard{path.suffix}" if path.suffix in (".tar", ".h5", ".zarr") else kind
        found.setdefault(kind, []).append(str(path.relative_to(cache)))
    return found


# ---- damage


def damaged(fakes, cache, flips: int, cuts: int, seed: int):
    """Flip bits and truncate, each kind of file in turn: none of it may go unseen."""
    dice, want, by_kind = random.Random(seed), fakes.tree(cache), kinds(cache)
    assert len(by_kind) == 9, sorted(by_kind)
    assert problems(cache) == []
    for case in range(flips + cuts):
        names = by_kind[sorted(by_kind)[case % len(by_kind)]]
        name = dice.choice(names)
        content = bytearray(want[name])
        place = dice.randrange(len(content))
        if case < flips:
            content[place] ^= 1 << dice.randrange(8)
        (cache / name).write_bytes(content[:place] if case >= flips else content)
        assert problems(cache), f"{name}: {'cut' if case >= flips else 'bit'} at byte {place}"
        restore(cache, want, name)
    assert problems(cache) == [] and fakes.tree(cache) == want


def test_flipped_bits_and_cut_files_are_found(fakes, mixed):
    damaged(fakes, mixed, 56, 24, 0)


@pytest.mark.slow
def test_three_hundred_flipped_bits_and_fifty_cut_files_are_found(fakes, mixed):
    damaged(fakes, mixed, 304, 56, 1)


def test_every_bit_of_a_marker_counts(fakes, mixed):
    path = mixed / "pixels" / "000001.json"
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 7):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(ReedError):
            sealed.read(path)
    path.write_bytes(content)


def test_the_hash_in_a_file_is_what_the_readme_says(mixed):
    import hashlib

    data = (mixed / "manifest.json").read_bytes()
    own = json.loads(data)["self"]
    assert hashlib.sha256(data.replace(own.encode(), b"0" * 64)).hexdigest() == own


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"stats": {}}, "statistics of []"),
        ({"stats": {"x": {"count": 1, "sum": [1.0], "sumsq": []}}}, "unsound statistics"),
        ({"stats": {"x": {"count": -1, "sum": [1.0], "sumsq": [1.0]}}}, "unsound statistics"),
        ({"stats": {"x": {"count": 1, "sum": [float("nan")], "sumsq": [1.0]}}}, "unsound"),
        ({"stats": {"x": []}}, "unsound statistics"),
    ],
)
def test_unsound_statistics_are_found(cache, edit_json, changes, part):
    edit_json(cache / "pixels" / "000001.json", **changes)
    (problem,) = problems(cache)
    assert part in problem.what and (problem.column, problem.shard) == ("pixels", 1)


def remade(cache, name, shard, change):
    """Write a shard again with other values, and a marker that fits it."""
    column = schema.load_column(cache, name)
    path, marker = schema.shard_path(cache, column, shard), schema.load_marker(cache, column, shard)
    module, parts = reader.CONTAINERS[column.container], reader.parts_of(column.fields)
    opened = module.Shard(path, marker.parts)
    rows = [reader.stored(opened.read, marker, parts, row) for row in range(len(marker.keys))]
    opened.close()
    members, _ = module.scan(path, parts)
    records = []
    for row, (member, arrays) in enumerate(zip(members, rows, strict=True)):
        change(row, arrays)
        pairs = zip(parts, arrays.values(), strict=True)
        values = [a.tobytes() if p.dtype == "utf8" else a for p, a in pairs]
        records.append((member, values))
    index = module.write(path, parts, records)
    files.write_atomic(
        schema.marker_path(cache, column, shard), schema.dump(schema.replace(marker, **index))
    )


def _set(part, row, value):
    def change(at, arrays):
        if at == row:
            arrays[part].flat[0] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("pixels", _set("x", 3, np.nan), "field 'x' of key"),
        ("pixels", _set("x", 3, -np.inf), "field 'x' of key"),
        ("tokens", _set("tokens-scale", 0, np.inf), "field 'tokens' of key"),
        ("tokens", _set("mean", 15, 0x7F80), "field 'mean' of key"),
        ("caption", _set("text", 2, 0xFF), "field 'text' cannot be decoded"),
    ],
)
def test_stored_values_that_are_not_finite_are_found(cache, name, change, part):
    remade(cache, name, 1, change)
    (problem,) = problems(cache)
    assert part in problem.what and problem.shard == 1


def test_members_of_other_keys_are_found(cache, edit_json):
    path = cache / "caption" / "000001.json"
    column, marker = schema.load_column(cache, "caption"), json.loads(path.read_text())
    shard = schema.shard_path(cache, column, 1)
    members, _ = reader.CONTAINERS["tar"].scan(shard, reader.parts_of(column.fields))
    swapped = shard.read_bytes().replace(members[0].encode(), b"other")
    swapped = swapped.ljust(marker["bytes"], b"\0")[: marker["bytes"]]
    shard.write_bytes(swapped)
    edit_json(path, sha256=file_sha256(shard))
    (problem,) = problems(cache)
    assert "000001.tar" in problem.what


def test_a_marker_with_other_offsets_is_found(cache, edit_json):
    path = cache / "pixels" / "000001.json"
    parts = json.loads(path.read_text())["parts"]
    parts["x"]["offsets"]["first"] += 1
    edit_json(path, parts=parts)
    (problem,) = problems(cache)
    assert "other offsets or lengths for x" in problem.what


def test_a_lost_description_is_found(cache):
    (cache / "pixels" / "column.json").unlink()
    (problem,) = problems(cache)
    assert problem.column == "pixels" and "no column 'pixels'" in problem.what


@pytest.mark.parametrize("calibration", ["", "00"])
def test_a_calibration_that_does_not_fit_the_codecs_is_found(cache, edit_json, calibration):
    name = "tokens" if not calibration else "pixels"
    edit_json(cache / name / "column.json", calibration=calibration)
    whats = [p.what for p in problems(cache) if p.column == name]
    assert len(whats) == 1 and "column.json has the calibration" in whats[0]


def test_threads_find_the_same(cache):
    os.truncate(cache / "pixels" / "000001.tar", 100)
    (cache / "words" / "000003.json").unlink()
    frozen = plan.load(cache)
    for name in verify.names(cache):
        one, four = (
            list(verify.verify(cache, frozen, name, deep=True, jobs=jobs)) for jobs in (1, 4)
        )
        assert one == four and len(one) == 4


def test_verify_of_a_damaged_plan_is_a_problem(cache):
    path = cache / "keys.txt"
    path.write_bytes(path.read_bytes()[:-1])
    result = run("verify", cache)
    assert result.exit_code == 1 and "keys.txt" in result.output
    (cache / "manifest.json").write_bytes(b"{")
    result = run("verify", cache)
    assert result.exit_code == 1 and "manifest.json" in result.output


# ---- repair


def test_repair_drops_what_is_bad_and_builds_just_that(fakes, cache, whole):
    want = fakes.tree(whole)
    with open(cache / "tokens" / "000001.tar", "r+b") as file:
        file.write(b"\xff")
    (cache / "pixels" / "000003.json").write_text("{")
    (cache / "caption" / "000000.tar").unlink()
    (cache / "words" / "000002.json").unlink()
    untouched = {
        path: path.stat().st_mtime_ns for path in cache.rglob("*.*") if "00" not in path.name
    }
    dropped = mend.repair(cache, problems(cache))
    assert dropped == {"caption": [0], "pixels": [3], "tokens": [1], "words": [2]}
    left = fakes.tree(cache)
    assert left.items() <= want.items() and len(want) - len(left) == 8
    fakes.build(cache)
    assert fakes.tree(cache) == want
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in untouched.items())


def test_repair_on_the_command_line(cache, fakes, whole, wired_fakes):
    assert "0 shards were bad" in run("repair", cache).output
    with open(cache / "tokens" / "000001.tar", "r+b") as file:
        file.write(b"\xff")
    os.truncate(cache / "caption" / "000002.tar", 7)
    result = run("repair", cache, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "2 shards were bad and are built again" in result.output
    assert fakes.tree(cache) == fakes.tree(whole)


@pytest.fixture
def wired_fakes(fakes, monkeypatch):
    """The fakes as the encoders and sources that the commands know."""
    from reed import jobs

    class Table:
        def __init__(self, items):
            self.get = items.__getitem__

    monkeypatch.setattr(jobs, "ENCODERS", Table(fakes.ENCODERS))
    monkeypatch.setattr(jobs, "SOURCES", Table({"fakes": lambda data=None: fakes.Source()}))


def test_repair_of_a_column_is_refused(cache, fakes):
    path = cache / "tokens" / "calibration.npz"
    path.write_bytes(path.read_bytes()[:-1])
    before = fakes.tree(cache)
    result = run("repair", cache)
    assert result.exit_code == 2 and "column 'tokens'" in result.stderr
    assert "cannot be mended shard by shard" in result.stderr and fakes.tree(cache) == before


def test_repair_with_another_source_is_refused(cache, fakes, wired_fakes, monkeypatch):
    from reed import jobs

    jobs.SOURCES.get = {"fakes": lambda data=None: fakes.Source(30)}.__getitem__
    (cache / "tokens" / "000001.tar").write_bytes(b"damaged")
    before = fakes.tree(cache)
    result = run("repair", cache, "--device", "cpu")
    assert result.exit_code == 2 and "30 gone" in result.stderr
    assert fakes.tree(cache) == before  # nothing is removed that cannot be built again


def test_repair_from_a_source_that_has_grown(cache, fakes, whole, wired_fakes, monkeypatch):
    from reed import jobs

    jobs.SOURCES.get = {"fakes": lambda data=None: fakes.Source(70)}.__getitem__
    (cache / "tokens" / "000001.tar").write_bytes(b"damaged")
    result = run("repair", cache, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert fakes.tree(cache) == fakes.tree(whole)


@pytest.mark.slow
def test_a_cache_of_digits_is_repaired(fakes, tmp_path):
    cache = tmp_path / "digits"
    words = [sys.executable, "-m", "reed.cli.cache"]
    subprocess.run([*words, "build", "digits", "--cache", cache, "--device", "cpu"], check=True)
    want = fakes.tree(cache)
    dice = random.Random(0)
    for path in sorted(cache.glob("*/[0-9]*"))[::3]:
        content = bytearray(path.read_bytes())
        content[dice.randrange(len(content))] ^= 16
        path.write_bytes(content)
    done = subprocess.run([*words, "verify", cache, "--deep"], capture_output=True, text=True)
    assert done.returncode == 1
    subprocess.run([*words, "repair", cache, "--device", "cpu"], check=True)
    assert fakes.tree(cache) == want


# ---- reindex


@pytest.mark.parametrize("to", schema.CONTAINERS)
def test_lost_markers_come_back(fakes, tmp_path, to):
    class Exact(fakes.Encoder):
        reads = ("pixels", "label", "sentence")
        fields = (
            schema.Field("x", "data", (2, 2, 4)),
            schema.Field("label", "label", (), "int64"),
            schema.Field("code", "token", (None, 1)),
            schema.Field("text", "text", (), "utf8"),
        )

        def one(self, sample):
            code = np.frombuffer(sample["sentence"].encode(), np.uint8).astype(np.float32)
            return sample["pixels"], sample["label"], code[:, None], sample["sentence"]

    from reed.build import engines

    source = fakes.Source(20)
    engines.run(
        fakes.job(tmp_path / "a", "exact", source, Exact()), engines.Share(), progress=False
    )
    cache = tmp_path / "a"
    if to != "tar":
        cache = tmp_path / "b"
        convert.convert(tmp_path / "a", cache, to, progress=False)
    want = fakes.tree(cache)
    for path in (cache / "exact").glob("0*.json"):
        path.unlink()
    result = run("reindex", cache)
    assert result.output.splitlines()[-1] == f"{cache}: 2 markers written"
    assert fakes.tree(cache) == want
    assert f"{cache}: 0 markers written" in run("reindex", cache, "--column", "exact").output


def test_reindex_of_codecs_that_lose_something(cache):
    column = schema.load_column(cache, "tokens")
    want = schema.load_marker(cache, column, 2)
    (cache / "tokens" / "000002.json").unlink()
    (found,) = mend.reindex(cache, plan.load(cache), "tokens")
    assert schema.replace(found, stats={}) == schema.replace(want, stats={})
    for field in ("tokens", "mean"):
        near = np.allclose(found.stats[field]["sumsq"], want.stats[field]["sumsq"], rtol=0.05)
        assert near and found.stats[field]["count"] == want.stats[field]["count"]
    assert problems(cache) == []


def test_a_sample_that_is_not_in_the_shard_is_failed(fakes, tmp_path):
    source = fakes.Source(300, bad=(7,))
    cache = fakes.build(tmp_path / "a", ["pixels"], source, shard_size=150)
    for shard in (0, 1):
        (cache / "pixels" / f"{shard:06d}.json").unlink()
    failed = [marker.failed for marker in mend.reindex(cache, plan.load(cache), "pixels")]
    assert sorted(failed, key=len) == [{}, {source.keys[7]: mend.ABSENT}]
    assert problems(cache) == []


def test_a_shard_of_another_place_is_not_indexed(cache):
    os.replace(cache / "caption" / "000001.tar", cache / "caption" / "000002.tar")
    (cache / "caption" / "000002.json").unlink()
    with pytest.raises(
        ReedError, match=r"000002.tar holds 'a%2Fsample.*, which the plan does not have"
    ):
        list(mend.reindex(cache, plan.load(cache), "caption"))


def test_a_damaged_shard_is_not_indexed(cache):
    (cache / "caption" / "000002.json").unlink()
    os.truncate(cache / "caption" / "000002.tar", 5000)
    result = run("reindex", cache)
    assert result.exit_code == 2 and "000002.tar, member" in result.stderr


# ---- convert


def test_a_cache_goes_round_all_containers_and_back(fakes, whole, tmp_path):
    steps = [("a", "h5"), ("b", "zarr"), ("c", "tar")]
    cache = whole
    for name, to in steps:
        result = run("convert", cache, "--to", to, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert "16 shards, every record read back and compared" in result.output
        cache = tmp_path / name
        assert problems(cache) == []
        assert {path.suffix for path in cache.glob("*/0*")} == {".json", f".{to}"}
    assert fakes.tree(cache) == fakes.tree(whole)


def test_only_some_columns_are_converted_and_others_copied(fakes, whole, tmp_path):
    out = tmp_path / "out"
    assert run("convert", whole, "--to", "h5", "--out", out, "--column", "tokens").exit_code == 0
    ours, theirs = fakes.tree(out), fakes.tree(whole)
    differing = {name.partition("/")[0] for name in ours if ours[name] != theirs.get(name)}
    assert differing == {"tokens"} and (out / "tokens" / "000000.h5").exists()
    fakes.build(out)
    assert fakes.tree(out) == ours


def test_converting_resumes(fakes, whole, tmp_path, monkeypatch):
    convert.convert(whole, tmp_path / "want", "zarr", progress=False)
    writes = iter(range(100))

    def dying(path, *rest, write=reader.CONTAINERS["zarr"].write):
        if next(writes) == 6:
            raise KeyboardInterrupt
        return write(path, *rest)

    monkeypatch.setattr(reader.CONTAINERS["zarr"], "write", dying)
    with pytest.raises(KeyboardInterrupt):
        convert.convert(whole, tmp_path / "out", "zarr", progress=False)
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/0*.zarr")}
    assert len(kept) == 6
    convert.convert(whole, tmp_path / "out", "zarr", progress=False)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    assert fakes.tree(tmp_path / "out") == fakes.tree(tmp_path / "want")


def test_a_damaged_cache_is_not_converted(cache, tmp_path):
    with open(cache / "tokens" / "000001.tar", "r+b") as file:
        file.seek(3000)
        file.write(b"\xff\xff")
    result = run("convert", cache, "--to", "h5", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "tokens/000001.tar: sha256" in result.stderr
    (cache / "tokens" / "000001.json").unlink()
    result = run("convert", cache, "--to", "h5", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "no shard 1; rerun the build" in result.stderr


def test_a_shard_that_does_not_read_back_is_refused(whole, tmp_path, monkeypatch):
    def forgetful(path, parts, records, write=reader.CONTAINERS["h5"].write):
        blank = [(member, [np.zeros_like(v) for v in values]) for member, values in records]
        return write(path, parts, blank)

    monkeypatch.setattr(reader.CONTAINERS["h5"], "write", forgetful)
    with pytest.raises(ReedError, match="does not read back as .*000000.tar"):
        convert.convert(whole, tmp_path / "out", "h5", ["pixels"], progress=False)
    assert not list((tmp_path / "out").glob("pixels/0*"))


def test_convert_refuses_what_makes_no_sense(cache, fakes, tmp_path):
    for words, part in [
        (["--to", "h5", "--out", cache], "is the cache itself"),
        (["--to", "h5", "--out", tmp_path / "o", "--column", "token"], "no column 'token'"),
    ]:
        result = run("convert", cache, *words)
        assert result.exit_code == 2 and part in result.stderr
    other = fakes.build(tmp_path / "other", ["pixels"], fakes.Source(9))
    result = run("convert", cache, "--to", "h5", "--out", other)
    assert result.exit_code == 2 and "is there and differs" in result.stderr
    with pytest.raises(ReedError, match="unknown container 'hdf'"):
        convert.convert(cache, tmp_path / "o", "hdf")
