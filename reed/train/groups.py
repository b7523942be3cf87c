"""Groups of parameters with settings of their own: `[optim.groups.NAME]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from reed.errors import ReedError, at_least, suggest

ADAMW, MUON = KINDS = ("adamw", "muon")


@dataclass(frozen=True)
class GroupConfig:
    """Settings of a group of parameters.

    Attributes:
        match: Patterns of parameter names, such as "net.blocks.*"; of several groups that name a
            parameter, the first has it.
        lr: Factor of the learning rate.
        weight_decay: Weight decay; None for that of the others.
        kind: "adamw"; or "muon", for the matrices of the group, with AdamW for the rest.
    """

    match: tuple[str, ...]
    lr: float = 1.0
    weight_decay: float | None = None
    kind: str = ADAMW

    def check(self, where: str) -> None:
        """Raise ReedError for a value that is out of range; the message begins with `where`."""
        at_least(0, f"{where}.", lr=self.lr, weight_decay=self.weight_decay or 0.0)
        if self.kind not in KINDS:
            known = suggest(self.kind, KINDS)
            raise ReedError(f"{where}.kind is {self.kind!r}, not one of {KINDS}.{known}")
        if not self.match:
            raise ReedError(
                f'{where}.match is empty; give patterns such as "net.blocks.*", or leave the group '
                "out"
            )


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def assign(
    parameters: Mapping[str, Tensor], groups: Mapping[str, GroupConfig]
) -> dict[str, list[str]]:
    """Return the names of the parameters of each group; those in no group are under "".

    Args:
        parameters: The trained parameters by name.
        groups: The groups by name.

    Raises:
        ReedError: A pattern names no parameter, all parameters of a group are in others before it,
            a group of kind "muon" has no matrix, or this version of torch has no Muon.
    """
    found: dict[str, list[str]] = {name: [] for name in ("", *groups)}
    for parameter in parameters:
        fits = (n for n, group in groups.items() if _fits(parameter, group.match))
        found[next(fits, "")].append(parameter)

    for name, group in groups.items():
        where = f"optim.groups.{name}"
        for pattern in group.match:
            if not any(fnmatchcase(parameter, pattern) for parameter in parameters):
                known = suggest(pattern, _parts(parameters))
                raise ReedError(f"{where}: no parameter is called {pattern!r}.{known}")
        if not found[name]:
            raise ReedError(
                f"{where} is empty: groups before it have all that {', '.join(group.match)} names"
            )

        # Muon orthogonalises, which means nothing for a vector.
        if group.kind == MUON and not any(parameters[n].ndim == 2 for n in found[name]):
            first = found[name][0]
            raise ReedError(
                f"{where}: muon is for matrices, and there is none (such as {first} of shape "
                f"{list(parameters[first].shape)}); use kind 'adamw'"
            )
        if group.kind == MUON and getattr(torch.optim, "Muon", None) is None:
            raise ReedError(
                f"{where}: torch {torch.__version__} has no Muon; use torch 2.9 or newer, or kind "
                "'adamw'"
            )
    return found


def _parts(names: Iterable[str]) -> set[str]:
    """Return patterns for the parts of a model, because a list of all names would be too long."""
    split = [name.split(".", 2) for name in names]
    return {".".join([*parts[:2], "*"][: len(parts)]) for parts in split}


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
