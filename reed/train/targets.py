"""Alignment targets: their settings, and whether they fit the net."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from reed.cache.codecs import codecs
from reed.cache.schema import Field
from reed.errors import ReedError, at_least, suggest
from reed.flows.time_weight import TimeWeight
from reed.nets import Net, Tap
from reed.train.match import MATCH

CHOICES = {
    "head": ("mlp", "conv"),
    "resize": ("", "area", "bicubic"),
    "loss": ("cosine", "gram"),
}
NORMS = ("none", "spatial")


@dataclass(frozen=True)
class NormalizeConfig:
    """How the tokens of a decoded target are normalised before they are compared.

    Attributes:
        kind: "none", or "spatial" (iREPA, arXiv 2512.10794): each channel over the tokens of a
            sample, (z - gamma mean) / std.
        gamma: Share of the mean that "spatial" subtracts.
    """

    kind: str = "none"
    gamma: float = 1.0


@dataclass(frozen=True)
class AlignConfig:
    """One entry of the recipe's [align] table, under the name of the target.

    Attributes:
        target: "column/field" of the cache.
        tap: Block whose hidden states are aligned, counted from 1.
        hidden: Width of the projector (REPA: three layers of 2048).
        time_weight: Weight of a sample by its time (see reed.flows.time_weight).
        probe: Whether the head is trained on detached hidden states, so that it measures the net
            without changing it.
        head: "mlp", or "conv", which is one convolution of 3 x 3 tokens (iREPA).
        normalize: Normalisation of the target's tokens.
        resize: How a target on another grid is interpolated to the net's: "area" or "bicubic".
        loss: "cosine", or "gram", which compares the cosines between the tokens of a sample.
        token_weight: Whether tokens that are still far from their target weigh more (RARE).
        release: When the alignment ends: a time, or a table (see reed.train.release); "" for never.
    """

    target: str
    tap: int
    hidden: int = 2048
    time_weight: Any = "constant"
    probe: bool = False
    head: str = "mlp"
    normalize: NormalizeConfig = field(default_factory=NormalizeConfig)
    resize: str = ""
    loss: str = "cosine"
    token_weight: bool = False
    release: Any = ""


@dataclass(frozen=True)
class Target:
    """An alignment target that fits the net.

    Attributes:
        config: Its settings.
        field: The cached field.
        weight: Its time weight.
        grid: Tokens per side of the net at the tap; 0 if its tokens are no square grid.
    """

    config: AlignConfig
    field: Field
    weight: TimeWeight
    grid: int = 0

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape of the decoded field."""
        return codecs.codec_of(self.field).decoded_shape(self.field)

    @property
    def channels(self) -> int:
        """Channels of the decoded field, which the head must put out."""
        channels = self.shape[-1]
        assert channels is not None, self.field  # only the first length of a field may vary
        return channels

    @property
    def resized_from(self) -> int:
        """Tokens per side of the field, if it is on another grid than the net; else 0."""
        if not self.config.resize or self.shape[0] == self.grid**2:
            return 0
        return _side(self.shape[0])


def check_target(name: str, config: AlignConfig, field: Field, net: Net) -> Target:
    """Check that a target fits the net.

    Args:
        name: Name of the target.
        config: Its settings.
        field: The cached field.
        net: The net; only its shape is used.

    Raises:
        ReedError: The target does not fit; the message has the values on both sides.
    """
    where = f"align.{name}"
    if not name or name in dir(nn.ModuleDict()):
        raise ReedError(f"{where}: {name!r} cannot name a head; choose another name")
    at_least(1, f"{where}.", hidden=config.hidden)
    if field.kind not in MATCH:
        raise ReedError(
            f"{where}: {config.target} is of kind {field.kind!r}, not one of {list(MATCH)}"
        )

    taps = net.taps()
    if not 1 <= config.tap <= len(taps):
        raise ReedError(f"{where}.tap is {config.tap}, the net has taps 1 to {len(taps)}")

    # What the settings ask of the field, then what they ask of the net.
    _check_choices(where, config)
    _check_kind(where, config, field)
    tap = taps[config.tap - 1]
    target = Target(
        config, field, TimeWeight.of(config.time_weight, f"{where}.time_weight"), _side(tap.tokens)
    )
    _check_tokens(where, target, tap)
    if field.kind == "pair" and not tap.edges:
        with_edges = [str(n) for n, tap in enumerate(taps, 1) if tap.edges]
        raise ReedError(
            f"{where}: {config.target} is of kind 'pair', and the net has no edges at tap "
            f"{config.tap}; it has them at {', '.join(with_edges) or 'none'}"
        )

    return target


