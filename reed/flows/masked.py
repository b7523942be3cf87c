"""Absorbing-state (masked) discrete diffusion: how tokens are masked, and filled in again.

A token is masked at time t with probability t: t = 0 is data, t = 1 is all masked. So one uniform
number u per token decides for all times, masked where u < t, and says when the token is revealed.
Sources: D3PM (arXiv 2107.03006), section 3; MDLM (arXiv 2406.07524), section 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reed.errors import ReedError, at_least, suggest

ORDERS = ("purity", "random")

# logits of every token [B, L, V] from tokens [B, L]; V letters, the mask is not among them
Denoiser = Callable[[Tensor], Tensor]


def mask_tokens(tokens: Tensor, t: Tensor, u: Tensor, mask_token: int) -> Tensor:
    """Tokens [B, L] with those masked whose uniform number u [B, L] is below the time t [B]."""
    return torch.where(u < t[:, None], mask_token, tokens)


def check_sampling(steps: int, temperature: float, order: str) -> None:
    """ReedError unless the settings of `unmask` make sense."""
    at_least(1, steps=steps)
    if not temperature >= 0:
        raise ReedError(f"temperature is {temperature}, it must be at least 0 (0: the likeliest)")
    if order not in ORDERS:
        raise ReedError(f"unknown order {order!r}.{suggest(order, ORDERS)}")


@torch.no_grad()
def unmask(
    denoiser: Denoiser,
    tokens: Tensor,
    masked: Tensor,
    u: Tensor,
    gumbel: Tensor,
    *,
    steps: int,
    temperature: float,
    order: str,
) -> Tensor:
    """Fill in the masked tokens over `steps` equal steps of time from 1 to 0.

    tokens: [B, L]; masked: [B, L], the tokens to fill in; u: [B, L] uniform in [0, 1), gumbel:
    [B, L, V] standard Gumbel, all that is random; temperature: divides the logits; order: in a
    step as many tokens are revealed as have their u in it, these themselves (random, the reverse
    process) or those whose letter is the most certain (purity, as in MultiFlow, arXiv 2402.04997).
    Returns the tokens that were sampled, each once. The denoiser knows no time, so it is not
    called in a step that reveals nothing: at most min(steps, L) times for one sequence.
    """
    check_sampling(steps, temperature, order)
    step_of = (u * steps).long().clamp(max=steps - 1).masked_fill(~masked, -1)
    for step in step_of[masked].unique().flip(0).tolist():
        due = step_of == step
        logits = denoiser(tokens).double()
        letters = (logits + temperature * gumbel).argmax(-1)
        if order == "purity":
            certain = logits.log_softmax(-1).amax(-1).masked_fill(~masked, -torch.inf)
            rank = certain.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            due = rank < due.sum(1, keepdim=True)
        tokens = torch.where(due, letters, tokens)
        masked = masked & ~due
    return tokens
