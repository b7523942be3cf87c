"""reed-eval in the processes of a launch: equal numbers, and what is told when one is lost."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from reed.build.engines import Share
from reed.errors import ReedError
from reed.evaluate.ranks import Ranks
from reed.evaluate.reference import Computing, Reference
from reed.metrics import ahead
from reed.metrics.ahead import decoders, read_ahead
from reed.metrics.image_set import open_images


def scenes(count, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


@pytest.fixture
def words(tmp_path):
    """A folder of PNGs, a reference, and the words of a command that measures one by the other."""
    (tmp_path / "drawn").mkdir()
    for i, image in enumerate(scenes(70) // 2 + 40):
        Image.fromarray(image).save(tmp_path / "drawn" / f"{i:03}.png")
    np.savez(tmp_path / "real.npz", arr_0=scenes(50, 1))
    told = ["drawn", "--reference", "real.npz", "--features", "random-conv", "--batch", "16"]
    asked = [str(tmp_path / word) if word in ("drawn", "real.npz") else word for word in told]
    return ["-m", "reed.cli.evaluate", *asked, "--metrics", "fd,kid,pr", "--device", "cpu"]


def record(path):
    return json.loads(path.read_text())


def test_two_processes_give_the_numbers_of_one(words, ranks, tmp_path):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    alone = subprocess.run(
        [sys.executable, *words, "--out", one],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert alone.returncode == 0, alone.stderr
    for file in tmp_path.glob(".statistics/*"):
        file.unlink()

    # The second process neither prints nor writes.
    first, second = ranks(*words, "--out", str(two))
    (told, warned), (silent, said) = first.communicate(timeout=120), second.communicate(timeout=120)
    assert first.returncode == second.returncode == 0, warned + said
    told, silent = (re.sub(r"\[Gloo\] .*\n", "", text) for text in (told, silent))  # torch 2.8
    assert told.replace(str(two), str(one)) == alone.stdout and not silent and "Warning" not in said
    assert record(two) == record(one) and record(one)["metrics"]["kid/random-conv"]["value"] > 0
    assert len(list(tmp_path.glob(".statistics/*.npz"))) == 1


def test_the_batches_of_a_share_are_every_nth(words, tmp_path):
    tree, file = open_images(tmp_path / "drawn"), open_images(tmp_path / "real.npz")
    for images in (tree, file):
        whole = list(images.read(16))
        for rank in range(3):
            own = list(images.read(16, Share(rank, 3)))
            assert len(own) == len(whole[rank::3])
            assert all(map(np.array_equal, own, whole[rank::3]))


class Asking(Ranks):
    """The second process, to which the first one says what is given."""

    def __init__(self, *asked):
        super().__init__(Share(1, 2))
        object.__setattr__(self, "left", list(asked))

    def asked(self):
        return self.left.pop(0)


def test_other_files_in_another_process_are_told(words, tmp_path):
    about = {"images": "abcdef0123456789", "space": "random-conv of another version", "batch": 64}
    other = Reference(tmp_path / "real.npz", "random-conv", how=Computing(ranks=Asking(about)))
    told = "process 1 of this launch reads .*real.npz .* in random-conv, process 0 reads abcdef0123"
    with pytest.raises(ReedError, match=told):
        other.serve([other.real])
    Reference(tmp_path / "real.npz", "random-conv", how=Computing(ranks=Asking({}))).serve([])


def test_a_lost_process_is_one_line(monkeypatch):
    from torch import distributed

    def lost(*_, **__):
        raise RuntimeError("connection closed by peer\nmore")

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    for name in ("broadcast", "recv", "isend"):
        monkeypatch.setattr(distributed, name, lost)
    rows = {"mean": np.zeros((2, 3), np.float32)}
    first, second = Ranks(Share(0, 2)), Ranks(Share(1, 2))
    told = "process 0 of the 2 of this launch lost another one .connection closed by peer.; the"
    with pytest.raises(ReedError, match=told):
        first.ask({"images": "a"})
    with pytest.raises(ReedError, match=told):
        list(first.joined(iter([rows, rows]), 4, 2))
    with pytest.raises(ReedError, match="process 1 of the 2"):
        second.send([rows])


def test_only_images_are_divided_among_processes(words, ranks, tmp_path, monkeypatch):
    """The first process measures the other kinds alone."""
    from click.testing import CliRunner

    from reed.cli.evaluate import main

    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "d.fasta").write_text(">a\nMK\n")
    (tmp_path / "r.pdb").write_text("nothing")
    done = CliRunner().invoke(
        main, [str(tmp_path / "d.fasta"), "--reference", str(tmp_path / "r.pdb")]
    )
    assert (done.exit_code, done.output) == (0, "")


# ---- reading ahead


def test_items_are_read_ahead_in_order_and_not_without_bound():
    read, wanted = [], threading.Event()

    def items():
        for number in range(10):
            read.append(number)
            if number == ahead.BATCHES:  # one item is used, and so many wait
                wanted.set()
            yield number

    found = read_ahead(items())
    assert next(found) == 0 and wanted.wait(10)
    assert list(found) == list(range(1, 10))

    # An abandoned reader ends, and closes what it reads in its own thread.
    closed = []

    def endless():
        try:
            while True:
                yield len(read)
        finally:
            closed.append(threading.current_thread().name)

    found = read_ahead(endless())
    next(found)
    found.close()
    assert closed == ["reading ahead_0"]


def test_an_error_in_reading_ahead_is_raised_after_what_was_read():
    def items():
        yield 1
        raise ReedError("cannot decode x.png")

    found = read_ahead(items())
    assert next(found) == 1
    with pytest.raises(ReedError, match="cannot decode x.png"):
        next(found)


def test_processes_of_a_launch_divide_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for local, threads in (("1", 32), ("4", 16), ("64", ahead.LEAST)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        assert decoders() == threads
