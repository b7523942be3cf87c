"""Peers of make bench-store: webdataset, LitData and MosaicML Streaming, from the bench's server.

Each reads the records of our shards, as stored, in its own format, shuffled, in batches of torch
tensors, with two worker processes, as its documentation says: webdataset streams the tars by its
`http` opener, LitData and MosaicML Streaming fetch from S3 and keep what they have fetched. This is
a program of its own because they may need another Python than ours (see `--peers` of store.py).
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))
import loader_peers

if TYPE_CHECKING:
    import torch

Batches = Iterator["torch.Tensor"]
WORKERS = 2
NAMES = {"webdataset": "webdataset", "litdata": "litdata", "mosaic": "streaming"}


def read_webdataset(url: str, cache: Path, batch: int) -> Batches:
    """The documented pipeline on URLs, with its loader."""
    import torch
    import webdataset as wds

    shards = [f"{url}/{cache.name}/both/{path.name}" for path in sorted(cache.glob("both/*.tar"))]
    data = wds.WebDataset(shards, shardshuffle=100, seed=0).shuffle(1000).decode()
    pairs = data.to_tuple("moments.npy", "tokens.npy").batched(batch, partial=False)
    for _ in repeat(None):
        for _, tokens in wds.WebLoader(pairs, batch_size=None, num_workers=WORKERS):
            yield torch.as_tensor(tokens)


def read_litdata(url: str, cache: Path, batch: int) -> Batches:
    """StreamingDataset and StreamingDataLoader."""
    import litdata
    from litdata.streaming import downloader

    # Version 0.2.76 fetches chunks by obstore where that is installed, which it does not allow to
    # speak to a server without TLS; without it boto3 does.
    downloader._OBSTORE_AVAILABLE = False
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    with tempfile.TemporaryDirectory() as kept:
        data = litdata.StreamingDataset(
            f"s3://{cache.name}-litdata",
            cache_dir=kept,
            shuffle=True,
            drop_last=True,
            storage_options={"endpoint_url": url, **keys},
        )
        loader = litdata.StreamingDataLoader(data, batch_size=batch, num_workers=WORKERS)
        for found in chain.from_iterable(repeat(loader)):
            yield found["tokens"]


def read_mosaic(url: str, cache: Path, batch: int) -> Batches:
    """StreamingDataset, shuffled, in a torch DataLoader."""
    import streaming
    from torch.utils.data import DataLoader

    os.environ["S3_ENDPOINT_URL"] = url
    with tempfile.TemporaryDirectory() as kept:
        remote = f"s3://{cache.name}-mosaic"
        data = streaming.StreamingDataset(remote=remote, local=kept, shuffle=True, batch_size=batch)
        loader = DataLoader(data, batch_size=batch, num_workers=WORKERS, drop_last=True)
        for found in chain.from_iterable(repeat(loader)):
            yield found["tokens"]


READ = {"webdataset": read_webdataset, "litdata": read_litdata, "mosaic": read_mosaic}
WRITE = {"litdata": loader_peers.write_litdata, "mosaic": loader_peers.write_mosaic}


def write(name: str, cache: Path) -> None:
    """Write the format of a peer beside the cache, once."""
    folder = cache.with_name(f"{cache.name}-{name}")
    if name in WRITE and not (folder / "done").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        WRITE[name](cache, folder)
        (folder / "done").touch()


def measured(batches: Batches, steps: int, pace: float) -> dict[str, float]:
    """Take batches; return samples per second from the first one on, CPU seconds, and memory.

    The CPU seconds are those of this process from the first batch on, and of its workers.
    "grown" are the megabytes by which the peak of this process grew after a quarter of the steps;
    ru_maxrss would count what the process that started this one had.
    """
    import resource

    sizes, began, cpu, count = [], 0.0, 0.0, 0
    for step, tokens in enumerate(islice(batches, steps)):
        time.sleep(pace)
        if step:
            count += len(tokens)
        else:  # what starting costs does not count
            began, cpu = time.perf_counter(), time.process_time()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        sizes.append(pages * resource.getpagesize() / 1e6)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    batches.close()
    gc.collect()  # workers end with their loader, and count then
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "rate": count / seconds,
        "cpu": cpu + children.ru_utime + children.ru_stime,
        "grown": max(sizes[len(sizes) // 4 :]) - max(sizes[: len(sizes) // 4]),
    }


def main() -> None:
    """Print as JSON which peers there are, or the measurement of one."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
    verb, *words = json.loads(sys.argv[1])
    result: object = [n for n, module in NAMES.items() if importlib.util.find_spec(module)]
    with contextlib.redirect_stdout(sys.stderr):
        if verb == "write":
            write(words[0], Path(words[1]))
        if verb == "read":
            name, url, cache, batch, steps, pace = words
            result = measured(READ[name](url, Path(cache), batch), steps, pace)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
