"""What sweep.py compares: families of variants, as tables that are laid over one of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
class Cache:
    """A cache that some variants train on. name: its ending; archive: in data/NAME; or weights."""

    name: str
    archive: str = ""
    random: bool = False


@dataclass(frozen=True)
class Family:
    """Variants of one recipe.

    laid_over: the variant of the recipe that all tables are laid over; base: the one that the
    others are compared with; variants: their tables, by the name of the data; ways: how else the
    runs of the base are drawn from; points: checkpoints of a run; caches: of the variants that
    have another one; likes: what a variant is compared with in place of the base; panels: what
    is drawn side by side, by the title of the panel.
    """

    laid_over: str
    base: str
    variants: Callable[[str], dict[str, Table]]
    ways: tuple[Way, ...] = ()
    points: int = 1
    caches: Mapping[str, Cache] = field(default_factory=dict)
    likes: Mapping[str, str] = field(default_factory=dict)
    panels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def like(self, variant: str) -> str:
        """Return what a variant is compared with."""
        return self.likes.get(variant, self.base)


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

    "fade-in" is the diffusion loss that grows over the first 5 % of the steps (recipes may take
    longer), "fade-out" the weight of the image teacher that falls to zero, "text" the alignment
    with the text teacher.
    """
    image, text = pipelines.recipe(data)["align"]
    sudden, full, mute = {"diffusion": 1.0}, {image: 1.0}, {text: 0.0}
    fade_in = {"diffusion": {"kind": "linear", "start": 0.0, "end": 1.0, "ends": "5%"}}
    laws: Table = {
        "sit": sudden | {image: 0.0} | mute,
        "fade-in": fade_in | {image: 0.0} | mute,
        "repa": sudden | full | mute,
        "repa fade-in": fade_in | full | mute,
        "repa fade-out": sudden | mute,
        "both, no text": fade_in | mute,
        "text alone": fade_in | {image: 0.0},
        "reed": fade_in,
    }
    return {name: {"curriculum": law} for name, law in laws.items()}


SMALL, LARGE = "width 64", "width 256"
TEACHERS = {"random weights": Cache("random", random=True)}
SIZES = {"1k": Cache("1k", "train-1k.zip"), "60k": Cache("60k", "train.zip")}


def why(data: str) -> dict[str, Table]:
    """Return what alignment with the image teacher at full weight may depend on, by name.

    "sit, 1k" is what "repa, 1k" is compared with. The learning rate of a net is in inverse
    proportion to its width.
    """
    recipe = pipelines.recipe(data)
    image = next(iter(recipe["align"]))
    rate, width = recipe["optim"]["lr"], recipe["domain"]["net_settings"]["hidden_size"]
    none: Table = {"curriculum": {image: 0.0}}
    nets: Table = {
        name: {
            "domain": {"net_settings": {"hidden_size": own, "num_heads": own // 32}},
            "optim": {"lr": rate * width / own},
        }
        for name, own in ((SMALL, 64), (LARGE, 256))
    }

    found: dict[str, Table] = {"sit": none, "repa": {}}
    found |= {f"repa, {name}": {} for name in TEACHERS}
    found |= {f"repa, tap {tap}": {"align": {image: {"tap": tap}}} for tap in (1, 3)}
    found |= {f"repa, weight {each:g}": {"curriculum": {image: each}} for each in (0.25, 4.0)}
    for name, table in (nets | dict.fromkeys(SIZES, {})).items():
        found |= {f"sit, {name}": table | none, f"repa, {name}": table}
    return found


PAIRED = (SMALL, LARGE, *SIZES)  # settings whose `sit` is another one too
PANELS = {
    "teacher": ("repa, random weights", "repa"),
    "images": ("repa, 1k", "repa", "repa, 60k"),
    "net": (f"repa, {SMALL}", "repa", f"repa, {LARGE}"),
    "tap": ("repa, tap 1", "repa", "repa, tap 3"),
    "weight": ("repa, weight 0.25", "repa", "repa, weight 4"),
}


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
    "why": Family(
        "repa",
        "sit",
        why,
        caches={f"repa, {name}": cache for name, cache in (TEACHERS | SIZES).items()}
        | {f"sit, {name}": cache for name, cache in SIZES.items()},
        likes={f"repa, {name}": f"sit, {name}" for name in PAIRED},
        panels=PANELS,
    ),
}
