"""Public checkpoints of REPA, REED, SiT, DiT and SemlaFlow, read for our nets."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from reed import weights as files
from reed.cache.schema import Field
from reed.errors import ReedError, suggest
from reed.nets import semla
from reed.nets.sit import SIZES
from reed.train import checkpoint, export
from reed.train.align import AlignedNet
from reed.train.ema import clean_names

CONVENTIONS = ("auto", "reed", "sit", "dit")
GROUPS = ("ema", "model")
_SIT_OR_DIT = "sit or dit"
_PATHS = {"linear": "linear", "cosine": "cosine", "gvp": "cosine"}  # SiT's GVP is our cosine
_CONVOLUTION, _FINAL = "x_embedder.proj.weight", "final_layer.linear.weight"
_TABLE = "y_embedder.embedding_table.weight"


@dataclass(frozen=True)
class PublicWeights:
    """Weights with the names and shapes of our nets.

    net: of the net alone; projectors: by index, the keys of a head; origin: "repa" (REPA and REED),
    "sit" or "dit" (other conventions), "sit or dit" (they look alike), "reed run"; group: "ema" or
    "model", empty where the file does not say; args: what it says of its training; steps: optimizer
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


def read(path: Path, group: str = "ema", convention: str = "auto") -> PublicWeights:
    """The weights in a .pt, .pth or .safetensors file, or of a run's latest checkpoint.

    group: which of a training checkpoint's two ("ema" falls back to "model"); convention: whose
    file it is, where it cannot tell ("reed" stands for REPA and REED). Nothing in a pickle is run:
    of objects that are not plain values only argparse.Namespace is let in.
    Raises ReedError naming the file for anything else, and for what are no weights.
    """
    for name, known in ((group, GROUPS), (convention, CONVENTIONS)):
        if name not in known:
            raise ReedError(f"{name!r} is not one of {', '.join(known)}.{suggest(name, known)}")
    content = export.run_table(path) if path.is_dir() else _content(path)
    state, group = _state(content, group, path)
    args = content.get("args", {})
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    args = dict(args) if isinstance(args, Mapping) else {}
    state = dict(zip(clean_names(list(state)), state.values(), strict=True))
    state = _joined_blocks(state, args, path)
    net = {name: value for name, value in state.items() if not name.startswith("projectors.")}
    projectors: dict[int, dict[str, Tensor]] = {}
    for name in state.keys() - net.keys():
        match = re.fullmatch(r"projectors\.(\d+)\.(.+)", name)
        if match is None:
            raise ReedError(f"{path} holds {name!r}, which is no part of a projector")
        projectors.setdefault(int(match[1]), {})[match[2]] = state[name]
    fused = _is_fused(net)
    origin = "reed run" if path.is_dir() else _origin(fused, args, convention)
    origin = "semlaflow" if "state_dict" in content else origin
    if fused:
        net |= _velocity_rows(net)
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


def _joined_blocks(
    state: dict[str, Tensor], args: Mapping[str, Any], path: Path
) -> dict[str, Tensor]:
    """Old REPA files: decoder_blocks.<j> is blocks.<j + encoder depth>."""
    if not any(name.startswith("decoder_blocks.") for name in state):
        return state
    first = _whole(args, "encoder_depth", _depth(state))
    joined = {}
    for name, value in state.items():
        if match := re.fullmatch(r"decoder_blocks\.(\d+)\.(.+)", name):
            name = f"blocks.{int(match[1]) + first}.{match[2]}"
            if name in state:
                raise ReedError(f"{path}: decoder_blocks.{match[1]} would be the {name} it has")
        joined[name] = value
    return joined


def _depth(names: Iterable[str]) -> int:
    return len({name.split(".")[1] for name in names if name.startswith("blocks.")})


def _whole(args: Mapping[str, Any], name: str, default: int) -> int:
    """A number that the file may or may not say."""
    value = args.get(name)
    return value if type(value) is int and value > 0 else default


def _is_fused(net: Mapping[str, Tensor]) -> bool:
    """Whether the final layer predicts a variance beside each channel (original SiT, DiT)."""
    if _CONVOLUTION not in net or _FINAL not in net:
        return False  # loading it says what is missing
    return len(net[_FINAL]) == 2 * math.prod(net[_CONVOLUTION].shape[1:])


