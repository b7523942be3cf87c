"""A cache of 40 chains of 3 to 31 tokens and a domain for it, named by module:attribute.

Test modules take it in with runpy.run_path; programs with tests/ on their path import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reed import config
from reed.build import column, engines
from reed.cache import plan
from reed.cache.schema import Field
from reed.domains.base import Batch, Noised
from reed.nets import Tap
from reed.nets.layers import Mlp, masked_mean
from reed.train.recipe import TrainConfig

CHAINS = 40
TABLE = {
    "tokens": 160,
    "ema_decay": 0.9,
    "precision": "fp32",
    "data": {"x": "chain/x"},
    "domain": {"width": 16},
    "align": {"teacher": {"target": "teacher/tokens", "tap": 1, "hidden": 16}},
    "curriculum": {"teacher": 0.5},
    "optim": {"lr": 2e-3},
    "every": {"log": 5, "save": 0},
}


class Net(nn.Module):
    """A token's velocity from the token, the mean of its chain and the time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.mlp = nn.Linear(9, width), Mlp(width, width)
        self.leave = nn.Linear(width, 4)

    def taps(self) -> list[Tap]:
        return [Tap(self.leave.in_features, None)]

    def repeated(self) -> list[nn.Module]:
        return [self.mlp]

    def forward(self, x: Tensor, t: Tensor, mask: Tensor, taps=()) -> tuple[Tensor, dict]:
        mean = masked_mean(x, mask)[:, None].expand_as(x)
        time = t[:, None, None].expand(*x.shape[:2], 1)
        hidden = self.mlp(self.enter(torch.cat([x, mean, time], -1)))
        return self.leave(hidden), {1: hidden}


@dataclass(frozen=True)
class Options:
    """There are no options."""


@dataclass(frozen=True)
class Domain:
    """Flow matching of chains [L, 4], all of whose numbers are masked means over real tokens."""

    roles = ("x",)
    losses = ("diffusion",)
    sampling = Options

    width: int = 16

    def net(self, fields: Mapping[str, Field]) -> Net:
        return Net(self.width)

    def collate(self, values, fields, targets, mask=None) -> Batch:
        return Batch(dict(values), targets, mask)

    def corrupt(self, batch: Batch, draws: Any) -> Noised:
        x = batch.data["x"]
        t, noise = draws.uniform(), draws.normal(*x.shape[1:])
        x_t = torch.lerp(x, noise, t[:, None, None])
        return Noised({"x": x_t, "t": t, "mask": batch.mask}, t, noise - x)

    def loss(self, prediction: Tensor, noised: Noised, batch: Batch) -> dict[str, Tensor]:
        error = (prediction - noised.target).square().mean(-1)
        return {"diffusion": masked_mean(error, batch.mask)}


class Source:
    """Chains of normal numbers about 3; the teacher sees them through a fixed matrix."""

    entries = ("x", "tokens")
    views = 1

    def listing(self) -> dict[str, str]:
        return {f"c{i:02d}": "1" for i in range(CHAINS)}

    def read(self, key: str, view: int = 0) -> dict:
        number = int(key[1:])
        rng = np.random.default_rng(number)
        x = (3 + rng.standard_normal((3 + (number * 5) % 29, 4))).astype(np.float32)
        return {"x": x, "tokens": x @ np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)}


class Copy:
    """An encoder that stores one entry of the source."""

    licence, batch_size = "", 8

    def __init__(self, entry: str, field: Field) -> None:
        self.reads, self.fields = (entry,), (field,)

    def revision(self) -> str:
        return "1"

    def encode(self, samples):
        return {self.fields[0].name: [sample[self.reads[0]] for sample in samples]}


def build(cache: Path) -> Path:
    """The whole cache, in two shards."""
    source = Source()
    frozen = plan.freeze(
        cache,
        source.listing(),
        pipeline="digits",
        domain="tiny_ragged:Domain",
        source="tiny",
        shard_size=24,
    )
    columns = {
        "chain": Copy("x", Field("x", "data", (None, 4))),
        "teacher": Copy("tokens", Field("tokens", "token", (None, 6))),
    }
    for name, encoder in columns.items():
        job = column.open_job(cache, frozen, name, encoder, source)
        engines.run(job, engines.Share(), progress=False)
    return cache


def settings(cache: Path, run: Path, **over) -> TrainConfig:
    """The recipe with tables laid over TABLE; twenty steps unless said otherwise."""
    places = {"shards": str(cache), "run": str(run), "steps": 20}
    return config.build(TrainConfig, config.merge(TABLE | places, over))
