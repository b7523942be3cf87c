"""Several columns in one pass: each sample is read once, and no byte differs from one at a time."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from reed.build import calibrate, column, engines, kept, shared, together
from reed.build.engines import Share
from reed.build.shard import BadSample
from reed.build.shared import workers_for
from reed.build.together import Member
from reed.cache import schema
from reed.cache.schema import Field
from reed.cli import cache as cli_cache
from reed.errors import ReedError
from reed.sources.protein.toy import ProteinsToy

NAMES = ("pixels", "both", "words", "tokens")  # `both` and `words` read `caption`


@pytest.fixture(scope="module", params=[False, True], ids=["one view", "two views"])
def apart(request, fakes, tmp_path_factory):
    """The columns built one at a time."""
    path = tmp_path_factory.mktemp("apart") / "fake"
    fakes.build(path, NAMES, flip=request.param)
    return SimpleNamespace(flip=request.param, tree=fakes.tree(path), path=path)


class Counting:
    """A source that counts how often it is asked for each view of each sample."""

    def __init__(self, source):
        self._source, self.entries, self.views = source, source.entries, source.views
        self.listing, self.keys, self.reads = source.listing, source.keys, Counter()

    def read(self, key, view=0):
        self.reads[key, view] += 1
        return self._source.read(key, view)


# ---- read once, the same bytes


def test_each_sample_is_read_once_for_all_columns(fakes, tmp_path, apart):
    source = Counting(fakes.Source())
    fakes.together(tmp_path, NAMES, source, flip=apart.flip)
    assert fakes.tree(tmp_path) == apart.tree
    views = range(2 if apart.flip else 1)
    assert source.reads == {(key, view): 1 for key in source.keys for view in views}


def test_the_command_reads_each_protein_once(fakes, tmp_path, monkeypatch):
    """It read each of them once per column, and those of the calibration once more."""
    reads, read = Counter(), ProteinsToy.read

    def counted(self, key, view=0):
        reads[key] += 1
        return read(self, key, view)

    monkeypatch.setattr(ProteinsToy, "read", counted)
    words = ("--set", "source.samples=12", "--device", "cpu", "--workers", "0")
    for name, more in (("together", ()), ("apart", ("--apart",))):
        done = CliRunner().invoke(
            cli_cache.main,
            ["build", "proteins-toy", "--cache", str(tmp_path / name), *words, *more],
        )
        assert done.exit_code == 0, done.output
        assert set(reads.values()) == {1 if name == "together" else 3}, reads
        reads.clear()
    assert fakes.tree(tmp_path / "together") == fakes.tree(tmp_path / "apart")


@pytest.mark.parametrize("workers", [1, 2])
def test_reading_processes_change_no_byte(fakes, tmp_path, apart, workers):
    fakes.together(tmp_path, NAMES, workers=workers, flip=apart.flip)
    assert fakes.tree(tmp_path) == apart.tree


@pytest.mark.parametrize("order", [("tokens", "words", "both", "pixels"), ("both", "tokens")])
def test_the_order_of_the_columns_does_not_matter(fakes, tmp_path, apart, order):
    fakes.together(tmp_path, order, flip=apart.flip)
    names = {*order, "caption"}
    assert fakes.tree(tmp_path) == {
        path: data
        for path, data in apart.tree.items()
        if "/" not in path or path.split("/")[0] in names
    }


def test_shards_that_are_there_are_left_and_not_read(fakes, tmp_path, apart):
    """pixels has shards 1 and 2, caption all, both 0 and 3, tokens none."""
    shutil.copytree(apart.path, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "tokens")
    for name, shards in (("pixels", (0, 3)), ("both", (1, 2))):
        for shard in shards:
            schema.marker_path(tmp_path, schema.load_column(tmp_path, name), shard).unlink()
    left = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("00000*") if _is_done(path)}

    class Once(fakes.Source):
        def read(self, key, view=0):
            sample = super().read(key, view)
            return {name: sample[name] for name in self.entries}

    source = Counting(Once())
    fakes.together(tmp_path, NAMES, source, flip=apart.flip)
    assert fakes.tree(tmp_path) == apart.tree
    assert all(path.stat().st_mtime_ns == when for path, when in left.items())
    assert set(source.reads.values()) == {1}


def _is_done(path):
    return path.with_suffix(".json").is_file()


def test_a_column_that_needs_no_sample_of_a_shard_is_not_read_for_it(fakes, tmp_path, apart):
    shutil.copytree(apart.path, tmp_path, dirs_exist_ok=True)
    column_ = schema.load_column(tmp_path, "pixels")
    schema.marker_path(tmp_path, column_, 2).unlink()
    source = Counting(fakes.Source())
    fakes.together(tmp_path, NAMES, source, flip=apart.flip)
    assert fakes.tree(tmp_path) == apart.tree
    frozen = fakes.freeze(tmp_path, source)
    assert {key for key, _ in source.reads} == set(frozen.keys_of(2))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_one_after_another_give_the_same_bytes(fakes, tmp_path, apart, world):
    for rank in reversed(range(world)):
        fakes.together(tmp_path, NAMES, share=Share(rank, world), flip=apart.flip)
    assert fakes.tree(tmp_path) == apart.tree


def test_without_room_to_hold_samples_they_are_read_again(fakes, tmp_path, apart, monkeypatch):
    monkeypatch.setattr(shared, "HELD", 0)
    monkeypatch.setattr(kept, "MOST", 0)
    source = Counting(fakes.Source())
    fakes.together(tmp_path, NAMES, source, flip=apart.flip)
    assert fakes.tree(tmp_path) == apart.tree
    assert max(source.reads.values()) > 1


def test_a_column_may_change_what_it_reads(fakes, tmp_path):
    """The arrays are shared, so every column gets its own copy."""

    class Spoiling(fakes.Pixels):
        def one(self, sample):
            sample["pixels"] *= 0
            return sample["pixels"], 0

    making = {"spoilt": Spoiling, "pixels": fakes.Pixels}
    fakes.together(tmp_path / "a", ("spoilt", "pixels"), making=lambda name: making[name]())
    fakes.build(tmp_path / "b", ("pixels",))
    ours = fakes.tree(tmp_path / "a" / "pixels")
    assert ours == fakes.tree(tmp_path / "b" / "pixels")


def test_an_entry_that_fails_fails_the_columns_that_read_it(fakes, tmp_path):
    """Entries may be computed on access; the reasons are those of one column at a time."""

    class Lazy(dict):
        def __getitem__(self, name):
            if name == "pixels" and self["label"] == 7:
                raise BadSample("no pixels")
            return super().__getitem__(name)

    class Partly(fakes.Source):
        def read(self, key, view=0):
            return Lazy(super().read(key, view))

    names = ("pixels", "caption")
    fakes.together(tmp_path / "a", names, Partly(), max_failed=0.2)
    fakes.build(tmp_path / "b", names, Partly(), max_failed=0.2)
    assert fakes.tree(tmp_path / "a") == fakes.tree(tmp_path / "b")
    markers = [
        schema.load_marker(tmp_path / "a", schema.load_column(tmp_path / "a", name), shard)
        for name in names
        for shard in range(4)
    ]
    failed = [len(marker.failed) for marker in markers]
    assert sum(failed[:4]) == 6 and sum(failed[4:]) == 0


# ---- columns that fail


def breaking(fakes, at):
    """The fake encoders, of which `pixels` has a bug in samples of one label."""

    class Broken(fakes.Pixels):
        def one(self, sample):
            if sample["label"] == at:
                raise RuntimeError("a bug")
            return super().one(sample)

    return lambda name: Broken() if name == "pixels" else fakes.make(name)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_column_that_fails_does_not_stop_the_others(fakes, tmp_path, apart, workers, capfd):
    with pytest.raises(RuntimeError, match="a bug"):
        fakes.together(tmp_path, NAMES, flip=apart.flip, making=breaking(fakes, 3), workers=workers)
    ours = {path: data for path, data in fakes.tree(tmp_path).items() if "pixels/0" not in path}
    assert ours == {path: data for path, data in apart.tree.items() if "pixels/0" not in path}
    said = capfd.readouterr().err
    assert "pixels is given up, the other columns go on: " in said and "a bug" in said

    fakes.together(tmp_path, NAMES, flip=apart.flip)
    assert fakes.tree(tmp_path) == apart.tree


def test_what_reads_a_column_that_fails_is_not_built(fakes, tmp_path, apart):
    class Broken(fakes.Caption):
        def one(self, sample):
            if "7" in sample["sentence"]:
                raise RuntimeError("a bug")
            return super().one(sample)

    making = {"caption": Broken}
    with pytest.raises(RuntimeError, match="a bug"):
        fakes.together(
            tmp_path,
            NAMES,
            flip=apart.flip,
            making=lambda name: making.get(name, fakes.ENCODERS[name])(),
        )
    assert not list(tmp_path.glob("both/0*")) and not list(tmp_path.glob("words/0*"))
    assert not list(tmp_path.glob("*/.*"))
    for name in ("pixels", "tokens"):
        whole = {k: v for k, v in apart.tree.items() if k.startswith(f"{name}/")}
        assert {k: v for k, v in fakes.tree(tmp_path).items() if k.startswith(f"{name}/")} == whole
    fakes.together(tmp_path, NAMES, flip=apart.flip)
    assert fakes.tree(tmp_path) == apart.tree


def test_a_source_of_bad_samples_stops_all_columns_early(fakes, tmp_path):
    source = Counting(fakes.Source(400, bad=tuple(range(0, 400, 2))))
    with pytest.raises(ReedError, match="more than 1 % of the 400"):
        fakes.together(tmp_path, ("pixels", "caption"), source, shard_size=100)
    assert len(source.reads) < 100


# ---- calibration


CODECS = ("int8", "pca:3", "pca:3+int8", "standard", "standard+int8")


def counting(fakes, codec, kind="token"):
    """An encoder that is calibrated, and the number of samples that it was given."""

    class Encoder(fakes.Encoder):
        reads = ("pixels",)
        fields = (Field("t", kind, (6, 8) if kind == "token" else (6, 4, 8), codec),)
        given = 0

        def encode(self, samples):
            Encoder.given += len(samples)
            return super().encode(samples)

        def one(self, sample):
            shape = self.fields[0].shape
            noise = fakes.random(sample["pixels"].tobytes()).standard_normal(shape)
            return (noise.astype(np.float32),)

    return Encoder()


@pytest.mark.parametrize("kind", ["token", "pair"])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [60, 300])
def test_what_calibration_encoded_is_not_encoded_again(
    fakes, tmp_path, monkeypatch, codec, kind, count
):
    source = fakes.Source(count)
    for name in ("kept", "again"):
        encoder = counting(fakes, codec, kind)
        if name == "again":
            monkeypatch.setattr(kept, "MOST", -1)
        fakes.together(
            tmp_path / name, ("t",), source, shard_size=70, making=lambda name, e=encoder: e
        )
        twice = min(260, count)  # 256 of them, in batches of 5
        assert encoder.given == count + (twice if name == "again" else 0)
    assert fakes.tree(tmp_path / "kept") == fakes.tree(tmp_path / "again")


def test_only_so_many_bytes_are_kept(fakes, tmp_path, monkeypatch):
    """A batch of five is 5 * 6 * 8 floats: with room for two, ten of the sixty are kept."""
    monkeypatch.setattr(kept, "MOST", 2 * 5 * 6 * 8 * 4 + 1)
    encoder = counting(fakes, "int8")
    fakes.together(tmp_path / "a", ("t",), shard_size=60, making=lambda _: encoder)
    assert encoder.given == 60 + 60 - 10
    monkeypatch.setattr(kept, "MOST", 1 << 28)
    fakes.together(tmp_path / "b", ("t",), shard_size=60, making=lambda _: counting(fakes, "int8"))
    assert fakes.tree(tmp_path / "a") == fakes.tree(tmp_path / "b")


def test_a_kill_between_calibration_and_shards_costs_nothing_but_time(fakes, tmp_path, apart):
    source = fakes.Source()
    frozen = fakes.freeze(tmp_path, source, flip=apart.flip)
    if (child := os.fork()) == 0:
        column.open_job(tmp_path, frozen, "tokens", fakes.make("tokens"), source)
        os._exit(9)
    os.waitpid(child, 0)
    found = {path.name for path in (tmp_path / "tokens").iterdir()}
    assert found == {"column.json", "calibration.npz"}
    fakes.together(tmp_path, NAMES, flip=apart.flip)
    assert fakes.tree(tmp_path) == apart.tree


# ---- bars


class Shown:
    """Takes the place of tqdm, and notes what the bars did."""

    bars: list = []

    def __init__(self, total=0, initial=0, desc="", **_):
        self.total, self.n, self.desc, self.steps = total, initial, desc, []
        Shown.bars.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, count):
        self.n += count
        self.steps.append(count)

    def close(self):
        pass

    def set_postfix_str(self, *_, **__):
        pass


def test_bars_move_with_every_batch_and_calibration_has_one(fakes, tmp_path, monkeypatch):
    monkeypatch.setattr(Shown, "bars", [])
    monkeypatch.setattr(engines, "tqdm", Shown)
    monkeypatch.setattr(calibrate, "tqdm", Shown)
    source = fakes.Source(40)
    frozen = fakes.freeze(tmp_path, source, shard_size=40)

    def opening(reader):
        return column.open_job(
            tmp_path, frozen, "tokens", fakes.make("tokens"), source, reader=reader, progress=True
        )

    members = [Member("tokens", ("pixels",), opening)]
    together.run(members, together.Settings(tmp_path, frozen, source), lambda *_: None)
    calibration, column_ = Shown.bars
    assert (calibration.desc, column_.desc) == ("tokens: calibration", "tokens")
    for bar in (calibration, column_):
        assert bar.steps[:8] == [5] * 8 and bar.n == bar.total == 40


# ---- the number of reading processes


def test_as_many_processes_read_as_pay(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12))
    seconds = [0, 3.9, 4, 9, 10**6]
    assert [workers_for(each) for each in seconds] == [0, 0, 2, 4, 8]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert workers_for(10**6) == 3 == shared.most_workers()


@pytest.mark.parametrize(("cost", "started"), [(0.1, [2]), (0.3, [4]), (0.06, []), (1e-4, [])])
def test_the_cost_of_a_sample_decides_on_processes(
    fakes, tmp_path, monkeypatch, apart, cost, started
):
    """60 slow samples were read one after another, as every set of fewer than 4,096.

    60 samples of 0.1 s take 6 s: when nine are known, the rest pays for two processes.
    """
    found, clock = [], [0.0]

    class Slow(Counting):
        def read(self, key, view=0):
            clock[0] += cost / (1 + apart.flip)
            return super().read(key, view)

    class InPlace:
        def __init__(self, workers, context, begin, task):
            found.append(workers)
            shared._task = task[0]

        def submit(self, call, *words):
            return SimpleNamespace(result=lambda: call(*words), cancel=lambda: None)

        def shutdown(self, **_):
            shared._task = None

    monkeypatch.setattr(shared, "ProcessPoolExecutor", InPlace)
    monkeypatch.setattr(shared, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    source = Slow(fakes.Source())
    fakes.together(tmp_path, NAMES, source, flip=apart.flip, workers=None)
    assert found == started
    assert fakes.tree(tmp_path) == apart.tree and set(source.reads.values()) == {1}


def test_the_seconds_of_reading_are_divided_among_the_columns(fakes, tmp_path):
    source = fakes.Source(40)
    source.pause = 0.01
    took = fakes.together(tmp_path, ("pixels", "caption"), source)
    assert min(took.values()) > 0.3 * sum(took.values()) and sum(took.values()) > 0.4
