"""The [guide] table of a recipe, and its check against the cache and the net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reed.cache.codecs import codecs
from reed.cache.schema import Field
from reed.errors import ReedError, at_least, suggest
from reed.guides.when import When
from reed.nets import ENTERS, Net

READS = ("prior", "mean", "joint", "bank")
NORMS = ("none", "sample")
LOSSES = ("mse", "cosine")
_ONLY = {  # settings, and the ways of reading that use them
    "truth": ("mean",),
    "loss": ("mean",),
    "lag": ("joint",),
    "noise": ("prior", "bank"),
}


@dataclass(frozen=True)
class GuideConfig:
    """One entry of the recipe's [guide] table: when a representation z enters, and how.

    Attributes:
        target: "column/field" of the cache that holds z: a vector per sample, or tokens.
        when: Law of the time at which z is drawn: start, never, or a time weight.
        read: Where z comes from in sampling. prior: a small flow, given the hidden state at that
            time; mean: predicted anew at every step from the step before; joint: denoised beside
            x; bank: a row of the cached column.
        enter: How z enters the net. vector: added to the condition; token: a token before the
            others; tokens: added to the tokens, one by one.
        drop: Probability that a sample is trained without z, for guidance on z.
        tap: Block whose hidden states the prior or the mean is read from; 0 for the last.
        norm: none, or sample: z is normalised over its channels (RCG, DINO Forcing).
        noise: Standard deviation of noise on z in training (GeoRCG).
        truth: For mean: share of the samples that see the true z in training.
        loss: For mean: mse, whose minimum is the conditional mean, or cosine.
        lag: For joint: how far z runs ahead of x, in time; with 1, z is drawn first.
        hidden: Width of the prior or of the head of mean.
        depth: For prior: residual blocks.
    """

    target: str
    when: Any = "start"
    read: str = "prior"
    enter: str = "vector"
    drop: float = 0.1
    tap: int = 0
    norm: str = "none"
    noise: float = 0.0
    truth: float = 0.05
    loss: str = "mse"
    lag: float = 0.0
    hidden: int = 1024
    depth: int = 6

    @property
    def is_flow(self) -> bool:
        """Whether z itself is noised in training."""
        return self.read in ("prior", "joint")


@dataclass(frozen=True)
class GuideSpec:
    """A guide that fits the cache and the net.

    Attributes:
        name: Its name in the recipe.
        config: Its settings; `tap` is the number of a block.
        field: The cached field of z.
        when: The law of t*.
    """

    name: str
    config: GuideConfig
    field: Field
    when: When

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoded z of a sample: [C], or [T, C] for tokens."""
        shape = codecs.codec_of(self.field).decoded_shape(self.field)
        return tuple(size for size in shape if size is not None)


def check_guide(name: str, config: GuideConfig, field: Field, net: Net) -> GuideSpec:
    """Check that a guide fits the net.

    Args:
        name: Its name in the recipe.
        config: Its settings.
        field: The cached field of z.
        net: The net; only its shape is used.

    Raises:
        ReedError: The guide does not fit; the message has the values on both sides.
    """
    where = f"guide.{name}"
    _check_numbers(where, config)
    when = When.of(config.when, f"{where}.when")
    if config.enter not in net.enters:
        raise ReedError(
            f"{where}.enter is {config.enter!r}, and a {type(net).__name__} takes "
            f"{' or '.join(net.enters) or 'no guide'}"
        )

    # Tokens enter one by one, a vector as a whole.
    kind, taps = "token" if config.enter == "tokens" else "sample", net.taps()
    if field.kind != kind:
        other = {"sample": "vector", "token": "tokens"}.get(field.kind)
        fits = other in net.enters and (config.read, other) != ("prior", "tokens")
        hint = f", or enter = {other!r}" if fits else ""
        raise ReedError(
            f"{where}: {config.target} is of kind {field.kind!r}, and enter = {config.enter!r} "
            f"takes {kind!r}; choose another field{hint}"
        )
    shape = codecs.codec_of(field).decoded_shape(field)
    if kind == "token" and shape[0] != taps[0].tokens:
        raise ReedError(
            f"{where}: {config.target} has {shape[0]} tokens, the net {taps[0].tokens}; encode on "
            "the net's grid, or change its patch size"
        )
    if config.read == "prior" and kind == "token":
        raise ReedError(
            f"{where}: a prior draws one vector per sample, and {config.target} is tokens; use "
            "read = 'mean', 'joint' or 'bank', or a field of kind 'sample'"
        )
    if config.read == "joint":
        _check_beside(where, config, net)
    if config.read == "joint" and not (when.is_start or when.is_never):
        raise ReedError(
            f"{where}.when is {config.when!r}: read = 'joint' denoises z from the start on, so "
            "when must be 'start'; lag says how far z runs ahead of x"
        )
    if config.tap and not 1 <= config.tap <= len(taps):
        raise ReedError(f"{where}.tap is {config.tap}, the net has taps 1 to {len(taps)}")
    return GuideSpec(name, replace(config, tap=config.tap or len(taps)), field, when)


def _check_beside(where: str, config: GuideConfig, net: Net) -> None:
    """Check that the net's sampler can move z beside x."""
    if net.beside == "no":
        raise ReedError(
            f"{where}.read is 'joint', and the sampler of a {type(net).__name__} moves x alone; "
            "use prior, mean or bank"
        )
    if config.lag and net.beside != "ahead":
        raise ReedError(
            f"{where}.lag is {config.lag}, and the sampler of a {type(net).__name__} moves z and x "
            "on one time; set lag to 0"
        )


def check_names(guides: Mapping[str, GuideConfig], taken: Mapping[str, Any]) -> None:
    """Check that no guide has the name of a loss, a role or an alignment target."""
    for name in guides:
        if name in taken:
            raise ReedError(
                f"guide.{name}: the name is taken by {taken[name]}; choose another, such as "
                f"guide.{name}-z"
            )


def _check_numbers(where: str, config: GuideConfig) -> None:
    """Check the settings that depend neither on the cache nor on the net."""
    choices = {"read": READS, "enter": ENTERS, "norm": NORMS, "loss": LOSSES}
    for name, known in choices.items():
        value = getattr(config, name)
        if value not in known:
            raise ReedError(f"{where}.{name} is {value!r}.{suggest(value, known)}")
    for name in ("drop", "truth"):
        if not 0 <= getattr(config, name) < 1:
            raise ReedError(f"{where}.{name} is {getattr(config, name)}, it must be in [0, 1)")

    if not 0 <= config.lag <= 1:
        raise ReedError(f"{where}.lag is {config.lag}, it must be in [0, 1]")
    at_least(0, f"{where}.", noise=config.noise, tap=config.tap)
    at_least(1, f"{where}.", hidden=config.hidden, depth=config.depth)

    # A setting that its way of reading does not use would be ignored, so it is refused. Sizes and
    # the tap are not, so that one recipe can be read in several ways.
    for name, reads in _ONLY.items():
        value, default = getattr(config, name), getattr(GuideConfig, name)
        if value != default and config.read not in reads:
            raise ReedError(
                f"{where}.{name} is {value!r}, and read = {config.read!r} makes no use of it; "
                f"leave it out, or use read = {' or '.join(map(repr, reads))}"
            )
