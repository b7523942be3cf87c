"""A small flow that draws a representation: p(z | hidden state at t*, t*)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reed.nets.layers import TimestepEmbedder, init_linear

STEPS = 25  # of Heun, to draw one z


class _Block(nn.Module):
    """A residual MLP, modulated and gated by the condition as in DiT, [B, H] -> [B, H]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 3 * hidden))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class Prior(nn.Module):
    """The velocity of a flow from noise (r = 1) to z (r = 0), given a state and the time t*.

    At t* = 1 the state holds the label alone, and the prior is a class-conditional representation
    model, such as RCG's (arXiv 2312.03701), whose residual MLP this follows.

    Args:
        channels: Channels of z.
        state: Channels of the state.
        hidden: Width of the blocks.
        depth: Number of blocks.
    """

    def __init__(self, channels: int, state: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.enter = nn.Linear(channels, hidden)
        self.state = nn.Sequential(nn.LayerNorm(state), nn.Linear(state, hidden))
        self.at, self.flow_time = TimestepEmbedder(hidden), TimestepEmbedder(hidden)
        self.blocks = nn.ModuleList(_Block(hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.leave = nn.Linear(hidden, channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module)

        # Every block begins as the identity, and the velocity as zero.
        for module in self.modules():
            if isinstance(module, _Block):
                last = module.modulation[1]
                assert isinstance(last, nn.Linear)
                nn.init.zeros_(last.weight)
        nn.init.zeros_(self.leave.weight)

    def forward(self, z: Tensor, r: Tensor, state: Tensor, t: Tensor) -> Tensor:
        """Return the velocity dz/dr, [B, C].

        Args:
            z: Noised representations, [B, C].
            r: Times of the flow of z, [B]; 0 is data and 1 is noise.
            state: Hidden states, [B, S].
            t: Times t* of x, [B].
        """
        condition = self.state(state) + self.at(t) + self.flow_time(r)
        hidden = self.enter(z)
        for block in self.blocks:
            hidden = block(hidden, condition)
        return self.leave(self.norm(hidden))

    def error(self, z: Tensor, noise: Tensor, r: Tensor, state: Tensor, t: Tensor) -> Tensor:
        """Return the squared error of the velocity at z_r = (1 - r) z + r noise, [B], float32."""
        share = r[:, None]
        velocity = self((1 - share) * z + share * noise, r, state, t)
        return (velocity.float() - (noise - z)).square().mean(-1)

    @torch.no_grad()
    def draw(self, noise: Tensor, state: Tensor, t: Tensor, steps: int = STEPS) -> Tensor:
        """Draw representations by Heun's method, noise [B, C] -> z [B, C]."""
        z, grid = noise, torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
        for i, (r, r_next) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            v = self(z, torch.full_like(t, r), state, t)
            ahead = z + (r_next - r) * v
            if i < steps - 1:
                v = (v + self(ahead, torch.full_like(t, r_next), state, t)) / 2
                ahead = z + (r_next - r) * v
            z = ahead
        return z
