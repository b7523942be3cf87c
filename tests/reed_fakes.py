"""Tiny sources and encoders for the tests of stage one; also a program, to kill one.

In tests: the fixture `fakes` of conftest.py. In a subprocess: `python reed_fakes.py PAUSE CACHE`,
with RANK and WORLD_SIZE as under torchrun.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import numpy as np

from reed.build import column, engines
from reed.build import together as pass_
from reed.build.engines import Share
from reed.build.shard import BadSample
from reed.build.together import Member
from reed.cache import plan
from reed.cache.schema import Field

NAMES = ("pixels", "words", "tokens")  # `words` reads `caption`, which is built with it


def random(*scope) -> np.random.Generator:
    """A generator that depends on the scope alone."""
    digest = hashlib.sha256(repr(scope).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


class Source:
    """`count` samples of 10 classes: pixels [2, 2, 4], a label and a sentence of varying length.

    The second view has the pixels mirrored and the sentence backwards; pause: seconds per read.
    """

    entries = ("pixels", "label", "sentence")
    views = 2
    pause = 0.0

    def __init__(self, count: int = 60, bad: tuple[int, ...] = ()) -> None:
        self.keys = [f"a/sample-{i:03d}.png" for i in range(count)]
        self.bad = {self.keys[i] for i in bad}

    def listing(self) -> dict[str, str]:
        return {key: f"stamp-{key[-7:-4]}" for key in self.keys}

    def read(self, key: str, view: int = 0) -> dict:
        time.sleep(self.pause)
        if key in self.bad:
            raise BadSample("the file is empty")
        number = self.keys.index(key)
        pixels = random("pixels", key).standard_normal((2, 2, 4)).astype(np.float32)
        sentence = f"a picture of the nümber {number % 10}" + "!" * (number % 4)
        if view:
            pixels, sentence = pixels[..., ::-1].copy(), sentence[::-1]
        return {"pixels": pixels, "label": number % 10, "sentence": sentence}


class Encoder:
    """What the fakes share; subclasses say `reads`, `fields` and `one`, for one sample."""

    licence = "MIT"
    batch_size = 5
    pause = 0.0

    def revision(self) -> str:
        return "1"

    def load(self, device: str) -> None:
        """Nothing to load."""

    def encode(self, samples):
        time.sleep(self.pause)
        rows = [self.one(sample) for sample in samples]
        return {f.name: [row[i] for row in rows] for i, f in enumerate(self.fields)}


class Pixels(Encoder):
    """The pixels in halves and the label."""

    reads = ("pixels", "label")
    fields = (Field("x", "data", (2, 2, 4), "float16"), Field("label", "label", (), "int64"))

    def one(self, sample):
        return sample["pixels"], sample["label"]


class Tokens(Encoder):
    """Six tokens of eight channels, one of them an outlier, and their mean in bfloat16."""

    reads = ("pixels",)
    fields = (Field("tokens", "token", (6, 8), "int8"), Field("mean", "sample", (8,), "bfloat16"))

    def one(self, sample):
        mix = random("mix").standard_normal((16, 48))
        tokens = (sample["pixels"].reshape(16) @ mix).reshape(6, 8).astype(np.float32)
        tokens[:, 3] *= 50
        return tokens, tokens.mean(axis=0)


class Caption(Encoder):
    """The sentence as text."""

    reads = ("sentence",)
    fields = (Field("text", "text", (), "utf8"),)

    def one(self, sample):
        return (sample["sentence"],)


class Words(Encoder):
    """Counts of five letters of the caption: a column that reads another, calibrated."""

    reads = ("caption/text",)
    fields = (Field("counts", "sample", (5,), "int8"),)

    def one(self, sample):
        return (np.array([sample["caption/text"].count(c) for c in "aeibü"], np.float32),)


class Both(Encoder):
    """Pixels beside the counts of letters: it reads the source and another column, calibrated."""

    reads = ("pixels", "caption/text")
    fields = (Field("both", "sample", (21,), "int8"),)

    def one(self, sample):
        counts = [sample["caption/text"].count(c) for c in "aeibü"]
        return (np.concatenate([sample["pixels"].ravel(), counts]).astype(np.float32),)


ENCODERS = {
    "pixels": Pixels,
    "tokens": Tokens,
    "caption": Caption,
    "words": Words,
    "both": Both,
}


def make(name: str) -> Encoder:
    """The fake encoder of a column."""
    return ENCODERS[name]()


def freeze(cache: Path, source: Source, *, shard_size: int = 16, **settings):
    """The plan of a cache of fakes."""
    return plan.freeze(
        cache,
        source.listing(),
        pipeline="fake",
        domain="image",
        source="fakes",
        shard_size=shard_size,
        **settings,
    )


def job(cache: Path, name: str, source: Source | None = None, encoder: Encoder | None = None):
    """The opened job of one column, planned first where needed."""
    source = source or Source()
    return column.open_job(cache, freeze(cache, source), name, encoder or make(name), source)


def build(
    cache: Path,
    names=NAMES,
    source: Source | None = None,
    share: Share | None = None,
    pause: float = 0.0,
    shard_size: int = 16,
    workers: int = 0,
    retry: bool = False,
    **settings,
) -> Path:
    """Build columns of fakes, as `reed-cache build` does."""
    source = source or Source()
    encoders = column.with_inputs(cache, names, make)
    frozen = freeze(cache, source, shard_size=shard_size, **settings)
    for name, encoder in encoders.items():
        encoder.pause = pause
        opened = column.open_job(cache, frozen, name, encoder, source)
        engines.run(opened, share or Share(), workers=workers, retry=retry, progress=False)
    return cache


def together(
    cache: Path,
    names=NAMES,
    source: Source | None = None,
    share: Share | None = None,
    shard_size: int = 16,
    workers: int | None = 0,
    retry: bool = False,
    making=make,
    **settings,
) -> dict[str, float]:
    """Build columns of fakes in as few passes as `reed-cache build`; returns each one's seconds."""
    source, took = source or Source(), {}
    encoders = column.with_inputs(cache, names, making)
    frozen = freeze(cache, source, shard_size=shard_size, **settings)

    def opening(name):
        return lambda reader: column.open_job(
            cache, frozen, name, encoders[name], source, reader=reader
        )

    members = [Member(name, encoder.reads, opening(name)) for name, encoder in encoders.items()]
    how = pass_.Settings(cache, frozen, source, share or Share(), workers, retry, progress=False)
    pass_.run(members, how, lambda name, timing, seconds: took.update({name: seconds}))
    return took


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, and its bytes."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    files = (path for path in found if path.name != "cost.jsonl")  # what building took
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def crash_everywhere(folder: Path) -> int:
    """Die before and after every call that touches a name on disk; each time resume and compare.

    Returns the number of places. Forks, so it belongs in a process of its own.
    """
    os.fsync = lambda descriptor: None  # syncing 2,000 files proves nothing here
    names = ("tokens", "caption")
    small = Source(8)
    want = tree(build(folder / "whole", names, small, shard_size=4))
    for place in range(10_000):
        cache = folder / f"cache-{place}"
        if _child(lambda cache=cache, place=place: _build_until(place, cache, names, small)) == 0:
            return place
        build(cache, names, small, shard_size=4)
        got = tree(cache)
        assert got == want, f"place {place}: {sorted(got.keys() ^ want.keys())} differ, or bytes"
    raise AssertionError("never finished")


def _child(work) -> int:
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _build_until(place: int, cache: Path, names, source: Source) -> None:
    """Build, and die at the place-th chance: there is one before and one after every call."""
    left = iter(range(place, -1, -1))

    def chance() -> None:
        if next(left) == 0:
            os._exit(9)

    def dying(call):
        def wrapped(*args, **kwargs):
            chance()
            result = call(*args, **kwargs)
            chance()
            return result

        return wrapped

    for name in ("fsync", "replace", "rename", "link", "unlink"):
        setattr(os, name, dying(getattr(os, name)))
    build(cache, names, source, shard_size=4)


if __name__ == "__main__":
    command, where = sys.argv[1], Path(sys.argv[2])
    if command == "crash":
        print(crash_everywhere(where))
    else:
        print("started", flush=True)
        workers = int(sys.argv[3]) if len(sys.argv) > 3 else 0
        build(where, share=engines.launched_share(), pause=float(command), workers=workers)
