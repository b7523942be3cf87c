"""Batches on a GPU: encoded there, beside the encoder, so that only stored bytes are copied."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from reed.cache.codecs.batch import is_tensor, on_host


def stays(values: Any) -> bool:
    """Whether values that an encoder returned are encoded where they are: tensors on a GPU."""
    return is_tensor(values) and values.is_cuda


def placed(values: Any) -> Any:
    """Return what an encoder returned for a field: other tensors become arrays."""
    return values if not is_tensor(values) or stays(values) else on_host(values)


def mark(values: Mapping[str, Any]) -> Any:
    """Return the event after which values on a GPU are there; None if there are none."""
    if not any(map(stays, values.values())):
        return None
    import torch

    event = torch.cuda.Event()
    event.record()
    return event


@lru_cache
def _stream() -> Any:
    """The stream on which batches are encoded to what is stored."""
    import torch

    return torch.cuda.Stream()


@contextlib.contextmanager
def beside(events: Sequence[Any]):
    """Run the block beside the encoder, after some events; without one, as usual."""
    events = [event for event in events if event is not None]
    if not events:
        yield
        return
    import torch

    # The block's memory may be used again by the encoder, so its work is waited for.
    with torch.cuda.stream(_stream()):
        for event in events:
            event.wait()
        yield
        torch.cuda.current_stream().synchronize()


def fetched(parts: Sequence[Any]) -> list[Any]:
    """Return parts on the host; from a GPU through pinned memory, which is reused."""
    if not any(map(stays, parts)):
        return [on_host(part) for part in parts]
    import torch

    pinned = [
        torch.empty(part.shape, dtype=part.dtype, pin_memory=True).copy_(part, non_blocking=True)
        if stays(part)
        else part
        for part in parts
    ]
    torch.cuda.current_stream().synchronize()
    return [np.asarray(part) for part in pinned]
