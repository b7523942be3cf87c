"""A small flow that draws a representation: p(z | hidden state at t*, t*)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from reed.nets.layers import TimestepEmbedder, init_linear

STEPS = 18  # of Heun, to draw one z; as many as EDM takes for small images (arXiv 2206.00364)


class _Block(nn.Module):
    """A residual MLP, modulated and gated by the condition as in DiT, [B, H] -> [B, H]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 3 * hidden))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale, gate = modulation.chunk(3, dim=-1)
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
        return self._velocity(z, self._modulations(self._given(state, t), r))

    def _given(self, state: Tensor, t: Tensor) -> Tensor:
        """Return what stays the same along the flow of z, [B, H]."""
        return self.state(state) + self.at(t)

    def _modulations(self, given: Tensor, r: Tensor) -> list[Tensor]:
        """Return the modulation of every block at times r of the flow, each [..., 3H]."""
        condition = given + self.flow_time(r)
        return [cast(_Block, block).modulation(condition) for block in self.blocks]

    def _velocity(self, z: Tensor, modulations: list[Tensor]) -> Tensor:
        hidden = self.enter(z)
        for block, modulation in zip(self.blocks, modulations, strict=True):
            hidden = block(hidden, modulation)
        return self.leave(self.norm(hidden))

    def error(self, z: Tensor, noise: Tensor, r: Tensor, state: Tensor, t: Tensor) -> Tensor:
        """Return the squared error of the velocity at z_r = (1 - r) z + r noise, [B], float32."""
        share = r[:, None]
        velocity = self((1 - share) * z + share * noise, r, state, t)
        return (velocity.float() - (noise - z)).square().mean(-1)

    @torch.no_grad()
    def draw(self, noise: Tensor, state: Tensor, t: Tensor, steps: int = STEPS) -> Tensor:
        """Draw representations by Heun's method, noise [B, C] -> z [B, C]."""
        z, grid = noise, torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        # of all times at once: for few samples, one by one would take a fifth longer
        given = self._given(state, t).unsqueeze(1)
        every = [each.unbind(1) for each in self._modulations(given, grid.to(t))]  # [B, steps + 1]
        now = [block[0] for block in every]
        for i, step in enumerate(grid.diff().tolist()):
            v = self._velocity(z, now)
            ahead = z + step * v

            # The corrector of this step and the predictor of the next are at one time.
            if i < steps - 1:
                now = [block[i + 1] for block in every]
                v = (v + self._velocity(ahead, now)) / 2
                ahead = z + step * v
            z = ahead
        return z
