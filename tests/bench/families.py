"""What sweep.py compares: families of variants, as tables that are laid over one of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reed import pipelines

Table = dict[str, Any]

TARGETS = {
    "scenes": "scenes-text/embedding",
    "digits": "caption-ngrams/embedding",
    "fashion": "lite0-z/pooled",
}
LAWS: Table = {
    "constant": "constant",
    "cosine": "cosine",
    "cutoff": {"kind": "cutoff", "low": 0.2, "high": 0.7},
    "start": "start",
}
LAGS = (0.0, 0.3, 1.0)
AVERAGES = (0.99, 0.95, "sigma_rel=0.1")  # the first is that of the recipes


@dataclass(frozen=True)
class Way:
    """A way to draw from a run. ema: as of Sampler.of_run; scale: of guidance by its first part."""

    name: str = ""
    ema: bool | str = True
    scale: float = 1.0


@dataclass(frozen=True)
class Family:
    """Variants of one recipe.

    laid_over: the variant of the recipe that all tables are laid over; base: the one that the
    others are compared with; variants: their tables, by the name of the data; ways: how else the
    runs of the base are drawn from; points: checkpoints of a run.
    """

    laid_over: str
    base: str
    variants: Callable[[str], dict[str, Table]]
    ways: tuple[Way, ...] = ()
    points: int = 1


def guides(data: str) -> dict[str, Table]:
    """Return the guide of every variant, by name; "never" has none."""
    found: dict[str, Table] = {}
    target = {"target": TARGETS[data], "hidden": 128, "depth": 3}
    for law, when in LAWS.items():
        for read in ("prior", "mean"):
            found[f"{read}-{law}"] = target | {"when": when, "read": read}
    for lag in LAGS:
        found[f"joint-lag{lag:g}"] = target | {"when": "start", "read": "joint", "lag": lag}
    return {"never": {}} | {name: {"guide": {"z": guide}} for name, guide in found.items()}


def align(data: str) -> dict[str, Table]:
    """Return what each variant adds to the alignment with the image teacher, by name."""
    teacher = next(iter(pipelines.recipe(data)["align"]))
    spatial = {"kind": "spatial", "gamma": 1.0}
    # RARE's averages are for 400,000 steps; here, the residual falls by 1 % in ten steps or so.
    plateau = {"on": "plateau", "below": 0.04, "ramp": "12.5%", "averages": [0.9, 0.97]}
    fields: Table = {
        "spatial": {"normalize": spatial},
        "irepa": {"normalize": spatial, "head": "conv"},
        "gram": {"loss": "gram"},
        "token-weight": {"token_weight": True},
        "va-repa": {"time_weight": {"kind": "sigmoid", "tau": 0.7, "k": 20}},
        "release": {"release": "62.5%"},
        "plateau": {"release": plateau},
    }
    modern = {"norm": "rms", "mlp": "swiglu", "rope": True, "qk_norm": True}
    return {
        "sit": {"curriculum": {teacher: 0.0}},
        "repa": {"ema": list(AVERAGES)},  # its first average is the one of the others
        **{name: {"align": {teacher: field}} for name, field in fields.items()},
        "muon": {"optim": {"groups": {"blocks": {"match": ["net.blocks.*"], "kind": "muon"}}}},
        "logit-normal": {"domain": {"times": "logit-normal"}},
        "x-prediction": {"domain": {"predict": "x"}},
        "class-tokens": {"domain": {"net_settings": {"class_tokens": 8}}},
        "modern-net": {"domain": {"net_settings": modern}},
    }


def curriculum(data: str) -> dict[str, Table]:
    """Return what each variant takes from the recipe's curriculum, or changes in its alignment.

    "fade-in" is the diffusion loss that grows over the first steps, "fade-out" the weight of the
    image teacher that falls to zero, "text" the alignment with the text teacher.
    """
    image, text = pipelines.recipe(data)["align"]
    sudden, full, mute = {"diffusion": 1.0}, {image: 1.0}, {text: 0.0}
    laws: Table = {
        "sit": sudden | {image: 0.0} | mute,
        "fade-in": {image: 0.0} | mute,
        "repa": sudden | full | mute,
        "repa fade-in": full | mute,
        "repa fade-out": sudden | mute,
        "both, no text": mute,
        "text alone": {image: 0.0},
        "reed": {},
    }
    found: dict[str, Table] = {name: {"curriculum": law} for name, law in laws.items()}
    for tap in (1, 3):
        found[f"both, tap {tap}"] = {"curriculum": mute, "align": {image: {"tap": tap}}}
    return found


FAMILIES = {
    "guides": Family("sit", "never", guides),
    "align": Family(
        "repa",
        "repa",
        align,
        (
            *(Way(f"average {name}", ema=str(name)) for name in AVERAGES[1:]),
            Way("autoguidance 1.5", scale=1.5),
        ),
        points=4,
    ),
    "curriculum": Family("", "sit", curriculum),
}
