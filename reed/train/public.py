"""Reading public checkpoints, such as those of REPA, SiT and LightningDiT, into our nets."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import safe_open
from torch import Tensor, nn

from reed import config
from reed import weights as files
from reed.cache.schema import Field
from reed.errors import ReedError, suggest
from reed.guides.guide import guides_of
from reed.nets import later_public, mpnn_public, semla, sit_public
from reed.nets.sit import SiT
from reed.state_dict import of_slot, slot
from reed.train import checkpoint, export
from reed.train.align import AlignedNet
from reed.train.ema import clean_names

GROUPS = ("ema", "model")
STATED = ("num_edges", "noise_level")  # settings that ProteinMPNN's files hold beside the weights


@dataclass(frozen=True)
class PublicWeights:
    """Weights with the names and shapes of our nets.

    Attributes:
        path: The file or the run that the weights are from.
        net: State dict of the net alone.
        projectors: Index -> state dict of a projector.
        origin: "repa" (REPA and REED), another convention of reed.nets.sit_public or of
            reed.nets.later_public, "semlaflow" or "reed run".
        group: "ema" or "model"; empty if the file holds one state dict without a name.
        args: Training settings that the file holds.
        steps: Optimizer steps done; None if the file does not state them.
        guides: State dict of the guides' modules, which a run may have.
    """

    path: Path
    net: dict[str, Tensor]
    projectors: dict[int, dict[str, Tensor]]
    origin: str
    group: str
    args: dict[str, Any]
    steps: int | None
    guides: dict[str, Tensor] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The group and the origin of the weights, for messages."""
        return f"the {self.group} weights ({self.origin})".replace("the  ", "the ")

    @property
    def domain(self) -> str:
        """The domain to sample in: that of SiT, because only its public weights can be sampled."""
        return sit_public.DOMAIN

    def settings(self, heads: int = 0) -> dict[str, Any]:
        """Return the settings of the domain (see reed.nets.sit_public.domain_settings)."""
        if self.origin in later_public.LATER:
            raise ReedError(
                f"{self.path} is a net of {self.origin}, whose data are standardised by files of "
                "its own; continue training from it (--init), and draw samples from that run"
            )
        return sit_public.domain_settings(self.path, self.net, self.args, self.origin, heads)

    def fields(self, scale: float, shift: float) -> dict[str, Field]:
        """Return the fields that the net was trained on (see reed.nets.sit_public.fields).

        An exported file states them; of latents, ``scale`` and ``shift`` are then ignored, too.
        """
        if (stated := self.args.get("fields")) and isinstance(stated, dict):
            return {role: config.build(Field, field, role) for role, field in stated.items()}
        return sit_public.fields(self.net, scale, shift)

    def on_our_time(self, net: nn.Module) -> nn.Module:
        """Return the net as one that has data at t = 0 and noise at t = 1."""
        return sit_public.on_our_time(net, self.origin)


