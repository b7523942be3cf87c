"""make bench-store: the stream from a server with 10 ms latency, and from local disk.

Records of 40 KB (moments (8, 32, 32) float16 and tokens (192, 128) as int8), written once to
--folder. A server of this machine answers each request after --latency. Each way reads --steps
batches in a process of its own, in turns: from disk; by ranges; with a copy that is filled at the
same time; and from that copy. "paced" ways have a consumer that takes --pace seconds per batch, as
a GPU would; the others take batches as fast as they come, and then the two cores do all the work of
both ends.
"""

from __future__ import annotations

import asyncio
import html
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent))
import report

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
                writer.write(self.answer(head.decode()))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def answer(self, head: str) -> bytes:
        """Return the answer to a request."""
        lines = head.split("\r\n")
        path = lines[0].split(" ")[1].strip("/")
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
        stamp = "Last-Modified: Sat, 28 Nov 2026 00:00:00 GMT\r\n"
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
    """Read batches of a cache in this process; return samples per second and CPU seconds."""
    from reed.store import mirror

    places = {"moments": "both/moments", "tokens": "both/tokens"}
    with open_cache(place) as cache:
        if kept:
            mirror.of(cache.folder).keep(Path(kept), 10**12)
        batches = cache.stream(places, BATCH).batches()
        began, cpu = time.perf_counter(), time.process_time()
        for _ in islice(batches, steps):
            time.sleep(pace)
        seconds = time.perf_counter() - began
        cpu = time.process_time() - cpu
        batches.close()
    return {"rate": steps * BATCH / seconds, "cpu": cpu}


def apart(place: str, kept: str, steps: int, pace: float) -> dict[str, float]:
    """The same in a process of its own, with a mirror of its own."""
    words = [sys.executable, __file__, "--read", json.dumps([place, kept, steps, pace])]
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"XDG_CACHE_HOME": home}
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("runs/bench-store"))
@click.option("--samples", default=8192, show_default=True)
@click.option("--steps", default=64, show_default=True)
@click.option("--latency", default=0.01, show_default=True, help="Seconds.")
@click.option("--pace", default=0.15, show_default=True, help="Seconds per batch.")
@click.option("--runs", default=3, show_default=True)
@click.option("--read", "one", default="", hidden=True)
def main(
    folder: Path, samples: int, steps: int, latency: float, pace: float, runs: int, one: str
) -> None:
    """Measure the stream of an object store."""
    if one:
        print(json.dumps(read(*json.loads(one))))
        return
    cache, kept = folder / f"records-{samples}", folder / "kept"
    build(cache, samples)

    # The server is another process, whose CPU seconds are not counted.
    spawn = multiprocessing.get_context("spawn")
    port = spawn.Queue()
    server = spawn.Process(target=run_server, args=(cache, latency, port), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.get()}"
    try:
        publish(measured(str(cache), url, kept, steps, pace, runs), latency)
    finally:
        server.terminate()


def measured(
    cache: str, url: str, kept: Path, steps: int, pace: float, runs: int
) -> dict[str, list[dict[str, float]]]:
    """Return the measurements of every way."""
    values: dict[str, list[dict[str, float]]] = {}
    for turn in range(runs + 1):
        for slow in (0.0, pace):
            shutil.rmtree(kept, ignore_errors=True)
            ways = {"disk": (cache, ""), "ranges": (url, "")}
            ways |= {"copy being filled": (url, str(kept)), "copy": (url, str(kept))}
            for name, (place, keeps) in ways.items():
                before = counted(url)
                value = apart(place, keeps, steps, slow)
                value |= dict(zip(("requests", "bytes"), counted(url), strict=True))
                for entry, was in zip(("requests", "bytes"), before, strict=True):
                    value[entry] -= was
                if turn:
                    values.setdefault(f"{name}, paced" if slow else name, []).append(value)
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
    for end in ("", ", paced"):
        for name in ("ranges", "copy being filled", "copy"):
            figures.append(report.ratios(rates, name + end, f"disk{end}"))
    what = f"The stream of a server with {latency * 1000:.0f} ms latency, and of local disk"
    report.publish("store", what, figures)


if __name__ == "__main__":
    main()
