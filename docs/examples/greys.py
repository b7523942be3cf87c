"""A domain of your own: a drawing is 64 letters, each one of four greys, masked and predicted."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from shades import Options

from reed.domains.base import Batch, Noised
from reed.flows.masked import mask_tokens, unmask
from reed.nets.sit import SiT, SiTConfig
from reed.picture import grid
from reed.pipelines import Pipeline
from reed.seeding import seed_for

PIPELINE = Pipeline("greys:Greys", "digits", ("pixels",), ("digits-vit",), shard_size=256)
LETTERS, HIDDEN, SIDE = 4, 4, 8


class Net(SiT):
    def forward(self, x, taps=()):
        seen = F.one_hot(x, LETTERS + 1).mT.unflatten(2, (SIDE, SIDE)).to(self.pos_embed)
        none = torch.zeros_like(x[:, 0])  # neither a time nor a label
        guess, states = super().forward(seen, none.to(seen), none, taps=taps)
        return guess[:, :LETTERS].flatten(2).mT, states  # [B, 64, 4]


@dataclass(frozen=True)
class Greys:
    depth: int = 4
    roles, losses, sampling = ("x",), ("diffusion",), Options

    def net(self, fields):
        return Net(SiTConfig(SIDE, 2, LETTERS + 1, 64, self.depth, num_heads=4, num_classes=1))

    def collate(self, values, fields, targets, mask=None):
        return Batch({"x": (values["x"].flatten(1) / 5).long()}, targets)

    def corrupt(self, batch, draws):
        x, t = batch.data["x"], draws.uniform()
        return Noised({"x": mask_tokens(x, t, draws.uniform(SIDE**2), HIDDEN)}, t, x)

    def loss(self, prediction, noised, batch):
        hidden = noised.inputs["x"] == HIDDEN
        wrong = F.cross_entropy(prediction.float().mT, noised.target, reduction="none")
        return {"diffusion": (wrong * hidden).sum(1) / hidden.sum(1).clamp(min=1)}

    def generate(self, net, fields, indices, options):
        seeds = [torch.Generator().manual_seed(seed_for(options.seed, i)) for i in indices]
        draws = torch.stack([torch.rand(SIDE**2, 1 + LETTERS, generator=seed) for seed in seeds])
        draws = draws.to(next(net.parameters()).device)
        u, gumbel = draws[..., 0], -(-draws[..., 1:].log()).log()
        x = torch.full_like(u, HIDDEN, dtype=torch.long)
        how = {"steps": options.steps, "temperature": options.temperature, "order": "random"}
        x = unmask(lambda x: net(x)[0], x, x == HIDDEN, u, gumbel, **how)
        return {"x": x.cpu().numpy()}

    def picture(self, samples, fields):
        return grid((samples["x"] * 85).astype("uint8").reshape(-1, SIDE, SIDE, 1), columns=10)
