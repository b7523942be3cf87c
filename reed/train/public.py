"""Public checkpoints of REPA, REED, SiT, DiT and SemlaFlow, read for our nets."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import safe_open
from torch import Tensor, nn

from reed import weights as files
from reed.cache.schema import Field
from reed.errors import ReedError, suggest
from reed.nets import semla, sit_public
from reed.train import checkpoint, export
from reed.train.align import AlignedNet
from reed.train.ema import clean_names

GROUPS = ("ema", "model")


@dataclass(frozen=True)
class PublicWeights:
    """Weights with the names and shapes of our nets.

    net: of the net alone; projectors: by index, the keys of a head; origin: "repa" (REPA and REED),
    or a convention of reed.nets.sit_public, "semlaflow", "reed run"; group: "ema" or "model", empty
    where the file does not say; args: what it says of its training; steps: optimizer
    steps done, if it says.
    """

    path: Path
    net: dict[str, Tensor]
    projectors: dict[int, dict[str, Tensor]]
    origin: str
    group: str
    args: dict[str, Any]
    steps: int | None

    @property
    def kind(self) -> str:
        """Which weights these are, in words."""
        return f"the {self.group} weights ({self.origin})".replace("the  ", "the ")

    @property
    def domain(self) -> str:
        """The domain whose net these weights may fit: SiT's, as no other can be sampled from."""
        return sit_public.DOMAIN

    def settings(self, heads: int = 0) -> dict[str, Any]:
        """The settings of this domain, see reed.nets.sit_public.domain_settings."""
        return sit_public.domain_settings(self.path, self.net, self.args, self.origin, heads)

    def fields(self, scale: float, shift: float) -> dict[str, Field]:
        """What the net was trained on, see reed.nets.sit_public.fields."""
        return sit_public.fields(self.net, scale, shift)

    def on_our_time(self, net: nn.Module) -> nn.Module:
        """The net as one whose data is at t = 0."""
        return sit_public.on_our_time(net, self.origin)


@runtime_checkable
class Adopts(Protocol):
    """A net that may start from weights of a part of itself."""

    def adopt(self, weights: Mapping[str, Tensor], what: str) -> list[str]:
        """Start from them; returns what to tell the user."""
        ...


def read(path: Path, group: str = "ema", convention: str = "auto") -> PublicWeights:
    """The weights in a .pt, .pth or .safetensors file, or of a run's latest checkpoint.

    group: which of a training checkpoint's two ("ema" falls back to "model"); convention: whose
    file it is, where it cannot tell ("reed" stands for REPA and REED). Nothing in a pickle is run:
    of objects that are not plain values only argparse.Namespace is let in.
    Raises ReedError naming the file for anything else, and for what are no weights.
    """
    for name, known in ((group, GROUPS), (convention, sit_public.CONVENTIONS)):
        if name not in known:
            raise ReedError(f"{name!r} is not one of {', '.join(known)}.{suggest(name, known)}")
    content = export.run_table(path) if path.is_dir() else _content(path)
    state, group = _state(content, group, path)
    args = content.get("args", {})
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    args = dict(args) if isinstance(args, Mapping) else {}
    state = dict(zip(clean_names(list(state)), state.values(), strict=True))
    state = sit_public.joined_blocks(state, args, path)
    net = {name: value for name, value in state.items() if not name.startswith("projectors.")}
    projectors: dict[int, dict[str, Tensor]] = {}
    for name in state.keys() - net.keys():
        match = re.fullmatch(r"projectors\.(\d+)\.(.+)", name)
        if match is None:
            raise ReedError(f"{path} holds {name!r}, which is no part of a projector")
        projectors.setdefault(int(match[1]), {})[match[2]] = state[name]
    fused = sit_public.is_fused(net)
    origin = "reed run" if path.is_dir() else sit_public.origin_of(fused, args, convention)
    origin = "semlaflow" if "state_dict" in content else origin
    if fused:
        net |= sit_public.velocity_rows(net)
    steps = content.get("steps")
    projectors = dict(sorted(projectors.items()))
    return PublicWeights(path, net, projectors, origin, group, args, steps)


def _content(path: Path) -> Mapping[str, Any]:
    """What a file holds: tensors by name, or tables of them by group."""
    if path.suffix not in (*export.PICKLES, export.SAFETENSORS):
        raise ReedError(f"{path} is no checkpoint: use a .pt, .pth or .safetensors file, or a run")
    if not path.is_file():
        raise ReedError(f"there is no checkpoint at {path}")
    content = files.read(path, allow=(argparse.Namespace,))
    if path.suffix != export.SAFETENSORS:
        return content
    with safe_open(path, "pt") as file:
        said = file.metadata() or {}
    try:
        return {k: json.loads(v) for k, v in said.items() if k in export.SAID} | content
    except ValueError as error:
        raise ReedError(f"{path} cannot be read: what it says of itself is no JSON") from error


def _state(content: Mapping[str, Any], group: str, path: Path) -> tuple[Mapping[str, Tensor], str]:
    """The tensors of a group (of a bare file: all of them), and its name (then empty)."""
    if "model_state_dict" in content:  # as the protein code names it
        content = {**content, "model": content["model_state_dict"]}
    if isinstance(content.get("state_dict"), Mapping):  # as Lightning writes it
        content = semla.released(content["state_dict"]) or content["state_dict"]
    there = [name for name in GROUPS if isinstance(content.get(name), Mapping)]
    if there:
        if group not in there and group == "model":
            raise ReedError(f"{path} has no model weights, only {', '.join(there)}")
        group = group if group in there else there[0]
        content = content[group]
    else:
        group = ""
        content = {name: value for name, value in content.items() if name not in export.SAID}
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        raise ReedError(f"{path} holds no weights, but {', '.join(map(str, others)) or 'nothing'}")
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}, group


def start_from(model: AlignedNet, path: Path) -> list[str]:
    """Put a file's weights into a model that is to be trained; returns what to tell the user.

    The projectors are taken if there is one for each head, in this order, of the head's shapes.
    Raises ReedError that lists the net's keys which are missing, unexpected or of another shape.
    """
    weights = read(path)
    if isinstance(model.net, Adopts) and weights.origin != "reed run":
        return model.net.adopt(weights.net, str(path))
    checkpoint.load_strict(model.net, weights.net, str(path))
    said = [f"{path}: starting from {weights.kind}"]
    said += sit_public.told(path, weights.origin)
    heads = list(model.heads.values())
    theirs = list(weights.projectors.values())
    if [_shapes(head.state_dict()) for head in heads] == [_shapes(each) for each in theirs]:
        for head, state in zip(heads, theirs, strict=True):
            head.load_state_dict(state)
        said += [f"{path}: projectors go to {', '.join(model.targets)}"] if heads else []
    else:
        said.append(
            f"{path}: its {len(theirs)} projectors do not fit the {len(heads)} heads, which start "
            "fresh"
        )
    return said


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}
