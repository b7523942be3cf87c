"""A cache of 64 tiny samples, a recipe for it, and how two runs on it are compared.

Test modules cannot import each other; they take this one in with runpy.run_path.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reed import config
from reed.build import column, engines
from reed.cache import plan
from reed.cache.schema import Field
from reed.train import checkpoint, log
from reed.train.checkpoint import Checkpoint
from reed.train.loop import train
from reed.train.recipe import TrainConfig

SAMPLES, BATCH = 64, 16
# The names are those of the digits recipe, so that the command line can lay this over it.
TABLE = {
    "batch": BATCH,
    "ema_decay": 0.9,
    "precision": "fp32",
    "data": {"x": "pixels/pixels", "label": "pixels/label"},
    "domain": {
        "classes": 4,
        "label_dropout": 0.1,
        "net_settings": {"patch_size": 2, "hidden_size": 32, "depth": 3, "num_heads": 2},
    },
    "align": {
        "digits-vit": {"target": "digits-vit/tokens", "tap": 2, "hidden": 32},
        "caption-ngrams": {"target": "caption-ngrams/embedding", "tap": 3, "hidden": 32},
    },
    "curriculum": {
        "diffusion": {"kind": "linear", "start": 0.0, "end": 1.0, "begins": 0, "ends": 5},
        "digits-vit": 0.5,
        "caption-ngrams": 0.25,
    },
    "optim": {"lr": 2e-3},
    "every": {"log": 5, "save": 0},
}


class Source:
    """Four classes of noisy 4x8x8 arrays, and two fixed linear views of each as teachers."""

    entries = ("x", "label", "tokens", "vector")
    views = 1

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        label = np.arange(SAMPLES) % 4
        noise = 0.3 * rng.standard_normal((SAMPLES, 4, 8, 8))
        x = rng.standard_normal((4, 4, 8, 8))[label] + noise
        patches = x.reshape(SAMPLES, 4, 4, 2, 4, 2).transpose(0, 2, 4, 1, 3, 5)
        patches = patches.reshape(SAMPLES, 16, 16)  # sample, token, channel and place in the patch
        values = {
            "x": x * 4 + 8,
            "tokens": patches @ rng.standard_normal((16, 24)),
            "vector": patches.mean(1) @ rng.standard_normal((16, 12)),
        }
        self._values = {n: v.astype(np.float32) for n, v in values.items()} | {"label": label}

    def listing(self) -> dict[str, str]:
        return {f"s{i:02d}": "1" for i in range(SAMPLES)}

    def read(self, key: str, view: int = 0) -> dict:
        return {name: values[int(key[1:])] for name, values in self._values.items()}


class Copy:
    """An encoder that stores what the source gives: entry = field."""

    licence, batch_size = "", 16

    def __init__(self, **stored: Field) -> None:
        self._stored = stored
        self.reads, self.fields = tuple(stored), tuple(stored.values())

    def revision(self) -> str:
        return "1"

    def encode(self, samples):
        return {f.name: [sample[e] for sample in samples] for e, f in self._stored.items()}


COLUMNS = {
    "pixels": Copy(
        x=Field("pixels", "data", (4, 8, 8), scale=(0.25,), shift=(8.0,)),
        label=Field("label", "label", (), "int64"),
    ),
    "digits-vit": Copy(tokens=Field("tokens", "token", (16, 24), "int8")),
    "caption-ngrams": Copy(vector=Field("embedding", "sample", (12,))),
}


def build(cache: Path) -> Path:
    """The whole cache, in three shards."""
    source = Source()
    frozen = plan.freeze(
        cache, source.listing(), pipeline="digits", domain="image", source="tiny", shard_size=24
    )
    for name, encoder in COLUMNS.items():
        job = column.open_job(cache, frozen, name, encoder, source)
        engines.run(job, engines.Share(), progress=False)
    return cache


def settings(cache: Path, run: Path, **over) -> TrainConfig:
    """The recipe with tables laid over TABLE; twenty steps unless said otherwise."""
    places = {"shards": str(cache), "run": str(run), "steps": 20}
    return config.build(TrainConfig, config.merge(TABLE | places, over))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The whole cache, once for the tests of a file; a fixture of the files that name it."""
    return build(tmp_path_factory.mktemp("tiny") / "cache")


@pytest.fixture
def make(cache, tmp_path):
    """The settings of a run called `name` on the tiny cache, with tables laid over its recipe."""
    return lambda name="run", **over: settings(cache, tmp_path / name, **over)


def trained(wanted: TrainConfig) -> Path:
    """The run's folder, trained as far as it went."""
    step = train(wanted, progress=False)
    assert step == checkpoint.steps(wanted.run)[-1]
    return wanted.run


def same(ours: Checkpoint, theirs: Checkpoint, groups=("model", "ema", "optim")) -> None:
    """Two checkpoints are equal bit for bit."""
    assert ours.step == theirs.step
    for group in groups:
        a, b = getattr(ours, group), getattr(theirs, group)
        assert a.keys() == b.keys()
        differing = [name for name in a if not torch.equal(a[name], b[name])]
        assert not differing, f"{group}: {differing}"


def close(ours: Checkpoint, theirs: Checkpoint, atol: float) -> None:
    """Two checkpoints agree, but for key biases: their gradient is zero up to rounding."""
    assert ours.model.keys() == theirs.model.keys()
    for name, value in theirs.model.items():
        mine, width = ours.model[name], value.shape[0] // 3
        if name.endswith("qkv.bias"):
            mine, value = (torch.cat([v[:width], v[2 * width :]]) for v in (mine, value))
        torch.testing.assert_close(mine, value, rtol=0, atol=atol, msg=lambda m, n=name: n + m)


def lines(run: Path) -> list[dict]:
    """The log without what depends on the clock."""
    clock = ("samples_per_s", "wait_share")
    return [{k: v for k, v in line.items() if k not in clock} for line in log.read(run)]


def from_both(url: str, local: Path, root: Path, how: str, steps: int) -> Path:
    """Train from a URL and from the same cache on disk, which must agree to the bit.

    Args:
        url: The cache in a store.
        local: The cache on disk.
        root: A folder for the runs.
        how: "ranges", or "kept" for copies of shards.
        steps: Of either run.

    Returns:
        The run that was trained from the URL.
    """
    loader = {"cache_dir": str(root / "kept")} if how == "kept" else {}
    ours = trained(settings(url, root / "ours", steps=steps, loader=loader))
    theirs = trained(settings(local, root / "theirs", steps=steps))
    same(checkpoint.load(ours, steps), checkpoint.load(theirs, steps))
    assert lines(ours) == lines(theirs)
    assert bool(list((root / "kept").rglob("*.tar*"))) == (how == "kept")
    return ours
