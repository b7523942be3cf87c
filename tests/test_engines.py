"""Who builds what, with how many helpers: never another byte. And what fails, is retried, fits."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

from reed.build import column, engines, fitting, overlap, shared
from reed.build import shard as build
from reed.build.engines import Share
from reed.build.shard import Tally, Timing
from reed.cache import files, reader, remove, schema
from reed.cache.schema import Field
from reed.errors import ReedError


@pytest.fixture(scope="module")
def want(fakes, whole):
    """The files of an uninterrupted build."""
    return fakes.tree(whole)


def refused(*parts, call):
    with pytest.raises(ReedError) as error:
        call()
    for part in parts:
        assert part in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


def markers(cache, name):
    opened, found = schema.load_column(cache, name), sorted((cache / name).glob("[0-9]*.json"))
    return [schema.load_marker(cache, opened, int(path.stem)) for path in found]


def stored(cache, name, view=0):
    """One view of every record of a column: key -> {field: value}."""
    opened = schema.load_column(cache, name)
    state = reader.load_state(cache, opened)
    return dict(
        pair
        for marker in markers(cache, name)
        for pair in reader.records(cache, opened, marker.shard, opened.fields, state, view=view)
    )


# ---- the same bytes, whoever builds


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_byte(fakes, tmp_path, want, workers):
    assert fakes.tree(fakes.build(tmp_path / "fake", workers=workers)) == want


def test_build_shard_gives_the_bytes_of_the_overlapped_build(fakes, cache, want):
    job = fakes.job(cache, "tokens")
    for shard in (2, 0):
        schema.marker_path(cache, job.column, shard).unlink()
        build.build_shard(job, shard)
    assert fakes.tree(cache) == want


def test_ranges_of_shards_are_half_open_and_meet(fakes, tmp_path, want, monkeypatch):
    """As the jobs of an array: in any order. All see to the shards that others calibrate on."""
    monkeypatch.setattr(fitting, "CALIBRATION", 10)
    names = ["pixels", "caption"]
    fakes.build(tmp_path, names, share=Share(begin=2, end=3))
    assert [marker.shard for marker in markers(tmp_path, "pixels")] == [0, 2]
    fakes.build(tmp_path, names, share=Share(begin=3))
    fakes.build(tmp_path, names, share=Share(end=2))
    ours = {k: v for k, v in want.items() if not k.startswith(("tokens/", "words/"))}
    assert fakes.tree(tmp_path) == ours


def test_ranks_split_a_range():
    parts = [Share(rank, 2, 3, 8).of(range(10)) for rank in range(2)]
    assert parts == [[3, 5, 7], [4, 6]]
    assert Share(0, 1, 7).of(range(10)) == [7, 8, 9] and Share(0, 1, 7, 99).of(range(8)) == [7]


@pytest.mark.parametrize("ends", [(3, 3), (4, 3), (-1, 3)])
def test_an_empty_range_is_refused(ends):
    parts = (f"--shards-from {ends[0]}", f"--shards-to {ends[1]}")
    refused(*parts, call=lambda: engines.launched_share(*ends))


def test_a_shard_that_another_process_finishes_is_not_built_again(fakes, cache, want, monkeypatch):
    job = fakes.job(cache, "tokens")
    monkeypatch.setattr(fakes.Encoder, "encode", lambda *_: pytest.fail("it encoded"))
    found = overlap.build_shards(job, range(4), Timing(), build.new_tally(job))
    assert [marker.shard for marker in found] == [0, 1, 2, 3]
    assert fakes.tree(cache) == want


def test_a_marker_of_other_keys_does_not_count(fakes, cache):
    job = fakes.job(cache, "tokens")
    other = schema.load_marker(cache, job.column, 1)
    files.write_atomic(
        schema.marker_path(cache, job.column, 1),
        schema.dump(schema.replace(other, keys=other.keys[::-1])),
    )
    assert [build.is_done(job, shard) for shard in range(4)] == [True, False, True, True]


# ---- reading, encoding and writing overlap


def seconds(fakes, cache, workers, source_pause, encode_pause):
    source = fakes.Source(120)
    source.pause = source_pause
    job = fakes.job(cache, "pixels", source)
    job.encoder.pause = encode_pause
    began = time.perf_counter()
    timing = engines.run(job, Share(), workers=workers, progress=False)
    return time.perf_counter() - began, timing


def test_reading_overlaps_encoding(fakes, tmp_path):
    """Each takes about 0.6 s in place. In the time that processes take to start, nothing overlaps,
    so what is compared is the waiting for samples after the first."""
    first, waits = [], []
    read = shared.SharedReader._read

    def timed(*args):
        began = time.perf_counter()
        read(*args)
        waits.append(time.perf_counter() - began)

    apart, together, held = [], [], []
    for turn in range(3):
        apart.append(seconds(fakes, tmp_path / f"a{turn}", 0, 0.005, 0.025))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shared.SharedReader, "_read", timed)
            together.append(seconds(fakes, tmp_path / f"b{turn}", 2, 0.005, 0.025))
        first.append(waits[0])
        waited = sum(waits[1:])
        waits.clear()
        assert together[-1][1].encode > 0.5 and apart[-1][1].read > 0.5

        # Other processes on the machine can hold up one turn.
        timing = together[-1][1]
        in_turn = apart[-1][1].read + timing.encode
        spent = timing.read + timing.encode + timing.write  # without the end of the processes
        held.append(waited < 0.5 * apart[-1][1].read and spent - first[-1] < 0.8 * in_turn)
    assert any(held), (first, apart, together)


def test_writing_overlaps_encoding_across_shards(fakes, tmp_path, monkeypatch):
    """The first shard is being written while the second one is encoded."""
    write = build.write_shard

    def slow(*args):
        marker = write(*args)
        time.sleep(0.15)
        return marker

    monkeypatch.setattr(build, "write_shard", slow)
    apart, together = [], []
    for turn in range(2):
        for name, walls in (("a", apart), ("b", together)):
            job = fakes.job(tmp_path / f"{name}{turn}", "pixels", fakes.Source(96))
            job.encoder.pause = 0.04  # four calls per shard of 16
            began = time.perf_counter()
            if name == "a":
                for shard in range(6):
                    build.build_shard(job, shard)
            else:
                engines.run(job, Share(), progress=False)
            walls.append(time.perf_counter() - began)
    assert min(together) < 0.8 * min(apart), (together, apart)


def test_the_summary_says_what_limits():
    assert Timing(1.25, 20, 3).summary() == "read 1.2 s, encode 20.0 s, write 3.0 s (encode limits)"
    assert Timing(9, 2, 3).summary().endswith("(read limits)")


# ---- what goes wrong


class Deadly:
    """A source whose reading kills the process that reads."""

    entries = ("pixels",)
    views = 1

    def listing(self):
        return {f"k{i}": "" for i in range(20)}

    def read(self, key, view=0):
        if key == "k3":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"pixels": np.zeros((2, 2, 4), np.float32)}


class Wrong:
    """A source with a bug."""

    entries = ("pixels",)
    views = 1
    listing = Deadly.listing

    def read(self, key, view=0):
        raise RuntimeError("a bug of the source")


class Zeros:
    """Reads pixels, writes them."""

    reads = ("pixels",)
    fields = (Field("x", "data", (2, 2, 4)),)
    licence, batch_size = "", 5

    def revision(self):
        return "1"

    def load(self, device):
        """Nothing to load."""

    def encode(self, samples):
        return {"x": [sample["pixels"] for sample in samples]}


@pytest.fixture
def importable(monkeypatch):
    """Makes the classes of this file picklable for other processes."""
    module = sys.modules[__name__]
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setitem(sys.modules, "test_engines", module)
    for cls in (Deadly, Wrong, Zeros):
        monkeypatch.setattr(cls, "__module__", "test_engines")


def test_a_reading_process_that_dies_is_one_line(fakes, tmp_path, importable):
    job = fakes.job(tmp_path, "zeros", Deadly(), Zeros())
    refused(
        "column 'zeros'",
        "reading process died",
        "rerun to resume",
        "--workers",
        call=lambda: engines.run(job, Share(), workers=1, progress=False),
    )
    assert not list(tmp_path.glob("zeros/.*")) and not list(tmp_path.glob("zeros/0*.tar"))


def test_a_process_that_is_dead_when_more_is_asked_of_it_is_one_line(fakes, tmp_path, monkeypatch):
    def submit(*args):
        raise BrokenProcessPool("died before")

    monkeypatch.setattr(shared.ProcessPoolExecutor, "submit", submit)
    job = fakes.job(tmp_path, "zeros", fakes.Source(), Zeros())
    refused(
        "column 'zeros'",
        "reading process died",
        "rerun to resume",
        call=lambda: engines.run(job, Share(), workers=1, progress=False),
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_of_a_source_is_no_bad_sample(fakes, tmp_path, importable, workers):
    job = fakes.job(tmp_path, "zeros", Wrong(), Zeros())
    with pytest.raises(RuntimeError, match="a bug of the source"):
        engines.run(job, Share(), workers=workers, progress=False)
    assert not list(tmp_path.glob("zeros/0*")) and not list(tmp_path.glob("zeros/.*"))


def test_reading_processes_end_with_a_killed_parent(fakes_path, tmp_path):
    process = start(fakes_path, tmp_path, "0.05", workers=2)
    deadline = time.monotonic() + 20
    while not (children := _children(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children, "no reading process was started"
    process.kill()
    process.communicate()
    while any(map(_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, children))


def _children(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return []


def _alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("workers", [0, 1])
def test_an_encoder_that_fails_leaves_no_trace_of_its_shard(fakes, tmp_path, workers):
    class Failing(fakes.Pixels):
        def encode(self, samples):
            if any(sample["label"] == 7 for sample in samples):
                raise RuntimeError("out of memory")
            return super().encode(samples)

    job = fakes.job(tmp_path, "pixels", None, Failing())
    with pytest.raises(RuntimeError, match="out of memory"):
        engines.run(job, Share(), workers=workers, progress=False)
    assert not list(tmp_path.glob("pixels/.*"))
    fakes.build(tmp_path)


# ---- bad samples


def test_few_failures_in_small_shards_do_not_stop_a_large_column():
    tally = Tally("c", 100_000)
    for _ in range(10):
        tally.add(16, {"key": "bad"})
    refused(
        "11 of the 176 samples so far failed",
        "more than 1 % of the 100,000 planned",
        "planned or tried: 10 bad ('key', …); 1 worse ('other'); mend the source",
        call=lambda: tally.add(16, {"other": "worse"}),
    )


def test_one_percent_of_a_column_may_fail_and_no_more():
    tally = Tally("c", 5_000)
    for _ in range(50):
        tally.add(100, {"key": "bad"})
    refused("51 of the", call=lambda: tally.add(0, {"key": "bad"}))


def test_one_bad_sample_of_a_small_set_is_left_out():
    tally = Tally("c", 20)
    tally.add(4, {"key": "bad"})
    tally.check()
    tally.add(4, {"other": "bad"})  # the rest of the shard may name more
    refused("2 of the 8", "2 bad", call=tally.check)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_build_that_stops_names_ten_failures_and_counts_reasons(fakes, tmp_path, workers):
    """It named one sample, so that mending a data set took as many builds as it had bad ones."""
    source = fakes.Source(60, bad=tuple(range(0, 40, 4)))
    refused(
        "column 'pixels': 10 of the",
        "more than 1 % of the 60 planned or tried: 10 the file is empty ('",
        *(repr(source.keys[i]) for i in range(0, 40, 4)),
        "--max-failed 19%",  # 10 of 55
        call=lambda: fakes.build(tmp_path, ["pixels"], source, shard_size=60, workers=workers),
    )
    source.bad = set(source.keys[:12])
    job = fakes.job(tmp_path, "pixels", source)
    tally = Tally("pixels", 60, allowed=0.2)
    assert len(engines.build.build_shard(job, 0, tally)[0].failed) == 12 == tally.failed


def test_failures_of_earlier_runs_count(fakes, tmp_path):
    source = fakes.Source(60, bad=(3,))
    fakes.build(tmp_path, ["pixels"], source)
    bad = next(marker.shard for marker in markers(tmp_path, "pixels") if marker.failed)
    job = fakes.job(tmp_path, "pixels", source)
    assert engines.todo(job, Share()).tally == Tally("pixels", 60, 60, 1)
    other = next(key for i in range(4) if i != bad for key in job.plan.keys_of(i))
    source.bad.add(other)
    shard, _ = job.plan.locate(job.plan.keys.index(other))
    schema.marker_path(tmp_path, job.column, shard).unlink()
    refused("2 of the", call=lambda: fakes.build(tmp_path, ["pixels"], source))


def test_retrying_builds_exactly_the_shards_with_failures(fakes, tmp_path, want):
    source = fakes.Source(bad=(5,))
    fakes.build(tmp_path, source=source)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    bad = {
        (m.column, m.shard)
        for n in schema.columns(tmp_path)
        for m in markers(tmp_path, n)
        if m.failed
    }
    assert len(bad) == 4  # one shard of every column
    fakes.build(tmp_path)  # without retrying, they stay
    assert {path: path.stat().st_mtime_ns for path in before} == before
    fakes.build(tmp_path, ["pixels", "caption", "words", "tokens"], retry=True)
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {(p.parent.name, int(p.stem)) for p in before if after[p] != before[p]} == bad
    assert not any(m.failed for name in schema.columns(tmp_path) for m in markers(tmp_path, name))
    assert stored(tmp_path, "caption").keys() == stored(tmp_path, "words").keys()
    for name in ("pixels", "caption"):  # the others are calibrated on what was good at first
        files_ = {k: v for k, v in fakes.tree(tmp_path).items() if k.startswith(name)}
        assert files_ == {k: v for k, v in want.items() if k.startswith(name)}


def test_retrying_what_still_fails_ends_where_it_was(fakes, tmp_path):
    source = fakes.Source(bad=(5,))
    fakes.build(tmp_path, source=source)
    before = fakes.tree(tmp_path)
    fakes.build(tmp_path, source=source, retry=True)
    assert fakes.tree(tmp_path) == before


# ---- views


@pytest.fixture(scope="module")
def flipped(fakes, tmp_path_factory):
    return fakes.build(tmp_path_factory.mktemp("flip") / "fake", flip=True)


def test_both_views_are_stored_in_every_column(fakes, whole, flipped):
    source = fakes.Source()
    assert schema.load_manifest(flipped).views == 2
    for view in (0, 1):
        pixels, captions, words = (stored(flipped, n, view) for n in ("pixels", "caption", "words"))
        assert pixels.keys() == captions.keys() == words.keys() == set(source.keys)
        for key in source.keys:
            sample = source.read(key, view)
            assert np.array_equal(pixels[key]["x"], sample["pixels"].astype(np.float16))
            assert captions[key]["text"] == sample["sentence"]
            counts = [sample["sentence"].count(letter) for letter in "aeibü"]
            assert np.allclose(words[key]["counts"], counts, atol=0.02 * max(counts))
    plain, both = stored(whole, "pixels"), stored(flipped, "pixels")
    assert all(np.array_equal(plain[key]["x"], both[key]["x"]) for key in plain)


def test_the_marker_counts_samples_and_the_statistics_count_views(flipped, whole):
    for one, two in zip(markers(whole, "pixels"), markers(flipped, "pixels"), strict=True):
        assert one.keys == two.keys
        assert two.stats["x"]["count"] == 2 * one.stats["x"]["count"]


def test_the_reader_of_the_readme_reads_both_views(fakes, flipped):
    text = (Path(__file__).parent.parent / "cache" / "README.md").read_text()
    space: dict = {}
    exec(text.partition("```python\n")[2].partition("```")[0], space)
    found = list(space["records"](flipped / "caption"))
    for view in (0, 1):
        ours = stored(flipped, "caption", view)
        assert [(key, ours[key]) for key in ours] == found[view::2]


def test_workers_give_the_same_views(fakes, tmp_path, flipped):
    got = fakes.tree(fakes.build(tmp_path / "fake", flip=True, workers=1))
    assert got == fakes.tree(flipped)


def test_a_sample_that_fails_in_one_view_is_left_out_of_both(fakes, tmp_path):
    class Picky(fakes.Caption):
        def encode(self, samples):
            if any(sample["sentence"].startswith("4 ") for sample in samples):
                raise build.BadSample("it begins with a four")
            return super().encode(samples)

    source = fakes.Source(20)
    frozen = fakes.freeze(tmp_path, source, flip=True)
    bad = [k for k in source.keys if source.read(k, 1)["sentence"].startswith("4 ")]
    job = column.open_job(tmp_path, frozen, "caption", Picky(), source)
    assert len(bad) == 1
    engines.run(job, Share(), progress=False)
    for view in (0, 1):
        assert set(stored(tmp_path, "caption", view)) == set(source.keys) - set(bad)
    failed = [key for marker in markers(tmp_path, "caption") for key in marker.failed]
    assert failed == bad


# ---- killed, twice at once, out of room


def start(fakes_path, cache, pause="0", rank=0, world=1, workers=0):
    """A build in a process of its own, begun."""
    process = subprocess.Popen(
        [sys.executable, fakes_path, pause, cache, str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(world)},
    )
    assert process.stdout.readline() == "started\n"
    return process


def finish(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


def kill_ranks(fakes_path, cache, moments, seed):
    """Two ranks; each time both are killed at a random moment, at last they are let finish."""
    pauses = random.Random(seed)
    for _ in range(moments):
        ranks = [start(fakes_path, cache, "0.01", rank, 2) for rank in range(2)]
        for process in ranks:
            time.sleep(pauses.uniform(0, 0.25))
            process.kill()
            process.communicate()
    finish(*[start(fakes_path, cache, "0", rank, 2) for rank in range(2)])


def test_killed_ranks_resume_to_the_same_bytes(fakes, fakes_path, tmp_path, want):
    kill_ranks(fakes_path, tmp_path / "fake", 3, seed=1)
    assert fakes.tree(tmp_path / "fake") == want


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_ranks_killed_at_twenty_moments_resume_to_the_same_bytes(
    fakes, fakes_path, tmp_path, want, seed
):
    kill_ranks(fakes_path, tmp_path / "fake", 20, seed)
    assert fakes.tree(tmp_path / "fake") == want


def test_two_builds_at_once_with_workers_do_no_damage(fakes, fakes_path, tmp_path, want):
    cache = tmp_path / "fake"
    finish(*[start(fakes_path, cache, "0.002", workers=1) for _ in range(2)])
    assert fakes.tree(cache) == want


LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import reed_fakes
from reed.errors import ReedError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
try:
    reed_fakes.build(Path(sys.argv[2]))
except ReedError as error:
    print(error)
"""