def _side(tokens: int | None) -> int:
    """Return the tokens per side of a square grid; 0 if there is no such grid."""
    side = math.isqrt(tokens or 0)
    return side if side * side == tokens else 0


def _check_choices(where: str, config: AlignConfig) -> None:
    """Raise ReedError for a setting with an unknown value, or one that would have no effect."""
    named = [(name, getattr(config, name), known) for name, known in CHOICES.items()]
    named.append(("normalize.kind", config.normalize.kind, NORMS))
    for name, value, known in named:
        if value not in known:
            raise ReedError(
                f"{where}.{name} is {value!r}, which is unknown.{suggest(value, known)}"
            )

    # A setting that changes nothing is a misunderstanding.
    gamma = config.normalize.gamma
    at_least(0, f"{where}.normalize.", gamma=gamma)
    if config.normalize.kind == "none" and gamma != 1:
        raise ReedError(
            f"{where}.normalize.gamma is {gamma:g}, and normalize.kind is 'none', which has no "
            "gamma; set kind = 'spatial', or leave gamma out"
        )
    if config.token_weight and config.loss == "gram":
        raise ReedError(
            f"{where}: token_weight weighs the cosines of tokens, and loss = 'gram' has none; "
            "leave one of them out"
        )


def _check_kind(where: str, config: AlignConfig, field: Field) -> None:
    """Raise ReedError for a setting about tokens of a field that has none."""
    if field.kind == "token":
        return
    used = {
        "head = 'conv'": config.head == "conv",
        "normalize.kind = 'spatial'": config.normalize.kind == "spatial",
        f"resize = {config.resize!r}": config.resize,
        "loss = 'gram'": config.loss == "gram",
        "token_weight = true": config.token_weight,
    }
    for setting in (setting for setting, is_used in used.items() if is_used):
        raise ReedError(
            f"{where}: {setting} is about tokens, and {config.target} is of kind {field.kind!r}; "
            "leave it out, or name a field of kind 'token'"
        )


def _check_tokens(where: str, target: Target, tap: Tap) -> None:
    """Raise ReedError unless the tokens of a target can be compared with those of the net."""
    if target.field.kind != "token":
        return
    config, tokens, stored = target.config, tap.tokens, target.shape[0]
    have = "a number of tokens that varies" if tokens is None else f"{tokens} tokens"
    if config.head == "conv" and not target.grid:
        raise ReedError(
            f"{where}: head = 'conv' needs a square grid of tokens, and the net has {have} at tap "
            f"{config.tap}; use head = 'mlp'"
        )

    # A field or a net with samples of varying length cannot be compared before there is a batch.
    are_grids = bool(target.grid and _side(stored))
    if config.resize and not are_grids:
        held = "a number of tokens that varies" if stored is None else f"{stored} tokens"
        raise ReedError(
            f"{where}: resize = {config.resize!r} interpolates between square grids, but "
            f"{config.target} has {held}, the net {have} at tap {config.tap}; leave resize out"
        )
    if stored in (None, tokens) or config.resize:
        return
    other = f"set {where}.resize to 'area' or 'bicubic', " if are_grids else ""
    raise ReedError(
        f"{where}: {config.target} has {stored} tokens, the net {tokens} at tap {config.tap}; "
        f"{other}encode on the net's grid or change its patch size"
    )
