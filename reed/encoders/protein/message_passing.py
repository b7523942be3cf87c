"""Messages between the nodes of a graph, gathered by sum or mean, in torch alone.

What fair-esm's ESM-IF1 uses of torch_geometric and torch_scatter, with their names and meaning.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def scatter(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int = 0,
    out: None = None,
    dim_size: int | None = None,
    reduce: str = "sum",
) -> torch.Tensor:
    """Rows of `src` that share an index, summed or averaged: [E, ...], [E] -> [N, ...].

    Summed in the order of the rows, on a GPU too, where ``index_add_`` would take any.
    """
    import torch

    assert dim == 0 and out is None and reduce in ("sum", "add", "mean"), (dim, out, reduce)
    counts = torch.bincount(index, minlength=dim_size or 0)
    rows = src[torch.argsort(index, stable=True)].flatten(1)  # [E, D]
    found = torch.segment_reduce(rows, "sum", lengths=counts, axis=0, initial=0)  # ty: ignore[missing-attribute]  # torch's stubs lack it
    if reduce == "mean":
        found = found / counts.clamp(min=1)[:, None]
    return found.view(-1, *src.shape[1:])


def message_passing() -> type:
    """The class MessagePassing: `propagate` sends `message` along the edges, to gather there."""
    from torch import nn

    class MessagePassing(nn.Module):
        """aggr: "add" or "mean". A parameter NAME_i of `message` is NAME at an edge's target,
        NAME_j at its source, any other is passed as it is.
        """

        message: Callable[..., Any]  # of the subclass

        def __init__(self, aggr: str = "add") -> None:
            super().__init__()
            self.aggr = aggr

        def propagate(self, edge_index: Any, size: Any = None, **values: Any) -> Any:
            """edge_index: [2, E], source and target of every edge."""
            source, target = edge_index
            ends = {"_i": target, "_j": source}
            given, nodes = {}, 0
            for name in inspect.signature(self.message).parameters:
                if name[-2:] in ends:
                    value = values[name[:-2]]
                    given[name], nodes = value.index_select(0, ends[name[-2:]]), len(value)
                else:
                    given[name] = values[name]
            return scatter(self.message(**given), target, dim_size=nodes, reduce=self.aggr)

    return MessagePassing
