"""Peers of make bench-loader: LitData, MosaicML Streaming and Megatron Energon.

Each reads the records of our shards from local disk, as stored, in its own format (Energon: from
our tars), shuffled, in batches of torch tensors, as its documentation says, in this process.
MosaicML Streaming is left out where it is not installed: it does not go together with the newest
NumPy (`pip install --no-deps mosaicml-streaming` and what its import asks for).
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # our package comes before torch
    import torch

Batches = Iterator["torch.Tensor"]
_CRUDE = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}


def records(cache: Path) -> Iterator[dict[str, np.ndarray]]:
    """The stored arrays of every record, by part, from the tars."""
    import webdataset as wds

    shards = sorted(str(path) for path in (cache / "both").glob("*.tar"))
    for sample in wds.WebDataset(shards, shardshuffle=False, empty_check=False).decode():
        yield {name[:-4]: value for name, value in sample.items() if name.endswith(".npy")}


def write_litdata(cache: Path, folder: Path) -> None:
    """Chunks of 64 MB, as `litdata.optimize` writes them."""
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_bytes="64MB")
    for i, record in enumerate(records(cache)):
        writer[i] = record
    writer.done()
    writer.merge()


def read_litdata(folder: Path, batch: int) -> Batches:
    """StreamingDataset and StreamingDataLoader."""
    import litdata

    data = litdata.StreamingDataset(str(folder), shuffle=True, drop_last=True)
    loader = litdata.StreamingDataLoader(data, batch_size=batch, num_workers=0)
    while True:
        for found in loader:
            yield found["tokens"]


def write_mosaic(cache: Path, folder: Path) -> None:
    """MDS files with arrays of fixed shape."""
    import streaming

    first = next(records(cache))
    kinds = {
        name: f"ndarray:{v.dtype.name}:{','.join(map(str, v.shape))}" for name, v in first.items()
    }
    with streaming.MDSWriter(out=str(folder), columns=kinds) as writer:
        for record in records(cache):
            writer.write(record)


def read_mosaic(folder: Path, batch: int) -> Batches:
    """StreamingDataset, shuffled, in a torch DataLoader."""
    import streaming
    from torch.utils.data import DataLoader

    data = streaming.StreamingDataset(local=str(folder), shuffle=True, batch_size=batch)
    while True:
        for found in DataLoader(data, batch_size=batch, drop_last=True):
            yield found["tokens"]


def write_energon(cache: Path, folder: Path) -> None:
    """Links to the tars, and the metadata that `energon prepare` writes."""
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

    names = []
    for tar in sorted((cache / "both").glob("*.tar")):
        (folder / tar.name).symlink_to(tar.resolve())
        names.append(tar.name)
    with contextlib.redirect_stdout(io.StringIO()):
        WebdatasetPreparator.prepare_dataset(
            EPath(str(folder)),
            names,
            split_parts_ratio=[("train", 1.0)],
            shuffle_seed=None,
            workers=1,
        )
    (folder / ".nv-meta" / "dataset.yaml").write_text(json.dumps(_CRUDE))


def read_energon(folder: Path, batch: int) -> Batches:
    """A task encoder with a cooker, a shuffle buffer of 1,000 as webdataset's, and its loader."""
    from megatron import energon

    class Task(energon.DefaultTaskEncoder):
        cookers = (energon.Cooker(energon.stateless(_cooked)),)

    data = energon.get_train_dataset(
        str(folder),
        batch_size=batch,
        shuffle_buffer_size=1000,
        max_samples_per_sequence=None,
        task_encoder=Task(),
        worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0),
    )
    for found in energon.get_loader(data):
        yield found["tokens"]


def _cooked(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample of a tar, with the names of our parts."""
    import torch

    arrays = {name[:-4]: torch.as_tensor(v) for name, v in sample.items() if name.endswith(".npy")}
    return {n: v for n, v in sample.items() if n.startswith("__")} | arrays


PEERS: dict[str, tuple[str, Callable[[Path, Path], None], Callable[[Path, int], Batches]]] = {
    "litdata": ("litdata", write_litdata, read_litdata),
    "mosaic": ("streaming", write_mosaic, read_mosaic),
    "energon": ("megatron.energon", write_energon, read_energon),
}


def peers(cache: Path, batch: int) -> dict[str, Batches]:
    """Peer -> its batches of the records of a cache; it writes its format beside it, once."""
    found = {}
    for name, (module, write, read) in PEERS.items():
        with contextlib.suppress(ModuleNotFoundError):
            if find_spec(module):
                folder = cache.with_name(f"{cache.name}-{name}")
                if not (folder / "done").is_file():
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir(parents=True)
                    write(cache, folder)
                    (folder / "done").touch()
                found[name] = read(folder, batch)
    return found
