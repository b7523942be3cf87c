"""Batches on a GPU: encoded there, beside the encoder, so that only stored bytes are copied."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from reed.cache.codecs.batch import is_tensor, on_host

AHEAD = 2  # batches of an encoder that a GPU may have before it
_marked: deque[Any] = deque()


def stays(values: Any) -> bool:
    """Whether values that an encoder returned are encoded where they are: tensors on a GPU."""
    return is_tensor(values) and values.is_cuda


def placed(values: Any) -> Any:
    """Return what an encoder returned for a field: other tensors become arrays."""
    return values if not is_tensor(values) or stays(values) else on_host(values)


def mark(values: Mapping[str, Any]) -> Any:
    """Return the event after which values on a GPU are there; None if there are none."""
    places = [each.device for each in values.values() if stays(each)]
    if not places:
        return None
    import torch

    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(places[0]))

    # One batch may be encoded while the last is stored: the others are waited for here, so that the
    # time of the encoder counts as such, and not as that of the writer.
    _marked.append(event)
    if len(_marked) > AHEAD:
        _marked.popleft().synchronize()
    return event


@lru_cache
def _stream(place: Any) -> Any:
    """The stream of a device on which batches are encoded to what is stored."""
    import torch

    return torch.cuda.Stream(place)


@contextlib.contextmanager
def beside(events: Sequence[Any]):
    """Run the block beside the encoder, after some events; without one, as usual."""
    events = [event for event in events if event is not None]
    if not events:
        yield
        return
    import torch

    # The block's memory may be used again by the encoder, so its work is waited for.
    stream = _stream(events[0].device)
    with torch.cuda.stream(stream):
        for event in events:
            event.wait(stream)
        yield
        stream.synchronize()


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
    torch.cuda.current_stream(next(filter(stays, parts)).device).synchronize()
    return [np.asarray(part) for part in pinned]
