"""The noised batch of a step: the domain's numbers first, then those of the guides."""

from __future__ import annotations

import functools

from reed.domains.base import Batch, Noised
from reed.guides.guide import guides_of
from reed.guides.training import Drawn, draw, x_time
from reed.nets import Net
from reed.seeding import Draws
from reed.train.feed import Fed
from reed.train.recipe import Setup


def noised_batch(
    setup: Setup, net: Net, part: Fed, step: int
) -> tuple[Batch, Noised, dict[str, Drawn] | None]:
    """Make a batch, add noise to it, and draw what its guides need.

    Args:
        setup: The recipe, checked.
        net: The net, with its guides.
        part: The micro-batch.
        step: Optimizer step.

    Returns:
        The batch, the noised batch, and what was drawn for each guide; None without guides.
    """
    rows = slice(part.first, part.first + part.rows)
    device = next(iter(part.values.values())).device
    draws = Draws(setup.config.seed, step, part.total, rows, device)
    targets = {name: part.values[name] for name in setup.targets if name in part.values}
    batch = setup.domain.collate(part.values, setup.fields, targets, part.mask)

    # Domains of users need not know about warps, so they get one only where it is needed.
    lags = {spec.config.lag for spec in setup.guides.values()} - {0.0}
    warp = [functools.partial(x_time, lag=lag) for lag in lags]
    noised = setup.domain.corrupt(batch, draws, *warp)

    # The guides draw last, so that a run without guides has the numbers that it always had.
    guides = guides_of(net)
    if guides is None:
        return batch, noised, None
    values = {name: part.values[name] for name in setup.guides}
    return batch, noised, draw(guides, values, noised.t, noised.clock, draws)
