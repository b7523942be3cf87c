"""Public checkpoints of SiT, DiT and REPA: their conventions, and what they are to our SiT."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reed.cache.schema import Field
from reed.errors import ReedError
from reed.nets.sit import SIZES

DOMAIN = "image"  # of the runs that such weights could be of
CONVENTIONS = ("auto", "reed", "sit", "dit")
_SIT_OR_DIT = "sit or dit"
_PATHS = {"linear": "linear", "cosine": "cosine", "gvp": "cosine"}  # SiT's GVP is our cosine
_CONVOLUTION, _FINAL = "x_embedder.proj.weight", "final_layer.linear.weight"
_TABLE = "y_embedder.embedding_table.weight"


def joined_blocks(
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


def is_fused(net: Mapping[str, Tensor]) -> bool:
    """Whether the final layer predicts a variance beside each channel (original SiT, DiT)."""
    if _CONVOLUTION not in net or _FINAL not in net:
        return False  # loading it says what is missing
    return len(net[_FINAL]) == 2 * math.prod(net[_CONVOLUTION].shape[1:])


def velocity_rows(net: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The final layer without variances; its rows are (row, column, channel), channel fastest."""
    channels = net[_CONVOLUTION].shape[1]
    names = (_FINAL, _FINAL.replace("weight", "bias"))
    parts = {name: net[name].unflatten(0, (-1, 2 * channels)) for name in names if name in net}
    return {name: part[:, :channels].flatten(0, 1) for name, part in parts.items()}


def origin_of(fused: bool, args: Mapping[str, Any], convention: str) -> str:
    """Tell whose convention a file follows: "repa", "sit", "dit", or one of the last two.

    Args:
        fused: Whether the final layer also predicts a variance.
        args: What the file says of the run that made it.
        convention: The convention that the user names, or "auto".
    """
    if convention != "auto":
        return "repa" if convention == "reed" else convention
    if not fused:
        return "repa"
    model = str(args.get("model", "")).lower()
    return next((name for name in ("sit", "dit") if model.startswith(name)), _SIT_OR_DIT)


def told(path: Path, origin: str) -> list[str]:
    """What to tell the user who trains on from weights of this origin."""
    if origin not in ("sit", "dit", _SIT_OR_DIT):
        return []
    return [
        f"{path} was trained in another convention (SiT: data at t = 1; DiT: noise predicted "
        "at 1000 steps); its weights are taken as they are, as an initialisation"
    ]


def on_our_time(net: nn.Module, origin: str) -> nn.Module:
    """The net as one whose data is at t = 0."""
    return OtherTime(net) if origin == "sit" else net


def domain_settings(
    path: Path, net: Mapping[str, Tensor], args: Mapping[str, Any], origin: str, heads: int = 0
) -> dict[str, Any]:
    """The settings of the image domain whose net these weights fit, to sample from.

    heads: of attention; by default what the file says, or follows from qk-norm, or what the
    published size of this width has. Raises ReedError where they cannot be told, and for weights
    that do not predict a velocity.
    """
    asked = [_CONVOLUTION, _TABLE, "pos_embed", "blocks.0.mlp.fc1.weight"]
    if missing := [name for name in asked if name not in net]:
        raise ReedError(f"{path} is no SiT; missing: {', '.join(missing)}")
    if origin == "dit":
        raise ReedError(f"{path} predicts noise (DiT), not a velocity; train on from it (--init)")
    if origin == _SIT_OR_DIT:
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


def fields(net: Mapping[str, Tensor], scale: float, shift: float) -> dict[str, Field]:
    """What the net was trained on, from its shapes: moments that it saw as (z - shift) * scale."""
    channels, patch = net[_CONVOLUTION].shape[1:3]
    side = math.isqrt(net["pos_embed"].shape[1]) * patch
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