def test_a_file_that_cannot_grow_is_one_line_and_the_rerun_completes(
    fakes, fakes_path, tmp_path, want
):
    cache = tmp_path / "fake"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, fakes_path.parent, cache], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"cannot write {cache / 'pixels' / '000000.tar'}: File too large" in done.stdout
    assert "rerun to resume" in done.stdout
    assert not list(cache.rglob("*.tar")) and not list(cache.rglob(".*"))
    assert fakes.tree(fakes.build(cache)) == want


def test_a_full_disk_is_one_line_and_the_rerun_completes(fakes, tmp_path, want):
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", mount]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        refused(
            f"cannot write {mount}",
            "No space left",
            "rerun to resume",
            call=lambda: fakes.build(mount / "fake"),
        )
        for path in (mount / "fake").rglob("[0-9]*.tar"):
            assert json.loads(path.with_suffix(".json").read_text())["bytes"] == path.stat().st_size
        assert not list((mount / "fake").rglob(".*"))
        subprocess.run(["mount", "-o", "remount,size=4m", mount], check=True)
        assert fakes.tree(fakes.build(mount / "fake")) == want
    finally:
        subprocess.run(["umount", mount], check=True)


def test_room_errors_of_other_kinds_pass(tmp_path):
    with pytest.raises(PermissionError), files.new_file(tmp_path / "a"):
        raise PermissionError(13, "no")
    assert not list(tmp_path.iterdir())


