"""Absorbing-state (masked) discrete diffusion: masking tokens and filling them in.

A token is masked at time t with probability t: t = 0 is data, and at t = 1 every token is masked.
One uniform number u per token decides for all times: the token is masked where u < t.
Sources: D3PM (arXiv 2107.03006), section 3; MDLM (arXiv 2406.07524), section 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reed.errors import ReedError, at_least

ORDERS = ("purity", "random")

# Maps tokens [B, L] to logits [B, L, V] of every token; the mask is not among the V letters.
Denoiser = Callable[[Tensor], Tensor]
# Maps tokens [n, L] of some sequences, and which these are, int64 [n], to logits.
SomeRows = Callable[[Tensor, Tensor], Tensor]
# Called before the denoiser with the time, the tokens [B, L] and the rows that reveal some, [B].
Begin = Callable[[float, Tensor, Tensor], None]


def mask_tokens(tokens: Tensor, t: Tensor, u: Tensor, mask_token: int) -> Tensor:
    """Mask the tokens [B, L] whose uniform number u [B, L] is below the time t [B]."""
    return torch.where(u < t[:, None], mask_token, tokens)


def check_sampling(steps: int, temperature: float, order: str) -> None:
    """Raise ReedError unless the settings of ``unmask`` are valid."""
    at_least(1, steps=steps)
    if not temperature >= 0:
        raise ReedError(f"temperature is {temperature}, it must be at least 0 (0: the likeliest)")
    if order not in ORDERS:
        raise ReedError(f"order is {order!r}, it must be one of {', '.join(ORDERS)}")


@torch.no_grad()
def unmask(
    denoiser: Denoiser | None,
    tokens: Tensor,
    masked: Tensor,
    u: Tensor,
    gumbel: Tensor,
    *,
    steps: int,
    temperature: float,
    order: str,
    begin: Begin | None = None,
    some: SomeRows | None = None,
) -> Tensor:
    """Fill in masked tokens over ``steps`` equal steps of time from 1 to 0.

    The denoiser does not depend on time, so a step that reveals nothing does not call it: one
    sequence needs at most min(steps, L) calls.

    Args:
        denoiser: Predicts the logits of every token; None if `some` does.
        tokens: Tokens, [B, L].
        masked: The tokens to fill in, bool [B, L].
        u: Uniform numbers in [0, 1), [B, L]; they decide how many tokens a step reveals.
        gumbel: Standard Gumbel numbers, [B, L, V]; with u, all that is random.
        steps: Number of steps.
        temperature: Divides the logits; 0 takes the likeliest letter.
        order: Which tokens a step reveals: "random" those whose u lies in the step (the reverse
            process), "purity" as many, the most certain ones (MultiFlow, arXiv 2402.04997).
        begin: Called at the beginning of every step that reveals something.
        some: Predicts those of the sequences that reveal something in a step, instead.

    Returns:
        Tokens [B, L] in which every masked token was sampled once.
    """
    check_sampling(steps, temperature, order)

    # A token is due in the step that its u falls into; tokens that are not masked are never due.
    step_of = steps_of(u, masked, steps)
    for step in step_of[masked].unique().flip(0).tolist():
        due = step_of == step
        if begin is not None:
            begin((step + 1) / steps, tokens, due.any(1))

        rows, logits = _predicted(denoiser, some, tokens, due.any(1))
        hidden, due = masked[rows], due[rows]
        letters = (logits + temperature * gumbel[rows]).argmax(-1)

        # The number of due tokens stays; "purity" only changes which ones they are.
        if order == "purity":
            certain = logits.log_softmax(-1).amax(-1).masked_fill(~hidden, -torch.inf)
            rank = certain.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            due = rank < due.sum(1, keepdim=True)

        tokens, masked = tokens.clone(), masked.clone()
        tokens[rows] = torch.where(due, letters, tokens[rows])
        masked[rows] = hidden & ~due
    return tokens


def _predicted(
    denoiser: Denoiser | None, some: SomeRows | None, tokens: Tensor, due: Tensor
) -> tuple[Tensor, Tensor]:
    """Return sequences, and the logits of theirs: those that are due if `some` predicts."""
    if some is not None:
        rows = due.nonzero().squeeze(1)
        return rows, some(tokens[rows], rows).double()
    assert denoiser is not None  # one of the two predicts
    return torch.arange(len(tokens), device=tokens.device), denoiser(tokens).double()


def steps_of(u: Tensor, masked: Tensor, steps: int) -> Tensor:
    """Return the step at which each token is revealed, int64 [B, L]; -1 for one that is known.

    Step k begins at time (k + 1) / steps.
    """
    return (u * steps).long().clamp(max=steps - 1).masked_fill(~masked, -1)


def last_times(u: Tensor, masked: Tensor, steps: int) -> Tensor:
    """Return the time at which each sample's last step begins, float64 [B]; 1 if it has none."""
    never = steps - 1
    last = torch.where(masked, steps_of(u, masked, steps), never).amin(1)
    return (last.double() + 1) / steps
