"""Messages between the nodes of a graph, gathered by sum or mean, with torch alone.

These are the parts of torch_geometric and torch_scatter that fair-esm's ESM-IF1 uses, with the same
names and meaning.
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
    """Sum or average the rows of ``src`` that share an index: [E, ...], [E] -> [N, ...].

    Rows are summed in their order, on a GPU too, where the order of ``index_add_`` is arbitrary.
    """
    import torch

    # ESM-IF1 calls it in no other way.
    assert dim == 0 and out is None and reduce in ("sum", "add", "mean"), (dim, out, reduce)

    counts = torch.bincount(index, minlength=dim_size or 0)
    rows = src[torch.argsort(index, stable=True)].flatten(1)  # [E, D]
    result = torch.segment_reduce(rows, "sum", lengths=counts, axis=0, initial=0)  # ty: ignore[missing-attribute]  # torch's stubs lack it
    if reduce == "mean":
        result = result / counts.clamp(min=1)[:, None]
    return result.view(-1, *src.shape[1:])


def message_passing() -> type:
    """Return the class MessagePassing.

    Its ``propagate`` computes ``message`` on every edge and gathers the results at the targets.
    """
    from torch import nn

    # The class is made here, because importing this module must not import torch.
    class MessagePassing(nn.Module):
        """A layer that gathers messages along edges.

        A parameter ``NAME_i`` of ``message`` is NAME at the target of an edge, ``NAME_j`` is NAME
        at its source; all others are passed unchanged.
        """

        message: Callable[..., Any]  # defined by the subclass

        def __init__(self, aggr: str = "add") -> None:
            super().__init__()
            self.aggr = aggr

        def propagate(self, edge_index: Any, size: Any = None, **values: Any) -> Any:
            """Send messages along ``edge_index`` [2, E]: source and target of every edge."""
            source, target = edge_index
            ends = {"_i": target, "_j": source}
            arguments, nodes = {}, 0
            for name in inspect.signature(self.message).parameters:
                if name[-2:] in ends:
                    value = values[name[:-2]]
                    arguments[name], nodes = value.index_select(0, ends[name[-2:]]), len(value)
                else:
                    arguments[name] = values[name]
            return scatter(self.message(**arguments), target, dim_size=nodes, reduce=self.aggr)

    return MessagePassing
