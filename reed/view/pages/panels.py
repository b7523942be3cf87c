"""What is drawn together: panels of logged quantities under headings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# What every line of a log has: such a key is not the loss of a guide of that name.
OWN = ("step", "samples", "loss", "grad_norm", "lr", "samples_per_s", "wait_share")
MARK = "release/"  # beginning of the names of steps at which targets are released
_PART = re.compile(r"(z/.+)/t\d+(\.\d+)?")  # the error of a representation in a bin of the time


@dataclass(frozen=True)
class Panel:
    """Quantities that share a y axis.

    Attributes:
        title: Title of the chart.
        y: Name of the y axis.
        caption: Text below the chart.
        keys: Keys of the quantities in the log.
        zero: Whether the y axis starts at 0.
        log: Whether the y axis may be logarithmic.
        share: Whether the y axis is in percent.
        each: Whether titles name the quantity.
    """

    title: str
    y: str
    caption: str
    keys: list[str]
    zero: bool = False
    log: bool = False
    share: bool = False
    each: bool = False


def panels(keys: list[str], note: str) -> list[tuple[str, str, list[Panel]]]:
    """Return (name in links, heading, panels) of everything that is logged."""
    losses = [key for key in keys if f"weight/{key}" in keys and key not in OWN]
    cosines = [key for key in keys if key.startswith("cos/")]
    weights = [key for key in keys if key.startswith("weight/")]
    dotted = f"Dotted: as the recipe plans it, over all steps. {note}".strip()
    aligned = (
        "Mean cosine between the projected hidden states and the cached representation; 1 is equal."
    )
    grams = [key for key in keys if key.startswith("gram/")]
    apart = (
        "Mean squared difference of the cosines between tokens, of the projected hidden states and "
        "of the cached representation; 0 is equal."
    )
    factor = f"What each loss is multiplied by. {dotted}"
    curriculum = [
        Panel("Weight", "weight", factor, weights, zero=True, each=True),
        Panel("Learning rate", "learning rate", dotted, ["lr"], zero=True),
    ]

    known = [
        ("loss", "Loss", _loss_panels(losses)),
        (
            "alignment",
            "Alignment",
            [
                Panel("Alignment", "cosine", aligned, cosines, each=True),
                Panel("Relations", "squared difference", apart, grams, zero=True, each=True),
            ],
        ),
        ("guides", "Guides", _guide_panels(keys)),
        ("curriculum", "Curriculum", curriculum),
        ("speed", "Speed and gradients", _speed_panels()),
    ]

    # Quantities of a user's own domain get a panel each.
    shown = {key for _, _, group in known for panel in group for key in panel.keys}
    marks = {key for key in keys if key.startswith(MARK)}  # of releases, in the charts
    rest = [key for key in keys if key not in shown | marks | {"step", "samples"}]
    others = [Panel(key, key, "As it is logged.", [key]) for key in rest]
    return [*known, ("others", "Others", others)]


def is_time_bin(key: str, keys: Sequence[str]) -> bool:
    """Return whether a logged quantity is the error of a representation in a bin of the time.

    The name of a guide may contain slashes, so a part of a key is a time only below another key.

    Args:
        key: Name of the quantity.
        keys: Names of all logged quantities.
    """
    found = _PART.fullmatch(key)
    return bool(found and found[1] in keys)


def _guide_panels(keys: list[str]) -> list[Panel]:
    """Return a panel for each guide: the error of its representation over all times and by time."""
    errors: dict[str, list[str]] = {}
    for key in keys:
        if key.startswith("z/"):
            whole = key.rpartition("/")[0] if is_time_bin(key, keys) else key
            errors.setdefault(whole, []).append(key)
    said = (
        "Error of the predicted representation: a squared error, or minus a cosine. /t0.4 is of "
        "samples at times from 0.4 to 0.6; 0 is data and 1 is noise."
    )
    return [
        Panel(f"Error of {short(key)}", "error", said, group, each=True)
        for key, group in errors.items()
    ]


def _loss_panels(losses: list[str]) -> list[Panel]:
    alone = "Mean since the line before, without its weight."
    total = (
        "The weighted sum that is minimised. Alignment counts as minus its cosine, so it may be "
        "negative."
    )
    return [
        Panel("Loss", "loss", alone, losses, log=True, each=True),
        Panel("Total loss", "total loss", total, ["loss"]),
    ]


def _speed_panels() -> list[Panel]:
    speed = "Over all processes; saving and previews count."
    wait = "How long training waited for batches."
    norm = "Before it is clipped; mean since the line before."
    return [
        Panel("Throughput", "samples per second", speed, ["samples_per_s"], zero=True),
        Panel("Loader wait", "share of the time", wait, ["wait_share"], zero=True, share=True),
        Panel("Gradient norm", "gradient norm", norm, ["grad_norm"], zero=True),
    ]


def short(key: str) -> str:
    """Return the name in a key of the log, such as vit of cos/vit."""
    return key.partition("/")[2] or key
