"""make bench-loader: our loader, stock webdataset, one file per array, and memcpy.

ImageNet-shaped records: moments (8, 32, 32) float16 and tokens (256, 768) as int8 or float16,
2.5 GB in all and as much for each of two peers, written once to --folder. All ways deliver batches
of 256 torch tensors; they are run in turn, in one process each, with a warm page cache. "Per core"
is per CPU second, of the process and its workers. The peers LitData, MosaicML Streaming and Energon
read the same records (see loader_peers.py). What is written is kept, so a rerun writes only what is
missing; it is removed with --folder.

    python tests/bench/loader.py --samples 1024 --runs 1    # a trial of a few minutes
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import loader_peers
import report
import torch
from PIL import Image

from reed import open_cache
from reed.build import column, engines
from reed.cache import plan
from reed.cache.schema import Field

BATCH = 256
TOKENS, MOMENTS = (256, 768), (8, 32, 32)


class Records:
    """Seeded random records: a source and an encoder at once."""

    entries = ("index",)
    reads = ("index",)
    licence = ""
    batch_size = 64

    def __init__(self, samples: int, codec: str) -> None:
        self._samples = samples
        self.fields = (
            Field("moments", "moments", MOMENTS, "float16"),
            Field("tokens", "token", TOKENS, codec),
        )
        rng = np.random.default_rng(0)
        self._pool = rng.standard_normal((64, *TOKENS), dtype=np.float32)
        self._moments = rng.standard_normal((64, *MOMENTS), dtype=np.float32)

    def revision(self) -> str:
        return "1"

    def listing(self) -> dict[str, str]:
        return {f"sample-{i:07d}": "" for i in range(self._samples)}

    def read(self, key: str, view: int = 0) -> dict[str, int]:
        return {"index": int(key[7:])}

    def encode(self, samples: list[dict[str, int]]) -> dict[str, list[np.ndarray]]:
        places = [sample["index"] % 64 for sample in samples]
        return {
            "moments": [self._moments[i] for i in places],
            "tokens": [self._pool[i] for i in places],
        }


def build(folder: Path, samples: int) -> None:
    """The caches and the per-file layout; what is there is kept."""
    for codec, count, name in (
        ("int8", samples, "int8"),
        ("float16", samples, "float16"),
        ("int8", samples // 4, "quarter"),
    ):
        records = Records(count, codec)
        cache = folder / name
        frozen = plan.freeze(
            cache,
            records.listing(),
            pipeline="bench",
            domain="image",
            source="bench",
            shard_size=512,
        )
        engines.run(column.open_job(cache, frozen, "both", records, records), engines.Share())
    files = folder / "files"
    if not (files / "done").is_file():
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir(parents=True)
        rng = np.random.default_rng(1)
        for i in range(samples // 4):
            smooth = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            image = Image.fromarray(smooth).resize((256, 256), Image.Resampling.BICUBIC)
            image.save(files / f"{i:06d}.png")
            np.save(files / f"{i:06d}-moments.npy", rng.standard_normal(MOMENTS, np.float32))
            np.save(
                files / f"{i:06d}-tokens.npy", rng.standard_normal(TOKENS, np.float32).astype("f2")
            )
        (files / "done").touch()


def needed(samples: int) -> float:
    """Bytes of all that is written: ours, and those of two peers; then a quarter of it in files."""
    moments, tokens = 2 * np.prod(MOMENTS), np.prod(TOKENS)
    of_codec = {"int8": moments + tokens, "float16": moments + 2 * tokens}
    written = sum(size * samples * 3 for size in of_codec.values())
    return 1.05 * (written + samples / 4 * (of_codec["int8"] + of_codec["float16"] + 2 * moments))


def held(folder: Path) -> int:
    """Bytes of the files that are there already; links count nothing."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


def ours(cache: Path, threads: int) -> Generator[torch.Tensor]:
    """Batches of the stream, as stored (decoding is the device's work)."""
    places = {"moments": "both/moments", "tokens": "both/tokens"}
    for stored in open_cache(cache).stream(places, BATCH, threads=threads).batches():
        yield stored.parts["tokens"][0]


def stock(cache: Path) -> Iterator[torch.Tensor]:
    """The documented webdataset pipeline on the same shards: shuffle, decode, tuple, batch."""
    import webdataset as wds

    shards = sorted(str(path) for path in (cache / "both").glob("*.tar"))
    data = wds.WebDataset(shards, shardshuffle=100, seed=0).shuffle(1000).decode()
    pairs = data.to_tuple("moments.npy", "tokens.npy").batched(BATCH, partial=False)
    while True:
        for _, tokens in pairs:
            yield torch.as_tensor(tokens)


class Files(torch.utils.data.Dataset):
    """One PNG and two .npy files per sample, as the public trainers keep them."""

    def __init__(self, folder: Path) -> None:
        self._stems = sorted(str(path)[:-4] for path in folder.glob("*.png"))

    def __len__(self) -> int:
        return len(self._stems)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        stem = self._stems[i]
        image = np.array(Image.open(f"{stem}.png"))
        arrays = [np.load(f"{stem}-{name}.npy") for name in ("moments", "tokens")]
        return (torch.from_numpy(image), *(torch.from_numpy(array) for array in arrays))


