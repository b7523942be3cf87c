"""Building blocks that more than one net or head uses."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def init_linear(linear: nn.Linear) -> None:
    """Xavier-uniform weight and zero bias, in place (DiT, arXiv 2212.09748, released code)."""
    nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def projector(in_dim: int, hidden: int, out_dim: int) -> nn.Sequential:
    """The alignment head: three linear layers with SiLU between, [..., in_dim] -> [..., out_dim].

    Its state-dict keys are 0, 2 and 4 and its initialisation is that of the net's linear layers,
    as in the public checkpoints. Source: REPA (arXiv 2410.06940), released code.
    """
    head = nn.Sequential(
        nn.Linear(in_dim, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, out_dim),
    )
    for layer in head:
        if isinstance(layer, nn.Linear):
            init_linear(layer)
    return head


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoids of the time, [B] -> [B, dim] float32: all cosines, then all sines.

    Frequency i of dim/2 is max_period^(-i/(dim/2)); t is used as it is, without a factor of 1000.
    Always float32: in bfloat16 neighbouring times would share an embedding.
    Source: DiT (arXiv 2212.09748), released code.
    """
    assert t.ndim == 1 and dim % 2 == 0, (t.shape, dim)
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(max_period) * index / half)  # [half]
    angles = t.float()[:, None] * frequencies  # [B, half]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def sincos_1d(position: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of integer positions, [N] -> [N, dim] float64.

    Frequency i of dim/2 is 10000^(-i/(dim/2)). Source: arXiv 1706.03762, section 3.5.
    """
    assert dim % 2 == 0, dim
    index = torch.arange(dim // 2, dtype=torch.float64, device=position.device)
    angles = position.double()[:, None] * 10_000.0 ** (-index / (dim // 2))  # [N, dim/2]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def sincos_2d(grid: int, dim: int) -> Tensor:
    """Position embedding of a square token grid, [grid*grid, dim] float32, tokens row by row.

    The first half of the width encodes the column, the second half the row.
    Source: MAE and DiT, released code.
    """
    place = torch.arange(grid)
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    halves = [sincos_1d(axis.reshape(-1), dim // 2) for axis in (columns, rows)]
    return torch.cat(halves, dim=-1).float()


class TimestepEmbedder(nn.Module):
    """A time to a condition vector: sinusoids of width 256, then Linear, SiLU, Linear.

    Shapes: [B] -> [B, hidden]. Keys: mlp.0, mlp.2. Source: DiT (arXiv 2212.09748).
    """

    WIDTH = 256

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(self.WIDTH, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
        )

    def forward(self, t: Tensor) -> Tensor:
        waves = timestep_embedding(t, self.WIDTH)  # [B, 256]
        return self.mlp(waves.to(next(self.mlp.parameters()).dtype))


class Attention(nn.Module):
    """Multi-head self-attention without mask, [B, T, D] -> [B, T, D].

    The packed projection holds q, k, v in this order, each split into heads. With `qk_norm`, q and
    k pass a LayerNorm over the head width (affine, eps 1e-5). Keys: qkv, q_norm, k_norm, proj.
    """

    def __init__(self, dim: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        head_dim = dim // num_heads
        self.q_norm = nn.LayerNorm(head_dim, eps=1e-5) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim, eps=1e-5) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, T, head_dim]
        # autocast returns the norms in float32, and attention wants one dtype
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v)  # [B, heads, T, head_dim]
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    """Linear, tanh-approximated GELU, Linear, [..., D] -> [..., D]. Keys: fc1, fc2."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def placed_dropout(x: Tensor, rate: float, seed: Tensor, salt: int) -> Tensor:
    """Dropout in which every row's mask is a function of its seed, the salt and the place in it.

    x: [B, ...]; rate: chance to be dropped, in [0, 1); seed: [B] int32. What else is in the batch,
    and what was drawn before, changes nothing, which nn.Dropout cannot offer.
    """
    place = torch.arange(x[0].numel(), device=x.device, dtype=torch.int32).view(x.shape[1:])
    row = _hashed(_hashed(seed) + salt).view(-1, *[1] * (x.ndim - 1))
    numbers = _hashed(_hashed(place) ^ row)  # uniform over all int32
    kept = numbers >= int(rate * 2**32) - 2**31
    return x * kept / (1 - rate)


def _hashed(x: Tensor) -> Tensor:
    """A bijection of int32 that mixes all bits. Source: C. Wellons, lowbias32 (public domain)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32)):
        x = (x ^ (x >> shift & 2 ** (32 - shift) - 1)) * factor
    return x ^ (x >> 16 & 0xFFFF)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over axis 1 of real entries only: [B, T, ...], [B, T] -> [B, ...]."""
    if mask is None:
        return values.mean(1)
    weight = mask.to(values.dtype).view(*mask.shape, *[1] * (values.ndim - 2))
    return (values * weight).sum(1) / weight.sum(1).clamp(min=1)