def _velocity_rows(net: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The final layer without variances; its rows are (row, column, channel), channel fastest."""
    channels = net[_CONVOLUTION].shape[1]
    names = (_FINAL, _FINAL.replace("weight", "bias"))
    parts = {name: net[name].unflatten(0, (-1, 2 * channels)) for name in names if name in net}
    return {name: part[:, :channels].flatten(0, 1) for name, part in parts.items()}


def _origin(fused: bool, args: Mapping[str, Any], convention: str) -> str:
    if convention != "auto":
        return "repa" if convention == "reed" else convention
    if not fused:
        return "repa"
    model = str(args.get("model", "")).lower()
    return next((name for name in ("sit", "dit") if model.startswith(name)), _SIT_OR_DIT)


def start_from(model: AlignedNet, path: Path) -> list[str]:
    """Put a file's weights into a model that is to be trained; returns what to tell the user.

    The projectors are taken if there is one for each head, in this order, of the head's shapes.
    Raises ReedError that lists the net's keys which are missing, unexpected or of another shape.
    """
    weights = read(path)
    adopt = getattr(model.net, "adopt", None)  # of a net that may start from a part of itself
    if adopt and weights.origin != "reed run":
        return adopt(weights.net, str(path))
    checkpoint.load_strict(model.net, weights.net, str(path))
    said = [f"{path}: starting from {weights.kind}"]
    if weights.origin in ("sit", "dit", _SIT_OR_DIT):
        said.append(
            f"{path} was trained in another convention (SiT: data at t = 1; DiT: noise predicted "
            "at 1000 steps); its weights are taken as they are, as an initialisation"
        )
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


def domain_settings(weights: PublicWeights, heads: int = 0) -> dict[str, Any]:
    """The settings of the image domain whose net these weights fit, to sample from.

    heads: of attention; by default what the file says, or follows from qk-norm, or what the
    published size of this width has. Raises ReedError where they cannot be told, and for weights
    that do not predict a velocity.
    """
    path, net, args = weights.path, weights.net, weights.args
    asked = [_CONVOLUTION, _TABLE, "pos_embed", "blocks.0.mlp.fc1.weight"]
    if missing := [name for name in asked if name not in net]:
        raise ReedError(f"{path} is no SiT; missing: {', '.join(missing)}")
    if weights.origin == "dit":
        raise ReedError(f"{path} predicts noise (DiT), not a velocity; train on from it (--init)")
    if weights.origin == _SIT_OR_DIT:
        raise ReedError(f"{path} may be of SiT or DiT, which look alike; say --convention sit")
    kind, prediction = str(args.get("path_type", "linear")), args.get("prediction", "v")
    if kind.lower() not in _PATHS or prediction not in ("v", "velocity"):
        raise ReedError(f"{path} has path {kind} and predicts {prediction}: no velocity of ours")
    hidden, rows = net["pos_embed"].shape[-1], len(net[_TABLE])
    classes = _whole(args, "num_classes", rows - 1)
    if rows - classes not in (0, 1):
        raise ReedError(f"{path} has {rows} label rows for {classes} classes")
    norm = net.get("blocks.0.attn.q_norm.weight")
    known = {width: number for width, _, number in SIZES.values()}
    heads = heads or _whole(args, "num_heads", 0)
    heads = heads or (known.get(hidden, 0) if norm is None else hidden // len(norm))
    if not heads:
        raise ReedError(f"{path} does not say how many heads its width {hidden} has; use --heads")
    net_settings = {
        "patch_size": net[_CONVOLUTION].shape[-1],
        "hidden_size": hidden,
        "depth": _depth(net),
        "num_heads": heads,
        "mlp_ratio": len(net["blocks.0.mlp.fc1.weight"]) / hidden,
        "qk_norm": norm is not None,
    }
    dropout = 0.1 if rows > classes else 0.0  # above 0: there is a null class
    return {
        "classes": classes,
        "label_dropout": dropout,
        "path": _PATHS[kind.lower()],
        "net_settings": net_settings,
    }


def fields(weights: PublicWeights, scale: float, shift: float) -> dict[str, Field]:
    """What the net was trained on, from its shapes: moments that it saw as (z - shift) * scale."""
    channels, patch = weights.net[_CONVOLUTION].shape[1:3]
    side = math.isqrt(weights.net["pos_embed"].shape[1]) * patch
    x = Field("latents", "moments", (2 * channels, side, side), scale=(scale,), shift=(shift,))
    return {"x": x, "label": Field("label", "label", (), "int64")}


class OtherTime(nn.Module):
    """An original SiT as a net of ours: v(x, t) = -v_SiT(x, 1 - t), noise being at its t = 0."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.config = net, net.config

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        velocity, states = self.net(x, 1 - t, y)
        return -velocity, states
