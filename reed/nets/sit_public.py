"""Conventions of the public checkpoints of SiT, DiT and REPA, and their conversion to our SiT."""

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

DOMAIN = "image"  # the domain that samples from such weights
CONVENTIONS = ("auto", "reed", "sit", "dit")
_SIT_OR_DIT = "sit or dit"
_PATHS = {"linear": "linear", "cosine": "cosine", "gvp": "cosine"}  # SiT's GVP is our cosine
_CONVOLUTION, _FINAL = "x_embedder.proj.weight", "final_layer.linear.weight"
_TABLE = "y_embedder.embedding_table.weight"


def joined_blocks(
    state: dict[str, Tensor], args: Mapping[str, Any], path: Path
) -> dict[str, Tensor]:
    """Rename decoder_blocks.<j> of old REPA files to blocks.<j + encoder depth>.

    Args:
        state: State dict of the file.
        args: Training settings that the file holds.
        path: The file, for messages.
    """
    if not any(name.startswith("decoder_blocks.") for name in state):
        return state
    first = _whole(args, "encoder_depth", _depth(state))
    joined = {}
    for name, value in state.items():
        if match := re.fullmatch(r"decoder_blocks\.(\d+)\.(.+)", name):
            name = f"blocks.{int(match[1]) + first}.{match[2]}"
            if name in state:
                raise ReedError(
                    f"{path}: decoder_blocks.{match[1]} would become {name}, which is there too"
                )
        joined[name] = value
    return joined


def _depth(names: Iterable[str]) -> int:
    """Count the blocks in a state dict."""
    return len({name.split(".")[1] for name in names if name.startswith("blocks.")})


def _whole(args: Mapping[str, Any], name: str, default: int) -> int:
    """Return a positive whole number from a file's settings, or the default if it has none."""
    value = args.get(name)
    return value if type(value) is int and value > 0 else default


def is_fused(net: Mapping[str, Tensor]) -> bool:
    """Return whether the final layer also predicts a variance per channel (original SiT, DiT)."""
    if _CONVOLUTION not in net or _FINAL not in net:
        return False  # loading the weights fails and lists what is missing
    return len(net[_FINAL]) == 2 * math.prod(net[_CONVOLUTION].shape[1:])


def velocity_rows(net: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the final layer's tensors without variances; rows are (row, column, channel)."""
    channels = net[_CONVOLUTION].shape[1]
    names = (_FINAL, _FINAL.replace("weight", "bias"))
    parts = {name: net[name].unflatten(0, (-1, 2 * channels)) for name in names if name in net}
    return {name: part[:, :channels].flatten(0, 1) for name, part in parts.items()}


def origin_of(fused: bool, args: Mapping[str, Any], convention: str) -> str:
    """Detect the convention of a file: "repa", "sit", "dit" or "sit or dit".

    Args:
        fused: Whether the final layer also predicts a variance.
        args: Training settings that the file holds.
        convention: The convention that the user gave, or "auto".
    """
    if convention != "auto":
        return "repa" if convention == "reed" else convention
    if not fused:
        return "repa"
    model = str(args.get("model", "")).lower()
    return next((name for name in ("sit", "dit") if model.startswith(name)), _SIT_OR_DIT)


def told(path: Path, origin: str) -> list[str]:
    """Return the lines to show to a user who continues training from weights of this origin."""
    if origin not in ("sit", "dit", _SIT_OR_DIT):
        return []
    return [
        f"{path} was trained in another convention (SiT: data at t = 1; DiT: noise predicted "
        "at 1000 steps); its weights are taken as they are, as an initialisation"
    ]


def on_our_time(net: nn.Module, origin: str) -> nn.Module:
    """Return the net as one that has data at t = 0 and noise at t = 1."""
    return OtherTime(net) if origin == "sit" else net


def domain_settings(
    path: Path, net: Mapping[str, Tensor], args: Mapping[str, Any], origin: str, heads: int = 0
) -> dict[str, Any]:
    """Return the settings of the image domain whose net these weights fit, to sample from it.

    Args:
        path: The file, for messages.
        net: State dict of the net.
        args: Training settings that the file holds.
        origin: Convention of the file, as `origin_of` returned it.
        heads: Heads of attention. With 0 they are found in `args`, from the width of qk-norm, or
            as those of the published size with this width.

    Raises:
        ReedError: The weights are not a SiT or do not predict a velocity, or the number of heads
            cannot be found.
    """
    required = [_CONVOLUTION, _TABLE, "pos_embed", "blocks.0.mlp.fc1.weight"]
    if missing := [name for name in required if name not in net]:
        raise ReedError(f"{path} is not a SiT; missing: {', '.join(missing)}")
    if origin == "dit":
        raise ReedError(
            f"{path} predicts noise (DiT), not a velocity; continue training from it (--init)"
        )
    if origin == _SIT_OR_DIT:
        raise ReedError(f"{path} may be a SiT or a DiT; if it is a SiT, give --convention sit")
    kind, prediction = str(args.get("path_type", "linear")), args.get("prediction", "v")
    ours = _own_settings(args)
    if kind.lower() not in _PATHS or prediction not in ("v", "velocity", ours.get("predict")):
        raise ReedError(f"{path} has path {kind} and predicts {prediction}: no velocity of ours")

    hidden, rows = net["pos_embed"].shape[-1], len(net[_TABLE])
    classes = _whole(args, "num_classes", rows - 1)
    if rows - classes not in (0, 1):
        raise ReedError(f"{path} has {rows} label rows for {classes} classes")

    # Weights do not show the number of heads, unless qk-norm does by its width.
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
    dropout = 0.1 if rows > classes else 0.0  # above 0: the net has a null class
    return {
        "classes": classes,
        "label_dropout": dropout,
        "path": _PATHS[kind.lower()],
        "net_settings": net_settings,
        **ours,
    }


def _own_settings(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the domain that our own exports state, and no public file does."""
    names = {"prediction": "predict", "floor": "floor", "times": "times"}
    return {ours: args[name] for name, ours in names.items()} if names.keys() <= {*args} else {}


def fields(net: Mapping[str, Tensor], scale: float, shift: float) -> dict[str, Field]:
    """Return the fields that the net was trained on: moments, seen as (z - shift) * scale."""
    channels, patch = net[_CONVOLUTION].shape[1:3]
    side = math.isqrt(net["pos_embed"].shape[1]) * patch
    x = Field("latents", "moments", (2 * channels, side, side), scale=(scale,), shift=(shift,))
    return {"x": x, "label": Field("label", "label", (), "int64")}


class OtherTime(nn.Module):
    """An original SiT, which has noise at t = 0, as a net of ours: v(x, t) = -v_SiT(x, 1 - t)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.config = net, net.config

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        velocity, states = self.net(x, 1 - t, y)
        return -velocity, states
