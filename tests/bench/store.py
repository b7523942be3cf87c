"""make bench-store: the stream from a server with 10 ms latency, and from local disk.

Records of 40 KB (moments (8, 32, 32) float16 and tokens (192, 128) as int8), written once to
--folder. A server of this machine answers each request after --latency. Each way reads --steps
batches in a process of its own, in turns: from disk; by ranges; with a copy that is filled at the
same time; and from that copy. "paced" ways have a consumer that takes --pace seconds per batch, as
a GPU would; the others take batches as fast as they come, and then the two cores do all the work of
both ends. Peers (store_peers.py) read the same records from the same server, as fast as they come;
--peers names a Python that has them, and one that is not installed is left out with a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import html
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent))
import report
import store_peers

from reed import open_cache
from reed.build import column, engines
from reed.cache import plan

BATCH, SHARD = 256, 256


def build(cache: Path, samples: int) -> None:
    """The cache; what is there is kept."""
    import loader  # its records, smaller

    loader.TOKENS = (192, 128)
    records = loader.Records(samples, "int8")
    frozen = plan.freeze(
        cache,
        records.listing(),
        pipeline="bench",
        domain="image",
        source="bench",
        shard_size=SHARD,
    )
    engines.run(column.open_job(cache, frozen, "both", records, records), engines.Share())


class Server:
    """A web server of a folder, with ranges and a latency; it counts what it sends."""

    def __init__(self, folder: Path, latency: float) -> None:
        self.folder, self.latency, self.bytes, self.requests = folder, latency, 0, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(self.latency)
                answer = self.answer(head.decode())
                is_head = head.startswith(b"HEAD ")
                writer.write(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if is_head else answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def answer(self, head: str) -> bytes:
        """Return the answer to a request."""
        lines = head.split("\r\n")
        path = lines[0].split(" ")[1].partition("?")[0].strip("/")
        if path == "count":
            return self._whole(json.dumps([self.requests, self.bytes]).encode(), "200 OK", "")
        wanted = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        file = self.folder / path
        if file.is_dir():
            names = sorted(p.name + "/" * p.is_dir() for p in file.iterdir())
            page = "".join(f'<a href="{html.escape(n)}">{html.escape(n)}</a>' for n in names)
            return self._whole(page.encode(), "200 OK", "Content-Type: text/html\r\n")
        if not file.is_file():
            return self._whole(b"", "404 Not Found", "")

        # The part that was asked for; all of it otherwise.
        size = file.stat().st_size
        first, _, last = wanted.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last or size - 1), size - 1) + 1
        with open(file, "rb") as opened:
            data = os.pread(opened.fileno(), end - begin, begin)
        self.requests, self.bytes = self.requests + 1, self.bytes + len(data)
        about = f"Content-Range: bytes {begin}-{end - 1}/{size}\r\n" if "range" in wanted else ""
        return self._whole(data, "206 Partial Content" if about else "200 OK", about)

    @staticmethod
    def _whole(data: bytes, status: str, about: str) -> bytes:
        stamp = 'ETag: "1"\r\nLast-Modified: Sat, 28 Nov 2026 00:00:00 GMT\r\n'
        return (
            f"HTTP/1.1 {status}\r\n{stamp}{about}Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )


def run_server(folder: Path, latency: float, port: object) -> None:
    """Serve a folder until the process is ended; puts the port into a queue."""

    async def run() -> None:
        server = Server(folder, latency)
        started = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=256)
        port.put(started.sockets[0].getsockname()[1])
        await started.serve_forever()

    asyncio.run(run())


def counted(url: str) -> list[int]:
    """Return the requests and the bytes that the server has answered."""
    from urllib.request import urlopen

    with urlopen(f"{url}/count") as answer:
        return json.loads(answer.read())


def read(place: str, kept: str, steps: int, pace: float) -> dict[str, float]:
    """Read batches of a cache in this process; return what `store_peers.measured` does."""
    from reed.store import mirror

    places = {"moments": "both/moments", "tokens": "both/tokens"}
    with open_cache(place) as cache:
        if kept:
            mirror.of(cache.folder).keep(Path(kept), 10**12)
        stream = cache.stream(places, BATCH)
        with contextlib.closing(stream.batches()) as batches:
            return store_peers.measured((_Sized(b) for b in batches), steps, pace)


class _Sized:
    """A batch with its number of samples, of which nothing is decoded."""

    def __init__(self, batch: object) -> None:
        self._batch = batch

    def __len__(self) -> int:
        return BATCH


def apart(program: str, python: str, words: list[object]) -> object:
    """Run a program of this folder with a mirror of its own; return what it prints."""
    command = [python, str(Path(__file__).with_name(program)), json.dumps(words)]
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"XDG_CACHE_HOME": home}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout.splitlines()[-1])


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("runs/bench-store"))
@click.option("--samples", default=8192, show_default=True)
@click.option("--steps", default=64, show_default=True)
@click.option("--latency", default=0.01, show_default=True, help="Seconds.")
@click.option("--pace", default=0.15, show_default=True, help="Seconds per batch.")
@click.option("--runs", default=3, show_default=True)
@click.option("--peers", default=sys.executable, help="Python with the peers.")
@click.argument("one", default="")
def main(
    folder: Path,
    samples: int,
    steps: int,
    latency: float,
    pace: float,
    runs: int,
    peers: str,
    one: str,
) -> None:
    """Measure the stream of an object store."""
    if one:
        print(json.dumps(read(*json.loads(one))))
        return
    cache, kept = folder / f"records-{samples}", folder / "kept"
    build(cache, samples)

    # Peers with formats of their own write them beside the cache.
    there = apart("store_peers.py", peers, ["list"])
    for name in store_peers.NAMES:
        if name in there:
            apart("store_peers.py", peers, ["write", name, str(cache)])
        else:
            click.echo(f"{name} is left out: {peers} does not have it; see --peers")

    # The server is another process, whose CPU seconds are not counted.
    spawn = multiprocessing.get_context("spawn")
    port = spawn.Queue()
    server = spawn.Process(target=run_server, args=(folder, latency, port), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.get()}"
    ways = ways_of(cache, url, kept, steps, pace)
    for name in there:
        words = ["read", name, url, str(cache), BATCH, steps, 0.0]
        ways[name] = functools.partial(apart, "store_peers.py", peers, words)
    try:
        publish(measured(ways, url, kept, runs), latency)
    finally:
        server.terminate()


def ways_of(
    cache: Path, url: str, kept: Path, steps: int, pace: float
) -> dict[str, Callable[[], dict[str, float]]]:
    """Return our ways to read, each a function that runs it once."""
    remote, ways = f"{url}/{cache.name}", {}
    for slow in (0.0, pace):
        places = {"disk": (str(cache), ""), "ranges": (remote, "")}
        places |= {n: (remote, str(kept)) for n in ("copy being filled", "copy")}
        for name, (place, keeps) in places.items():
            words = [place, keeps, steps, slow]
            way = functools.partial(apart, "store.py", sys.executable, words)
            ways[f"{name}, paced" if slow else name] = way
    return ways


def measured(
    ways: dict[str, Callable[[], dict[str, float]]], url: str, kept: Path, runs: int
) -> dict[str, list[dict[str, float]]]:
    """Return the measurements of every way, in turns; the first turn does not count."""
    values: dict[str, list[dict[str, float]]] = {}
    for turn in range(runs + 1):
        for name, way in list(ways.items()):
            if name.startswith("copy being filled"):
                shutil.rmtree(kept, ignore_errors=True)
            before = counted(url)
            try:
                value = way()
            except RuntimeError as error:
                if name not in store_peers.NAMES:
                    raise
                click.echo(f"{name} is left out, it failed: {str(error).splitlines()[-1]}")
                del ways[name]
                continue
            for entry, was, now in zip(("requests", "bytes"), before, counted(url), strict=True):
                value[entry] = now - was
            if turn:
                values.setdefault(name, []).append(value)
    return values


def publish(values: dict[str, list[dict[str, float]]], latency: float) -> None:
    """Print the table."""
    figures = []
    rates = {name: [each["rate"] for each in of] for name, of in values.items()}
    for name, each in values.items():
        figures.append(report.figure(name, rates[name], "samples/s"))
        figures.append(report.figure(f"{name}: CPU", [e["cpu"] for e in each], "s"))
        figures.append(report.figure(f"{name}: moved", [e["bytes"] / 1e6 for e in each], "MB"))
        asked = [e["requests"] for e in each]
        figures.append(report.figure(f"{name}: requests", asked, "requests"))
        grown = [e["grown"] for e in each]
        figures.append(report.figure(f"{name}: memory grown", grown, "MB"))
    for end in ("", ", paced"):
        for name in ("ranges", "copy being filled", "copy"):
            figures.append(report.ratios(rates, name + end, f"disk{end}"))

    # What each CPU second delivers tells more where other programs use the cores as well.
    per_cpu = {name: [1 / e["cpu"] for e in each] for name, each in values.items()}
    for peer in filter(values.__contains__, store_peers.NAMES):
        for name in ("ranges", "copy being filled"):
            figures.append(report.ratios(rates, name, peer))
            both = report.ratios(per_cpu, name, peer)
            figures.append(dataclasses.replace(both, name=f"{both.name}, per CPU second"))
    what = f"The stream of a server with {latency * 1000:.0f} ms latency, and of local disk"
    report.publish("store", what, figures)


if __name__ == "__main__":
    main()
