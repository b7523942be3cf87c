"""A sampler whose net is guided by that of a weaker run (AutoGuidance)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reed import config
from reed.domains.base import AutoGuided
from reed.errors import ReedError
from reed.flows.autoguidance import Pair
from reed.guides.guide import guides_of

if TYPE_CHECKING:
    from reed.sample.sampler import Sampler


def guided_by(sampler: Sampler, weak: Sampler) -> Sampler:
    """Let the net of a sampler be guided by that of another one, and return the sampler.

    Raises:
        ReedError: The domain knows no such guidance, one of the nets has guides, or both were
            trained for other data.
    """
    own, other = f"{sampler.about['checkpoint']}", f"{weak.about['checkpoint']}"
    if not isinstance(sampler.domain, AutoGuided):
        raise ReedError(f"samples of kind {sampler.kind!r} cannot be guided by a weak run")
    for place, net in ((own, sampler.net), (other, weak.net)):
        if guides_of(net) is not None:
            raise ReedError(f"{place} has guides, and no weak run can guide such nets, or be one")

    # The difference between a net and itself is nothing.
    if sampler.about["weights"] == weak.about["weights"]:
        raise ReedError(
            f"{other} has the weights that it is to guide, so that nothing would be guided; choose "
            "an earlier step of the run with --weak-step, or a weaker run"
        )

    # A velocity of other data, or on another path, would be no weaker version of this one.
    both = [
        {"kind": each.kind, "fields": config.plain(each.fields)}
        | {name: getattr(each.domain, name, None) for name in sampler.domain.shared}
        for each in (sampler, weak)
    ]
    for name, mine, theirs in config.differences(*both, ""):
        raise ReedError(
            f"{other} cannot guide {own}: {name.removeprefix('.')} is {theirs!r}, not {mine!r}; "
            "choose a weaker run of the same data"
        )

    about = {name: weak.about[name] for name in ("step", "ema", "weights", "domain")}
    sampler.about |= {"weak": about, "weak_checkpoint": other}
    run = weak.about["run"]
    sampler.name += f"-weak-{run.rpartition('/')[2]}-{weak.name}"
    sampler.net = Pair(sampler.net, weak.net).eval()
    return sampler