def per_file(folder: Path) -> Iterator[torch.Tensor]:
    """A shuffling torch DataLoader over the files, in this process."""
    while True:
        for _, _, tokens in torch.utils.data.DataLoader(Files(folder), BATCH, shuffle=True):
            yield tokens


def memcpy(codec: str) -> Iterator[torch.Tensor]:
    """Copying a batch's bytes from a large buffer to a ring of four, as the stream has."""
    size = BATCH * (2 * np.prod(MOMENTS) + np.prod(TOKENS) * (1 if codec == "int8" else 2))
    source = np.ones((16, size), np.uint8)
    ring = np.zeros((4, size), np.uint8)
    turn = 0
    while True:
        np.copyto(ring[turn % 4], source[turn % 16])
        yield torch.from_numpy(ring[turn % 4])
        turn += 1


def rate(
    batches: Iterator[torch.Tensor], count: int, cpu: dict[str, list[float]], name: str
) -> float:
    """Records per second over `count` batches, after one that is not counted."""
    next(batches)
    wall, spent = time.perf_counter(), report.cpu_seconds()
    for _ in islice(batches, count):
        pass
    wall, spent = time.perf_counter() - wall, report.cpu_seconds() - spent
    cpu.setdefault(name, []).append(count * BATCH / spent)
    return count * BATCH / wall


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("runs/bench/loader-data"))
@click.option("--samples", default=4096, show_default=True)
@click.option("--runs", default=5, show_default=True)
def main(folder: Path, samples: int, runs: int) -> None:
    """Measure every way in turn and publish the figures."""
    folder = folder / str(samples)  # of another number, there may be records already
    report.check_room(folder, needed(samples) - held(folder))
    build(folder, samples)
    cpu: dict[str, list[float]] = {}
    counts = {"ours": 24, "stock": 6, "files": 3, "memcpy": 48}
    ways: dict[str, Callable[[], float]] = {}
    streams = []  # ours, which close files and end threads
    for codec in ("int8", "float16"):
        for threads in (0, 1, 2):
            name = f"ours, {threads} threads, {codec}"
            source = ours(folder / codec, threads)
            ways[name] = lambda s=source, n=name: rate(s, counts["ours"], cpu, n)
            streams.append(source)
        for kind, source in (("stock", stock(folder / codec)), ("memcpy", memcpy(codec))):
            name = f"{kind}, {codec}"
            ways[name] = lambda s=source, n=name, k=kind: rate(s, counts[k], cpu, n)
        for peer, source in loader_peers.peers(folder / codec, BATCH).items():
            name = f"{peer}, {codec}"
            ways[name] = lambda s=source, n=name: rate(s, counts["stock"], cpu, n)
    source = per_file(folder / "files")
    ways["files, float16"] = lambda: rate(source, counts["files"], cpu, "files, float16")
    wall = report.interleaved(ways, runs)
    for stream in streams:
        stream.close()
    cpu = {name: values[1:] for name, values in cpu.items()}
    figures = [report.figure(name, values, "records/s") for name, values in wall.items()]
    figures += [report.figure(name, values, "records/CPU s") for name, values in cpu.items()]
    for codec in ("int8", "float16"):
        mine = f"ours, 0 threads, {codec}"
        peers = [f"{name}, {codec}" for name in ("stock", *loader_peers.PEERS)]
        for other in filter(cpu.__contains__, [*peers, "files, float16"]):
            figures.append(_named("per core: ", report.ratios(cpu, mine, other)))
        figures.append(report.ratios(wall, mine, f"memcpy, {codec}"))
        figures.append(report.ratios(wall, f"ours, 2 threads, {codec}", f"memcpy, {codec}"))
    figures += [_memory(folder / "int8", runs), _memory(folder / "quarter", runs)]
    report.publish("loader", __doc__ or "", figures)


def _memory(cache: Path, runs: int) -> report.Figure:
    """Anonymous resident memory that 64 batches add, in processes of their own."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import loader, itertools, pathlib\n"
        "status = lambda: pathlib.Path('/proc/self/status').read_text().split('RssAnon:')[1]\n"
        "held = lambda: int(status().split()[0]) / 1024\n"
        "before, batches = held(), loader.ours(pathlib.Path(sys.argv[2]), 2)\n"
        "for _ in itertools.islice(batches, 64): pass\n"
        "print(held() - before)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(cache)]
    found = [float(subprocess.check_output(command, text=True)) for _ in range(runs)]
    size = sum(path.stat().st_size for path in cache.rglob("*.tar")) / 2**20
    return report.figure(
        f"memory of reading a cache of {size:.0f} MiB", found, "MiB", "ring: 4 batches"
    )


def _named(prefix: str, figure: report.Figure) -> report.Figure:
    return report.Figure(prefix + figure.name, *list(vars(figure).values())[1:])


if __name__ == "__main__":
    main()
