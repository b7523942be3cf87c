"""Layers and functions that several nets and heads use."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def is_drawing(x: Tensor) -> bool:
    """Whether samples are drawn, in one precision; autocast rounds what these products subtract."""
    return torch.is_inference_mode_enabled() and not torch.is_autocast_enabled(x.device.type)


def init_linear(linear: nn.Linear) -> None:
    """Initialise a layer with a Xavier-uniform weight and zero bias, as the code of DiT does."""
    nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def projector(in_dim: int, hidden: int, out_dim: int) -> nn.Sequential:
    """Return an alignment head, [..., in_dim] -> [..., out_dim].

    It is three linear layers with SiLU between them. Its state-dict keys are 0, 2 and 4, as in the
    public checkpoints, and it is initialised like the linear layers of the nets. Source: REPA
    (arXiv 2410.06940), released code.
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


class GridConv(nn.Conv2d):
    """An alignment head on a square grid of tokens, [B, T, in] -> [B, T, out], 3 x 3 with padding.

    Keys: weight, bias. It is initialised as torch initialises convolutions. Source: iREPA (arXiv
    2512.10794).
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(in_dim, out_dim, kernel_size=3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        side = math.isqrt(input.shape[1])
        # Tokens row by row are an image with channels last, so nothing is copied.
        grid = input.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        return super().forward(grid).flatten(2).mT


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Return sinusoids of times, [B] -> [B, dim] float32: all cosines, then all sines.

    Frequency i of dim/2 is max_period^(-i/(dim/2)). Times are not multiplied by 1000. The result is
    always float32, because in bfloat16 similar times would have the same embedding. Source: DiT
    (arXiv 2212.09748), released code.
    """
    assert t.ndim == 1 and dim % 2 == 0, (t.shape, dim)
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(max_period) * index / half)  # [half]
    angles = t.float()[:, None] * frequencies  # [B, half]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def sincos_1d(position: Tensor, dim: int) -> Tensor:
    """Return sines, then cosines, of integer positions, [N] -> [N, dim] float64.

    Frequency i of dim/2 is 10000^(-i/(dim/2)). Source: arXiv 1706.03762, section 3.5.
    """
    assert dim % 2 == 0, dim
    index = torch.arange(dim // 2, dtype=torch.float64, device=position.device)
    angles = position.double()[:, None] * 10_000.0 ** (-index / (dim // 2))  # [N, dim/2]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def sincos_2d(grid: int, dim: int) -> Tensor:
    """Return the position embedding of a square grid, [grid*grid, dim] float32, row by row.

    The first half of the channels encodes the column, the second half the row. Source: MAE and DiT,
    released code.
    """
    # On the CPU even if a net is built for its shape alone: arithmetic on the meta device imports
    # torch._dynamo and sympy, which takes seconds.
    position = torch.arange(grid, device="cpu")
    rows, columns = torch.meshgrid(position, position, indexing="ij")
    halves = [sincos_1d(axis.reshape(-1), dim // 2) for axis in (columns, rows)]
    return torch.cat(halves, dim=-1).float()


class TimestepEmbedder(nn.Module):
    """Embedding of times, [B] -> [B, hidden]: 256 sinusoids, then Linear, SiLU, Linear.

    Keys: mlp.0, mlp.2. Source: DiT (arXiv 2212.09748).
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
    """Multi-head self-attention without a mask, [B, T, D] -> [B, T, D].

    The packed projection is q, k, v in this order, each split into heads. With `qk_norm`, q and k
    go through a norm over the channels of a head: LayerNorm (affine, eps 1e-5), or RmsNorm with
    `rms`. Keys: qkv, q_norm, k_norm, proj.
    """

    def __init__(self, dim: int, num_heads: int, qk_norm: bool, rms: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        head_dim = dim // num_heads
        self.q_norm = _head_norm(head_dim, rms) if qk_norm else nn.Identity()
        self.k_norm = _head_norm(head_dim, rms) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        """Mix the tokens; `rotation` is that of `rotation_2d`, [2, T, head_dim]."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, T, head_dim]
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotated(q, rotation), rotated(k, rotation)

        # Under autocast the norms return float32, but q, k and v must have the same dtype.
        q, k = q.to(v.dtype), k.to(v.dtype)
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


class SwiGlu(nn.Module):
    """w3(SiLU(a) b), where a and b are the halves of w12(x), [..., D] -> [..., D]. Keys: w12, w3.

    Each half has two thirds of `hidden`, so that there are as many parameters as in an `Mlp`,
    rounded up to a multiple of 8. Source: arXiv 2002.05202; the keys are those of DINOv2.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        width = -(-2 * hidden // 24) * 8
        self.w12 = nn.Linear(dim, 2 * width)
        self.w3 = nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class RmsNorm(nn.RMSNorm):
    """RMSNorm with a weight, computed in the precision of its weight. Key: weight."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


def _head_norm(dim: int, rms: bool) -> nn.Module:
    return RmsNorm(dim, eps=1e-6) if rms else nn.LayerNorm(dim, eps=1e-5)


def rotation_2d(grid: int, head_dim: int, max_period: float = 10_000.0) -> Tensor:
    """Return cosines and sines of the angles of tokens on a grid, [2, grid * grid, head_dim].

    The first half of the channels turns with the row, the second with the column. Channels 2i and
    2i + 1 of a half are a pair, whose angle is the row or column times max_period^(-i / pairs).
    Source: RoFormer (arXiv 2104.09864), along two axes.
    """
    pairs = head_dim // 4
    frequencies = max_period ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    place = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies  # [grid, pairs]
    rows = place[:, None].expand(grid, grid, pairs)
    columns = place[None].expand(grid, grid, pairs)
    angles = torch.cat([rows, columns], -1).flatten(0, 1).repeat_interleave(2, -1)
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn the pairs of channels of each token, x [B, heads, T, head_dim]; see `rotation_2d`."""
    cos, sin = rotation
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack([-odd, even], -1).flatten(-2)
    return x * cos + turned * sin


def placed_dropout(x: Tensor, rate: float, seed: Tensor, salt: int) -> Tensor:
    """Apply dropout whose mask depends only on each sample's seed, the salt and the position.

    Unlike with nn.Dropout, a mask depends neither on the other samples of the batch nor on what was
    drawn before.

    Args:
        x: Values, [B, ...].
        rate: Probability that a value is dropped, in [0, 1).
        seed: Seed of each sample, int32 [B].
        salt: Number that tells apart calls with the same seeds.
    """
    position = torch.arange(x[0].numel(), device=x.device, dtype=torch.int32).view(x.shape[1:])
    row = _hashed(_hashed(seed) + salt).view(-1, *[1] * (x.ndim - 1))
    numbers = _hashed(_hashed(position) ^ row)  # uniform over all int32
    kept = numbers >= int(rate * 2**32) - 2**31
    return x * kept / (1 - rate)


def _hashed(x: Tensor) -> Tensor:
    """Mix all bits of int32 numbers, one to one (C. Wellons, lowbias32, public domain)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32)):
        x = (x ^ (x >> shift & 2 ** (32 - shift) - 1)) * factor
    return x ^ (x >> 16 & 0xFFFF)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over axis 1 of the entries in the mask, [B, T, ...], [B, T] -> [B, ...]."""
    if mask is None:
        return values.mean(1)
    weight = mask.to(values.dtype).view(*mask.shape, *[1] * (values.ndim - 2))
    return (values * weight).sum(1) / weight.sum(1).clamp(min=1)
