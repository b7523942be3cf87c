"""A cache of 24 small random proteins with teachers of every kind, written by the cache itself.

Test modules take it in with runpy.run_path. Every residue's letter follows from its backbone, so
a net can learn it; some residues are X, some lack atoms.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reed import config
from reed.build import column, engines
from reed.cache import plan
from reed.cache.schema import Field
from reed.train.recipe import TrainConfig

PROTEINS, NEIGHBOURS = 24, 48
DATA = {name: f"chain/{name}" for name in ("coords", "residue", "number", "chain", "neighbours")}
TABLE = {
    "tokens": 200,
    "ema_decay": 0.9,
    "precision": "fp32",
    "data": DATA,
    "domain": {
        "net_settings": {"hidden": 16, "encoder_layers": 1, "decoder_layers": 2, "neighbours": 8}
    },
    "align": {
        "single": {"target": "teacher/single", "tap": 2, "hidden": 16},
        "pair": {"target": "teacher/pair", "tap": 2, "hidden": 16},
        "structure": {"target": "teacher/structure", "tap": 1, "hidden": 16},
    },
    "curriculum": {
        "diffusion": {"kind": "linear", "start": 0.0, "end": 1.0, "ends": 4},
        "single": 0.1,
        "pair": 0.4,
        "structure": 0.2,
    },
    "optim": {"lr": 3e-3, "clip": 0.0},
    "every": {"log": 5, "save": 0},
}


def length_of(number: int) -> int:
    return 12 + (number * 7) % 30


def nearest(coords: np.ndarray) -> np.ndarray:
    """The nearest residues by CA, -1 where there are none, [L, 48]."""
    ca, found = coords[:, 1], np.full((len(coords), NEIGHBOURS), -1, np.int32)
    there = np.flatnonzero(np.isfinite(ca).all(1))
    apart = np.square(ca[there, None] - ca[None, there]).sum(-1)
    order = there[np.argsort(apart, 1, kind="stable")[:, :NEIGHBOURS]]
    found[there, : order.shape[1]] = order
    return found


def protein(number: int) -> dict[str, np.ndarray]:
    """One protein and its representations."""
    rng = np.random.default_rng(number)
    length = length_of(number)
    turn = rng.integers(0, 2, length)  # the hidden class of each residue
    step = rng.standard_normal((length, 3)) * np.where(turn, 3.0, 1.0)[:, None]
    ca = np.cumsum(step + [1.5, 0, 0], 0)
    coords = (ca[:, None] + rng.standard_normal((length, 4, 3))).astype(np.float32)
    coords[:, 3] = coords[:, 1] + np.where(turn, 1.2, 4.0)[:, None] * [0, 0, 1]
    residue = np.where(turn, 3, 11).astype(np.int32)
    coords[2, 0], residue[4] = np.nan, 20
    graph = nearest(coords)
    single = rng.standard_normal((length, 6)).astype(np.float32) * 0.1
    single[:, 0] += 2 * turn - 1
    pair = (turn[:, None] - turn[None]).astype(np.float32)[..., None] + np.eye(length)[..., None]
    pair = np.concatenate([pair, 1 + 0 * pair], -1)[np.arange(length)[:, None], graph]
    return {
        "coords": coords,
        "residue": residue,
        "number": np.arange(length, dtype=np.int32),
        "chain": np.zeros(length, np.int32),
        "neighbours": graph,
        "single": single,
        "pair": pair.astype(np.float32),
        "structure": single[:, ::-1].copy(),
        "whole": single.mean(0),
    }


class Source:
    """The proteins by number."""

    entries = (*DATA, "single", "pair", "structure", "whole")
    views = 1

    def listing(self) -> dict[str, str]:
        return {f"p{i:02d}": "1" for i in range(PROTEINS)}

    def read(self, key: str, view: int = 0) -> dict:
        return protein(int(key[1:]))


class Copy:
    """An encoder that stores entries of the source."""

    licence, batch_size = "", 8

    def __init__(self, *fields: Field) -> None:
        self.reads, self.fields = tuple(field.name for field in fields), fields

    def revision(self) -> str:
        return "1"

    def encode(self, samples):
        return {name: [sample[name] for sample in samples] for name in self.reads}


COLUMNS = {
    "chain": Copy(
        Field("coords", "data", (None, 4, 3), "float32+nan"),
        *(Field(name, "data", (None,), "int32") for name in ("residue", "number", "chain")),
        Field("neighbours", "data", (None, NEIGHBOURS), "int32"),
    ),
    "teacher": Copy(
        Field("single", "token", (None, 6)),
        Field("pair", "pair", (None, NEIGHBOURS, 2)),
        Field("structure", "token", (None, 6)),
    ),
    "summary": Copy(Field("whole", "sample", (6,))),
}


def build(cache: Path) -> Path:
    """The whole cache, in two shards."""
    source = Source()
    frozen = plan.freeze(
        cache, source.listing(), pipeline="pdb", domain="protein", source="tiny", shard_size=16
    )
    for name, encoder in COLUMNS.items():
        job = column.open_job(cache, frozen, name, encoder, source)
        engines.run(job, engines.Share(), progress=False)
    return cache


def settings(cache: Path, run: Path, **over) -> TrainConfig:
    """The recipe with tables laid over TABLE; twenty steps unless said otherwise."""
    places = {"shards": str(cache), "run": str(run), "steps": 20}
    return config.build(TrainConfig, config.merge(TABLE | places, over))