@runtime_checkable
class Adopts(Protocol):
    """A net that can start from weights of some of its parameters."""

    def adopt(
        self, weights: Mapping[str, Tensor], what: str, args: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Load the weights, and return the lines to show to the user; args are their settings."""
        ...


def read(path: Path, group: str = "ema", convention: str = "auto") -> PublicWeights:
    """Read the weights of a .pt, .pth or .safetensors file, or of a run's latest checkpoint.

    No code in a pickle is run: besides plain values, only argparse.Namespace is accepted.

    Args:
        path: The file, or the folder of a run.
        group: State dict to take from a training checkpoint, "ema" or "model"; "ema" falls back to
            "model".
        convention: Convention of the file, if it cannot be detected; "reed" stands for REPA and
            REED.

    Raises:
        ReedError: The file cannot be read, or it holds no weights.
    """
    for name, known in ((group, GROUPS), (convention, sit_public.CONVENTIONS)):
        if name not in known:
            raise ReedError(f"{name!r} is not one of {', '.join(known)}.{suggest(name, known)}")

    content = export.run_table(path, guides=True) if path.is_dir() else _content(path)
    state, group = _state(content, group, path)
    args = content.get("args", {})
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    args = dict(args) if isinstance(args, Mapping) else {}
    args |= {name: content[name] for name in STATED if name in content}
    args = mpnn_public.stated(state) | args

    # The projectors of REPA and REED lie beside the net's keys, and so do the guides of a run.
    state = dict(zip(clean_names(list(state)), state.values(), strict=True))
    state = sit_public.joined_blocks(later_public.unwrapped(state), args, path)
    later = later_public.origin_of(state, content)
    if later:
        state, stated = later_public.ours(state, later, args, path)
        args |= stated
    guides = export.under("guides.", state)
    state = export.without_guides(state)
    net = {name: value for name, value in state.items() if not name.startswith("projectors.")}
    projectors: dict[int, dict[str, Tensor]] = {}
    for name in state.keys() - net.keys():
        match = re.fullmatch(r"projectors\.(\d+)\.(.+)", name)
        if match is None:
            raise ReedError(f"{path} holds {name!r}, which is not part of a projector")
        projectors.setdefault(int(match[1]), {})[match[2]] = state[name]

    fused = sit_public.is_fused(net)
    origin = "reed run" if path.is_dir() else sit_public.origin_of(fused, args, convention)
    origin = later or ("semlaflow" if "state_dict" in content else origin)
    if fused:
        net |= sit_public.velocity_rows(net)
    steps = content.get("steps")
    projectors = dict(sorted(projectors.items()))
    return PublicWeights(path, net, projectors, origin, group, args, steps, guides)


def _content(path: Path) -> Mapping[str, Any]:
    """Return the content of a file: tensors by name, or state dicts by group."""
    if path.suffix not in (*export.PICKLES, export.SAFETENSORS):
        raise ReedError(
            f"{path} is not a checkpoint: use a .pt, .pth or .safetensors file, or a run"
        )
    if not path.is_file():
        raise ReedError(f"there is no checkpoint at {path}")

    # The arguments of the public trainers are a Namespace; nothing else of theirs is unpickled.
    content = files.read(path, allow=(argparse.Namespace,))
    if path.suffix != export.SAFETENSORS:
        return content
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    try:
        return {k: json.loads(v) for k, v in metadata.items() if k in export.SAID} | content
    except ValueError as error:
        raise ReedError(
            f"{path} cannot be read: its metadata is not JSON; export or download it again"
        ) from error


def _state(content: Mapping[str, Any], group: str, path: Path) -> tuple[Mapping[str, Tensor], str]:
    """Return the tensors of a group and its name; of a file without groups, all tensors and ""."""
    if "model_state_dict" in content:  # as the protein code names it
        content = {**content, "model": content["model_state_dict"]}
    content = later_public.grouped(content)
    if isinstance(content.get("state_dict"), Mapping):  # as Lightning writes it
        content = semla.released(content["state_dict"]) or content["state_dict"]

    groups = [name for name in GROUPS if isinstance(content.get(name), Mapping)]
    if groups:
        if group not in groups and group == "model":
            raise ReedError(f"{path} has no model weights, only {', '.join(groups)}")
        group = group if group in groups else groups[0]
        content = content[group]
    else:
        group = ""
        content = {name: value for name, value in content.items() if name not in export.SAID}

    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        raise ReedError(f"{path} holds no weights, but {', '.join(map(str, others)) or 'nothing'}")
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}, group


def start_from(model: AlignedNet, path: Path) -> list[str]:
    """Load a file's weights into a model before training, and return the lines to show to the user.

    The projectors are loaded if their number, order and shapes are those of the model's heads, and
    a guide if the weights hold one of its name with its shapes.

    Raises:
        ReedError: Keys of the net are missing, unexpected or of another shape; the message lists
            them.
    """
    weights = read(path)
    if isinstance(model.net, Adopts) and weights.origin != "reed run":
        lines = model.net.adopt(weights.net, str(path), weights.args)
        return lines + _load_guides(model.net, weights)
    said = _load_guides(model.net, weights)
    if isinstance(model.net, SiT):
        later_public.check_rope(path, weights.args, model.net.config.rope)
    guides = {k: v for k, v in model.net.state_dict().items() if k.startswith("guides.")}
    checkpoint.load_strict(model.net, weights.net | guides, str(path))
    lines = [f"{path}: starting from {weights.kind}"]
    lines += sit_public.told(path, weights.origin) + later_public.told(path, weights.origin)

    # Projectors have no names in the file, so shapes are all that can show whether they fit.
    heads = list(model.heads.values())
    projectors = list(weights.projectors.values())
    if [_shapes(head.state_dict()) for head in heads] == [_shapes(state) for state in projectors]:
        for head, state in zip(heads, projectors, strict=True):
            head.load_state_dict(state)
        lines += [f"{path}: projectors go to {', '.join(model.targets)}"] if heads else []
    else:
        lines.append(
            f"{path}: its {len(projectors)} projectors do not fit the {len(heads)} heads, which "
            "start fresh"
        )
    return lines + said


def _load_guides(net: nn.Module, weights: PublicWeights) -> list[str]:
    """Load the guides that fit, and return one line about all of them."""
    guides, found = guides_of(net), {True: [], False: []}
    for guide in [] if guides is None else guides.all():
        state = export.under(f"{slot(guide.spec.name)}.", weights.guides)
        fits = _shapes(guide.state_dict()) == _shapes(state)
        if fits:
            guide.load_state_dict(state)
        found[fits].append(guide.spec.name)

    stored = sorted({of_slot(key.partition(".")[0]) for key in weights.guides})
    others = [name for name in stored if name not in (*found[True], *found[False])]
    parts = [f"takes over the guides {', '.join(found[True])}"] if found[True] else []
    parts += [f"starts the guides {', '.join(found[False])} fresh"] if found[False] else []
    parts += [f"leaves out the guides {', '.join(others)}"] if others else []
    return [f"{weights.path}: {'; '.join(parts)}"] if parts else []


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}
