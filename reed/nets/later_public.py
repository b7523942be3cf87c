"""Public checkpoints of LightningDiT and RiT, as weights of our SiT with the same parts.

Both have data at t = 1. The time is turned round in the weights that read it, so that the net is
the same function of our time, in training as well as in sampling. Sources:
github.com/hustvl/LightningDiT (models/lightningdit.py), github.com/lezhang7/RiT (model.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reed.errors import ReedError
from reed.nets.layers import TimestepEmbedder, rotation_2d

LIGHTNING, RIT = LATER = ("lightningdit", "rit")
ROPE = "rope"  # in the settings of a file: whether its net turns queries and keys
_WRAPPER = "net."  # RiT's files hold a denoiser, whose only part is the net
_PLACES = {"in_context_posemb": "class_places"}
_TIME, _OUTPUT = "t_embedder.mlp.0.weight", ("final_layer.linear.weight", "final_layer.linear.bias")
_AVERAGES = "model_ema1"  # the first of RiT's two averages


def grouped(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the content of a file with RiT's first average under the name of the others."""
    return {**content, "ema": content[_AVERAGES]} if _AVERAGES in content else content


def unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of the net in that of RiT's denoiser; any other one as it is."""
    is_wrapped = f"{_WRAPPER}y_embedder.embedding_table.weight" in state
    if not is_wrapped or not all(name.startswith(_WRAPPER) for name in state):
        return state
    return {name.removeprefix(_WRAPPER): value for name, value in state.items()}


def origin_of(state: Mapping[str, Tensor], content: Mapping[str, Any]) -> str:
    """Return "lightningdit", "rit", or "" for another convention.

    Args:
        state: State dict of the net.
        content: The file; LightningDiT's trainer writes its settings into it.
    """
    if "in_context_posemb" in state or "cls_projectors.weight" in state:
        return RIT
    config = content.get("config")
    model = config.get("model") if isinstance(config, Mapping) else None
    kind = model.get("model_type", "") if isinstance(model, Mapping) else ""
    is_lightning = str(kind).startswith("LightningDiT") or _has_rope(state)
    return LIGHTNING if is_lightning else ""


