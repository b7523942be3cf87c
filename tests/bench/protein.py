"""make bench-protein: designing a sequence, and the memory of an epoch with pair representations.

Designing: the net of REED's protein recipe with random weights in float32, one structure, one
thread. Ours encodes the structure once and runs the decoder only at steps that reveal a residue,
for the edges and residues that such a step changes or still needs. "whole net" runs features,
encoder and decoder at every step, as the public code does; "decoder" encodes once and runs the
decoder at every step. The steps are the same, and so are the letters.

Memory: an epoch of random chains with single (384) and pair (128) representations. Ours streams
them from a cache that keeps int8 pairs at the 48 nearest neighbours; in RAM is how the public
code holds a data set: a list of float32 arrays, L x L for pairs. Each is the most anonymous memory
that it adds to a process of its own; the first grows with the batch, the second with the data.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import report

from reed import open_cache
from reed.build import column, engines
from reed.cache import plan
from reed.cache.schema import Field
from reed.chem.protein import NEIGHBOURS

SINGLE, PAIR = 384, 128  # channels
PLACES = {"x": "chain/coords", "single": "teacher/single", "pair": "teacher/pair"}


def chain(number: int, length: int) -> np.ndarray:
    """A random backbone, [length, 4, 3] float32."""
    rng = np.random.default_rng(number)
    ca = (rng.standard_normal((length, 3)) * 2.2).cumsum(0)
    return (ca[:, None] + rng.standard_normal((length, 4, 3))).astype(np.float32)


def designing(length: int, steps: int, runs: int) -> list[report.Figure]:
    """CPU seconds for one sequence, three ways."""
    import torch

    from reed.domains.protein import DesignOptions, ProteinDomain, Structure, collated, denoiser
    from reed.flows import masked
    from reed.nets.mpnn import LETTERS, MASK, MPNN, MPNNConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, domain = MPNN(MPNNConfig()).eval(), ProteinDomain()
    place = np.arange(length)
    structure = Structure("random", chain(0, length), place % 20, place, 0 * place)
    options = DesignOptions((structure,), steps=steps)
    inputs, residue = collated((structure,), "cpu")
    calls: list[int] = []

    def every_step(denoise: Callable[[Any], Any]) -> None:
        tokens = torch.full_like(residue, MASK)
        reveal = np.linspace(0, length, steps + 1).astype(int)
        for last in reveal[1:]:
            letters = denoise(tokens).argmax(-1)
            tokens = torch.where(torch.arange(length) < last, letters, tokens)

    def whole(tokens: Any) -> Any:
        return net(residues=tokens, **inputs)[0][..., :LETTERS]

    def ours() -> None:
        domain.generate(net, {}, range(1), options)

    def timed(way: Callable[[], None]) -> Callable[[], float]:
        def run() -> float:
            began = process_time()
            with torch.inference_mode():
                way()
            return process_time() - began

        return run

    ways = {
        "ours": timed(ours),
        "decoder at every step": timed(lambda: every_step(denoiser(net, net.encode(**inputs)))),
        "whole net at every step": timed(lambda: every_step(whole)),
    }
    values = report.interleaved(ways, runs)
    counted = masked.unmask

    def counting(*args: Any, some: Any, **settings: Any) -> Any:
        return counted(*args, some=lambda *rows: calls.append(1) or some(*rows), **settings)

    with contextlib.ExitStack() as restored:
        restored.callback(setattr, masked, "unmask", counted)
        masked.unmask = counting
        with torch.inference_mode():
            ours()
    what = f"{length} residues, {steps} steps"
    return [
        *(report.figure(name, each, "CPU s/sequence", what) for name, each in values.items()),
        *(report.ratios(values, name, "ours") for name in list(ways)[1:]),
        report.figure("decoder passes of ours", [float(len(calls))], "passes", what),
    ]


class Source:
    """Random chains and dense representations of them."""

    entries = ("coords", "single", "pair")
    views = 1

    def __init__(self, chains: int, length: int) -> None:
        self._chains, self._length = chains, length

    def listing(self) -> dict[str, str]:
        """Every chain."""
        return {f"c{i:05d}": "1" for i in range(self._chains)}

    def read(self, key: str, view: int = 0) -> dict[str, np.ndarray]:
        """Coordinates, single [L, 384] and the rows of pair that a cache keeps, [L, 48, 128]."""
        rng, length = np.random.default_rng(int(key[1:])), self._length
        shapes = {"single": (length, SINGLE), "pair": (length, NEIGHBOURS, PAIR)}
        arrays = {n: rng.standard_normal(s, dtype=np.float32) for n, s in shapes.items()}
        return {"coords": chain(int(key[1:]), length), **arrays}


class Copy:
    """An encoder that stores what the source gives."""

    licence, batch_size = "", 8

    def __init__(self, *fields: Field) -> None:
        self.reads, self.fields = tuple(field.name for field in fields), fields

    def revision(self) -> str:
        """A constant."""
        return "1"

    def encode(self, samples: list[dict[str, Any]]) -> dict[str, list[Any]]:
        """The entries themselves."""
        return {name: [sample[name] for sample in samples] for name in self.reads}


def build(cache: Path, chains: int, length: int) -> None:
    """A cache of random chains with int8 representations."""
    source = Source(chains, length)
    frozen = plan.freeze(
        cache, source.listing(), pipeline="pdb", domain="protein", source="random", shard_size=32
    )
    pair = Field("pair", "pair", (None, NEIGHBOURS, PAIR), "int8")
    columns = {
        "chain": Copy(Field("coords", "data", (None, 4, 3))),
        "teacher": Copy(Field("single", "token", (None, SINGLE), "int8"), pair),
    }
    for name, encoder in columns.items():
        job = column.open_job(cache, frozen, name, encoder, source)
        engines.run(job, engines.Share(), progress=False)


def held() -> float:
    """Anonymous memory of this process, in MB."""
    status = Path("/proc/self/status").read_text().split("RssAnon:")[1]
    return int(status.split()[0]) / 1024


def streamed(cache: Path, tokens: int) -> float:
    """The most that reading one epoch, decoded, adds."""
    before, most = held(), 0.0
    stream = open_cache(cache).stream(PLACES, tokens=tokens)
    with contextlib.closing(stream.batches()) as batches:
        for stored in itertools.islice(batches, round(stream.samples / stream.batch)):
            values = stream.decode(stored)
            most = max(most, held() - before)
            del values
    return most


def in_ram(chains: int, length: int) -> float:
    """What a data set adds that is held as the public code holds it."""
    before, shapes = held(), {"single": (length, SINGLE), "pair": (length, length, PAIR)}
    kept = [{name: np.ones(s, np.float32) for name, s in shapes.items()} for _ in range(chains)]
    return held() - before if kept else 0.0


def memory(chains: int, length: int, tokens: int) -> list[report.Figure]:
    """Memory of an epoch, each way in a process of its own."""
    values: dict[str, list[float]] = {"streamed epoch": [], "all in RAM": []}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        build(cache, chains, length)
        for name, each in values.items():
            words = [sys.executable, __file__, "--peak", name, "--cache", str(cache)]
            words += ["--chains", str(chains), "--length", str(length), "--tokens", str(tokens)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            each.append(float(done.stdout))
    what = f"{chains} chains of {length}, batches of {tokens} residues"
    return [
        *(report.figure(name, each, "MB", what) for name, each in values.items()),
        report.ratios(values, "all in RAM", "streamed epoch"),
    ]


@click.command()
@click.option("--residues", default=100, show_default=True, help="Of the structure to design for.")
@click.option("--steps", default=100, show_default=True, help="Of the sampler.")
@click.option("--runs", default=3, show_default=True)
@click.option("--chains", default=96, show_default=True, help="Of the epoch.")
@click.option("--length", default=160, show_default=True, help="Of these chains.")
@click.option("--tokens", default=2000, show_default=True, help="Padded residues to a batch.")
@click.option("--peak", hidden=True)
@click.option("--cache", hidden=True, type=click.Path(path_type=Path))
def main(
    residues: int,
    steps: int,
    runs: int,
    chains: int,
    length: int,
    tokens: int,
    peak: str | None,
    cache: Path,
) -> None:
    """Measure both, print a table, write runs/bench/protein.json."""
    if peak:  # a process of its own
        added = streamed(cache, tokens) if peak == "streamed epoch" else in_ram(chains, length)
        click.echo(added)
        return
    figures = designing(residues, steps, runs) + memory(chains, length, tokens)
    what = "Designing a sequence, and the memory of an epoch with pair representations"
    report.publish("protein", what, figures)


if __name__ == "__main__":
    main()