def test_files_that_another_process_removes_meanwhile_are_passed_over(tmp_path, monkeypatch):
    """The ghost is listed and gone, as the temporary file of a builder that has just finished."""
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    listed = [tmp_path / "a", tmp_path / "linked", tmp_path / ".a.1-2.tmp"]
    monkeypatch.setattr(Path, "rglob", lambda *_: iter(listed))
    monkeypatch.setattr(Path, "glob", lambda *_: iter(listed[2:]))
    assert files.size_of(tmp_path, follow=True) == 6
    assert files.size_of(tmp_path) == 3 + len(str(tmp_path / "a"))  # the link itself is a path
    assert not list(remove._idle(tmp_path, "a shard"))
    monkeypatch.setattr(files.mirror, "of", lambda _: "a store")
    files.sweep(tmp_path, {"a"})
    assert (tmp_path / "a").read_bytes() == b"123"


def test_a_file_system_without_hard_links_will_do(fakes, tmp_path, want, monkeypatch):
    def link(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert fakes.tree(fakes.build(tmp_path / "fake")) == want
    files.write_atomic(tmp_path / "a", b"first")
    files.write_atomic(tmp_path / "a", b"second", overwrite=False)
    assert (tmp_path / "a").read_bytes() == b"first"


def test_the_container_of_a_column_stays(fakes, cache):
    frozen, source = fakes.freeze(cache, fakes.Source()), fakes.Source()
    args = (cache, frozen, "pixels", fakes.Pixels(), source)
    assert column.open_job(*args).column.container == "tar"
    refused("container 'tar'", "'zarr'", call=lambda: column.open_job(*args, container="zarr"))
    refused("'tarr'", "Did you mean 'tar'?", call=lambda: column.open_job(*args, container="tarr"))


def test_a_stale_calibration_is_not_taken_for_another_encoder(fakes, tmp_path, want):
    class Larger(fakes.Tokens):
        def revision(self):
            return "0"

        def one(self, sample):
            tokens, mean = super().one(sample)
            return 7 * tokens, mean

    fakes.job(tmp_path, "tokens", None, Larger())
    (tmp_path / "tokens" / "column.json").unlink()  # it died before it wrote that
    fakes.build(tmp_path)
    assert fakes.tree(tmp_path) == want


def test_a_calibration_of_an_equal_column_is_kept(fakes, tmp_path, want):
    fakes.job(tmp_path, "tokens")
    path = tmp_path / "tokens" / "calibration.npz"
    (tmp_path / "tokens" / "column.json").unlink()
    before = path.stat().st_mtime_ns
    fakes.build(tmp_path)
    assert path.stat().st_mtime_ns == before and fakes.tree(tmp_path) == want