def ours(
    state: Mapping[str, Tensor], origin: str, args: Mapping[str, Any], path: Path
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights under our names and in our time, and the settings that they state.

    Args:
        state: State dict of the net.
        origin: As `origin_of` returned it.
        args: Training settings that the file holds.
        path: The file, for messages.

    Raises:
        ReedError: The net has a part that ours has not.
    """
    _check(state, path)
    net = {_PLACES.get(name, name): value for name, value in state.items()}
    has_rope = origin == RIT or _has_rope(net)
    net = {name: value for name, value in net.items() if not name.startswith("feat_rope.")}
    net |= _padded(net)

    # A file with another layer is refused when it is loaded, with a list of what differs.
    if _TIME in net and net[_TIME].shape[1:] == (TimestepEmbedder.WIDTH,):
        net[_TIME] = turned_round(net[_TIME])
    # The data do not depend on the direction of time, and a velocity has the other sign.
    if origin == LIGHTNING or args.get("pred_type", "x") == "v":
        net |= {name: -net[name] for name in _OUTPUT if name in net}
    return net, {ROPE: has_rope}


def layout_of(shape: Mapping[str, Any], predict: str, path: str) -> str:
    """Return the layout that has a net with such parts, "lightningdit" or "rit"; "" for none.

    Args:
        shape: Settings of the net that are not the default.
        predict: What it predicts, "v" or "x".
        path: Path from data to noise.
    """
    parts = {name: shape.get(name) for name in ("norm", "mlp", "rope", "qk_norm")}
    all_parts = {"norm": "rms", "mlp": "swiglu", "rope": True, "qk_norm": True}
    if path != "linear" or not parts["rope"]:
        return ""
    if shape.get("class_tokens"):
        return RIT if parts == all_parts and predict == "x" else ""
    return LIGHTNING if predict == "v" else ""


def theirs(state: Mapping[str, Tensor], layout: str, heads: int, ratio: float) -> dict[str, Tensor]:
    """Return the weights of one of our nets as the authors' code takes them; undoes `ours`.

    Args:
        state: State dict of the net.
        layout: As `layout_of` returned it.
        heads: Heads of attention.
        ratio: Width of the MLPs, as a multiple of that of the net.

    Raises:
        ReedError: SwiGLU is wider than theirs and uses all of its units.
    """
    names = {ours: theirs for theirs, ours in _PLACES.items()}
    net = {names.get(name, name): value for name, value in state.items()}
    tokens, width = net["pos_embed"].shape[1:]
    net |= _narrowed(net, int(2 / 3 * int(width * ratio)))
    net[_TIME] = turned_round(net[_TIME])
    if layout == LIGHTNING:
        net |= {name: -net[name] for name in _OUTPUT}
        cos, sin = rotation_2d(math.isqrt(tokens), width // heads)
        net |= {"feat_rope.freqs_cos": cos.clone(), "feat_rope.freqs_sin": sin.clone()}
    return net


def file_of(table: Mapping[str, Any], layout: str) -> dict[str, Any]:
    """Return the content of a file as the authors' trainer names it, from model and ema."""
    if layout == LIGHTNING:
        return dict(table)
    model, averages = ("model",), ("model_ema1", "model_ema2")
    states = {name: table["model"] for name in model if "model" in table}
    states |= {name: table["ema"] for name in averages if "ema" in table}
    wrapped = {n: {f"{_WRAPPER}{k}": v for k, v in each.items()} for n, each in states.items()}
    return {k: v for k, v in table.items() if k not in ("model", "ema")} | wrapped


def _has_rope(state: Mapping[str, Tensor]) -> bool:
    """Return whether a net holds the tables by which queries and keys are turned."""
    return any(name.startswith("feat_rope.") for name in state)


def _check(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise ReedError for a part that our net has not."""
    modulation = state.get("blocks.0.adaLN_modulation.1.weight")
    is_matrix = modulation is not None and modulation.ndim == 2
    has_no_shift = is_matrix and len(modulation) == 4 * modulation.shape[1]
    parts = {
        "blocks that scale without a shift (wo_shift)": has_no_shift,
        "a class token that is denoised beside the data (use_cls)": "cls_projectors.weight"
        in state,
        "patches that go through a bottleneck (JiT)": "x_embedder.proj1.weight" in state,
    }
    for part in (part for part, is_there in parts.items() if is_there):
        raise ReedError(
            f"{path} has {part}, which our net has not; use a checkpoint without them, or start "
            "without --init"
        )


def _padded(net: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the SwiGLU layers whose width is no multiple of 8, with units that are always 0.

    Such a unit gives nothing and gets no gradient, so the net stays the same in training, too.
    """
    found = {}
    for name in [name for name in net if name.endswith(".mlp.w3.weight")]:
        place, width = name.removesuffix("w3.weight"), (net[name].shape or (0,))[-1]
        more = -width % 8
        halves = [net.get(f"{place}w12.{kind}") for kind in ("weight", "bias")]
        # What is not whole is left as it is, and refused when it is loaded.
        is_whole = all(x is not None and x.shape[:1] == (2 * width,) for x in halves)
        if not more or not is_whole or net[name].ndim != 2:
            continue

        found[name] = torch.nn.functional.pad(net[name], (0, more))
        for kind in ("weight", "bias"):
            halves = net[f"{place}w12.{kind}"].unflatten(0, (2, width))
            wide = halves.new_zeros(2, width + more, *halves.shape[2:])
            wide[:, :width] = halves
            found[f"{place}w12.{kind}"] = wide.flatten(0, 1)
    return found


def _narrowed(net: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """Return the SwiGLU layers with the units that theirs has; the others must give nothing."""
    found = {}
    for name in [name for name in net if name.endswith(".mlp.w3.weight")]:
        place, ours = name.removesuffix("w3.weight"), net[name].shape[1]
        if net[name][:, width:].any():
            raise ReedError(
                f"{name}: SwiGLU has {ours} units, and {width} in the public layout; train with a "
                "hidden_size and an mlp_ratio for which two thirds of the width are a multiple of 8"
            )
        found[name] = net[name][:, :width].clone()
        for kind in ("weight", "bias"):
            halves = net[f"{place}w12.{kind}"].unflatten(0, (2, ours))
            found[f"{place}w12.{kind}"] = halves[:, :width].flatten(0, 1)
    return found


def turned_round(weight: Tensor) -> Tensor:
    """Return the first layer of a time embedding as a function of 1 - t, [D, 256] -> [D, 256].

    cos((1 - t) f) and sin((1 - t) f) are combinations of cos(t f) and sin(t f), so the layer that
    reads them can read those. Done twice, it is the layer itself. Of a 16-bit layer, the result is
    of 32 bits, because rounding here would change the embedding at every time.
    """
    assert weight.shape[1] == TimestepEmbedder.WIDTH, weight.shape
    # In float64, because rounding here would be seen at every step.
    half = TimestepEmbedder.WIDTH // 2
    index = torch.arange(half, dtype=torch.float64, device=weight.device)
    frequencies = torch.exp(-math.log(10_000.0) * index / half)
    cos, sin = frequencies.cos(), frequencies.sin()
    of_cos, of_sin = weight.double().chunk(2, dim=1)
    both = [of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos]
    return torch.cat(both, 1).to(torch.promote_types(weight.dtype, torch.float32))


def told(path: Path, origin: str) -> list[str]:
    """Return the lines to show to a user who continues training from weights of this origin."""
    lines = {
        LIGHTNING: "a LightningDiT; its time and its velocity are turned round to ours",
        RIT: "a RiT, whose time is turned round to ours; it predicts the data (domain.predict = "
        "'x'), and its class tokens come in after 8 blocks (class_tokens_after)",
    }
    return [f"{path} is {lines[origin]}"] if origin in lines else []


def check_rope(path: Path, args: Mapping[str, Any], rope: bool) -> None:
    """Raise ReedError if the file's net turns queries and keys and ours not, or the reverse.

    Args:
        path: The file, for messages.
        args: Settings that the file states.
        rope: The setting of our net.
    """
    if args.get(ROPE, rope) != rope:
        theirs = "turns" if args[ROPE] else "does not turn"
        raise ReedError(
            f"{path}: its net {theirs} queries and keys (RoPE), and net_settings.rope is "
            f"{str(rope).lower()}; set it to {str(args[ROPE]).lower()}"
        )
