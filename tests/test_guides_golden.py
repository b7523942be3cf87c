"""REG's and DINO Forcing's forward passes: ours is theirs, with their weights under our names.

golden/reg_tiny.npz is what Martinser/REG (models/sit.py at 021ea2e) computes on a CPU in float32
with random weights, all of them nonzero: 8x8x4 inputs in patches of 2, width 32, two blocks, four
heads, four classes, a class token of 12 channels, the projector of width 16 at block 1. DINO
Forcing (arijit-hub/dino_forcing at f030c4d) is written here anew, in float64, from its formulas.
"""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reed.cache.schema import Field
from reed.domains.image_guided import Request, drawn_with_guides
from reed.flows.paths import get_path
from reed.flows.samplers import Guidance
from reed.guides.guide import Entry, attach
from reed.guides.settings import GuideConfig, check_guide
from reed.guides.steer import Steer
from reed.guides.training import Drawn, Pass
from reed.nets.layers import projector
from reed.nets.sit import SiT, SiTConfig

TOLERANCE = 5e-6
CONFIG = SiTConfig(8, 2, 4, hidden_size=32, depth=2, num_heads=4, num_classes=4)
TOKENS, WIDTH, CHANNELS, PATCH = 16, 32, 12, 2


def close(ours, theirs, tolerance=TOLERANCE):
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def reg():
    with np.load(Path(__file__).parent / "golden" / "reg_tiny.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


NAMES = {"cls_projectors2": "guides.cls.enter", "wg_norm": "guides.cls.norm"}
NAMES |= {"final_layer.linear_cls": "guides.cls.head"}


def reg_net(reg):
    """Our net with REG's weights, its guide, and the projector at block 1."""
    net = SiT(CONFIG)
    config = GuideConfig("dino/cls", when="start", read="joint", enter="token", drop=0.0)
    field = Field("cls", "sample", (CHANNELS,))
    guides = attach(net, {"cls": check_guide("cls", config, field, net)})
    theirs = {n.removeprefix("sd/"): v for n, v in reg.items() if n.startswith("sd/")}
    head = {n[len("projectors.0.") :]: v for n, v in theirs.items() if n.startswith("projectors")}
    state = {n: v for n, v in theirs.items() if not n.startswith("projectors")}

    # The token has a position of zeros, which is no position.
    assert not state["pos_embed"][:, 0].any()
    state["pos_embed"] = state["pos_embed"][:, 1:]
    for old, new in NAMES.items():
        state |= {f"{new}.{part}": state.pop(f"{old}.{part}") for part in ("weight", "bias")}
    net.load_state_dict(state | {"guides.cls.null": torch.zeros(CHANNELS)})
    align = projector(WIDTH, 16, CHANNELS)
    align.load_state_dict(head)
    return net.eval(), guides, align


@torch.no_grad()
def test_a_token_that_is_denoised_beside_x_is_reg(reg):
    net, guides, align = reg_net(reg)
    inputs = {name: reg[f"in/{name}"] for name in "xty"}
    z, keep = reg["in/cls"], torch.ones(3, dtype=torch.bool)
    extra = guides.extra({"cls": Entry(z, keep, inputs["t"])})
    v, states = net(**inputs, taps=[1, *guides.taps], extra=extra)
    (guide,) = guides.all()
    close(v, reg["out/v"])
    close(guide.predicted(states, None), reg["out/cls"])
    close(align(states[1]), reg["out/zs"][:, 1:])  # theirs aligns the token too
    without, _ = net(**inputs)
    assert (without - reg["out/v"]).abs().max() > 1e4 * TOLERANCE


@torch.no_grad()
def test_the_loss_of_the_token_is_that_of_reg(reg):
    net, guides, _ = reg_net(reg)
    inputs, generator = {name: reg[f"in/{name}"] for name in "xty"}, torch.Generator()
    noise = torch.randn(3, CHANNELS, generator=generator.manual_seed(0))
    t = inputs["t"][:, None]
    z = (reg["in/cls"] - t * noise) / (1 - t)  # so that z_t is what went into their net
    keep = torch.ones(3, dtype=torch.bool)
    drawn = Drawn(z, keep, ~keep, noise, inputs["t"])
    v, _, terms = Pass(net, guides, inputs, inputs["t"], None, {"cls": drawn}).forward(set())
    wanted = (reg["out/cls"] - (noise - z)).double().square().mean(1)
    close(v, reg["out/v"], 2e-5)  # the division by 0.03 costs two digits
    torch.testing.assert_close(terms.losses["cls"].double(), wanted, rtol=2e-5, atol=0)


class DinoForcing:
    """DINO Forcing's SiT in float64: features are channels of the patches, before one linear map.

    The features go through a LayerNorm without parameters first. Queries have a matrix of their
    own, keys and values share one, and patches are unfolded and folded with the channel first.
    """

    def __init__(self, seed=0):
        draws = torch.Generator().manual_seed(seed)

        def linear(inputs, outputs):
            size = (outputs, inputs)
            weight = torch.randn(size, generator=draws, dtype=torch.float64) / math.sqrt(inputs)
            bias = 0.1 * torch.randn(outputs, generator=draws, dtype=torch.float64)
            return weight.float().double(), bias.float().double()

        patch, wide = 4 * PATCH**2, 4 * WIDTH
        self.embed, self.out = linear(patch + CHANNELS, WIDTH), linear(WIDTH, patch)
        self.time = linear(256, WIDTH), linear(WIDTH, WIDTH)
        self.labels = torch.randn(5, WIDTH, generator=draws, dtype=torch.float64).float().double()
        names = {"q": (WIDTH, WIDTH), "kv": (WIDTH, 2 * WIDTH), "proj": (WIDTH, WIDTH)}
        names |= {"fc1": (WIDTH, wide), "fc2": (wide, WIDTH), "ada": (WIDTH, 6 * WIDTH)}
        self.blocks = [{n: linear(*size) for n, size in names.items()} for _ in range(2)]
        self.final = linear(WIDTH, 2 * WIDTH)
        self.head = linear(WIDTH, 24), linear(24, 24), linear(24, CHANNELS)
        self.places = SiT(CONFIG).pos_embed.double()

    def __call__(self, x, t, y, features):
        """Return the velocity, and what the head says about the features."""
        angles = t[:, None] * 10_000 ** (-torch.arange(128, dtype=torch.float64) / 128)
        waves = torch.cat([angles.cos(), angles.sin()], 1)
        first, second = self.time
        condition = F.linear(F.silu(F.linear(waves, *first)), *second) + self.labels[y]
        hidden = F.linear(torch.cat([unfolded(x), features], -1), *self.embed) + self.places
        for block in self.blocks:
            hidden = self.block(block, hidden, F.silu(condition))
        guess = hidden
        for layer in self.head[:-1]:
            guess = F.silu(F.linear(guess, *layer))
        shift, scale = F.linear(F.silu(condition), *self.final)[:, None].chunk(2, -1)
        last = F.linear(normed(hidden) * (1 + scale) + shift, *self.out)
        return folded(last), F.linear(guess, *self.head[-1])

    def block(self, block, x, condition):
        ada = F.linear(condition, *block["ada"])[:, None].chunk(6, -1)
        inner = normed(x) * (1 + ada[1]) + ada[0]
        q = heads(F.linear(inner, *block["q"]))
        k, v = (heads(part) for part in F.linear(inner, *block["kv"]).chunk(2, -1))
        weights = (q @ k.mT / math.sqrt(WIDTH // 4)).softmax(-1)
        x = x + ada[2] * F.linear((weights @ v).transpose(1, 2).flatten(2), *block["proj"])
        inner = F.linear(normed(x) * (1 + ada[4]) + ada[3], *block["fc1"])
        return x + ada[5] * F.linear(F.gelu(inner, approximate="tanh"), *block["fc2"])

    def state(self):
        """The weights under our names."""
        (weight, bias), (rows, shift) = self.embed, self.out
        patch = 4 * PATCH**2
        last = torch.arange(patch).view(4, PATCH, PATCH).permute(1, 2, 0).flatten()
        state = {
            "pos_embed": self.places,
            "x_embedder.proj.weight": weight[:, :patch].reshape(WIDTH, 4, PATCH, PATCH),
            "x_embedder.proj.bias": bias,
            "y_embedder.embedding_table.weight": self.labels,
            "guides.z.enter.weight": weight[:, patch:],
            "guides.z.enter.bias": torch.zeros(WIDTH),
            "guides.z.null": torch.zeros(CHANNELS),
        }
        parts = {"final_layer.linear": (rows[last], shift[last])}
        parts["final_layer.adaLN_modulation.1"] = self.final
        parts |= {f"t_embedder.mlp.{2 * i}": part for i, part in enumerate(self.time)}
        parts |= {f"guides.z.head.{2 * i}": part for i, part in enumerate(self.head)}
        ours = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
        ours |= {"ada": "adaLN_modulation.1"}
        for number, block in enumerate(self.blocks):
            parts |= {f"blocks.{number}.{new}": block[old] for old, new in ours.items()}
            qkv = [torch.cat(both) for both in zip(block["q"], block["kv"], strict=True)]
            parts[f"blocks.{number}.attn.qkv"] = tuple(qkv)
        for name, (weight, bias) in parts.items():
            state |= {f"{name}.weight": weight, f"{name}.bias": bias}
        return {name: value.float() for name, value in state.items()}


def normed(x):
    """LayerNorm without parameters, over the channels."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def features_of(z):
    """What enters: the features after torch's LayerNorm, whose eps is 1e-5."""
    return F.layer_norm(z, z.shape[-1:])


def heads(x):
    return x.unflatten(-1, (4, -1)).transpose(1, 2)


def unfolded(x):
    """[B, 4, 8, 8] -> [B, 16, 16], the channels of a patch first."""
    patches = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # [B, 4, rows, columns, 2, 2]
    return patches.permute(0, 2, 3, 1, 4, 5).reshape(len(x), TOKENS, -1)


def folded(tokens):
    """The inverse of unfolded."""
    patches = tokens.view(-1, 4, 4, 4, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(-1, 4, 8, 8)


@pytest.fixture(scope="module")
def forcing():
    """DINO Forcing, our net with its weights, and inputs of both."""
    theirs, net = DinoForcing(), SiT(CONFIG)
    settings = {"enter": "tokens", "norm": "sample", "loss": "cosine", "hidden": 24}
    config = GuideConfig("dino/tokens", when="start", read="mean", **settings)
    spec = check_guide("z", config, Field("tokens", "token", (TOKENS, CHANNELS)), net)
    guides = attach(net, {"z": spec})
    net.load_state_dict(theirs.state())
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(4, 4, 8, 8, generator=draws)
    z = 3 * torch.randn(4, TOKENS, CHANNELS, generator=draws) + 1
    inputs = {"x": x, "t": torch.tensor([0.03, 0.4, 0.6, 0.98]), "y": torch.tensor([0, 4, 2, 3])}
    return theirs, net.eval(), guides, inputs, z


@torch.no_grad()
def test_a_mean_that_is_added_to_the_tokens_is_dino_forcing(forcing):
    """The samples see their prediction, the truth, nothing, and their prediction."""
    theirs, net, guides, inputs, z = forcing
    true, keep = torch.tensor([0, 1, 0, 0]).bool(), torch.tensor([1, 1, 0, 1]).bool()
    (guide,) = guides.all()
    drawn = {"z": Drawn(guide.normed(z), keep, true, None, None)}
    one = Pass(net, guides, inputs, inputs["t"], None, drawn)
    v, states, terms = one.forward({2})

    x, t, y = inputs["x"].double(), inputs["t"].double(), inputs["y"]
    nothing = torch.zeros(4, TOKENS, CHANNELS, dtype=torch.float64)
    guess = theirs(x, t, y, nothing)[1]
    entered = features_of(torch.where(true[:, None, None], z.double(), guess))
    velocity, second = theirs(x, t, y, entered * keep[:, None, None])
    close(v, velocity)
    close(guide.predicted(states, None), second)
    cosine = F.cosine_similarity(second, features_of(z.double()), dim=-1).mean(1)
    close(terms.losses["z"], -cosine)  # of the second pass
    assert (velocity - theirs(x, t, y, nothing)[0])[keep].abs().amax((1, 2, 3)).min() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_euler_steps_are_those_of_dino_forcing(forcing, scale):
    """The labelled and the unlabelled half have predictions of their own, each one step late."""
    theirs, net, guides, inputs, _ = forcing
    labels, steps = torch.tensor([0, 1, 2, 3]), 4
    options = SimpleNamespace(
        sampler="euler", steps=steps, guidance=Guidance(scale), z=Steer(), seed=0
    )
    request = Request(labels, 4, options, range(4), get_path("linear"))
    ours, drawn = drawn_with_guides(net, guides, request, lambda step: inputs["x"])

    x = inputs["x"].double()
    seen = {y: torch.zeros(4, TOKENS, CHANNELS, dtype=torch.float64) for y in ("label", "none")}
    for step in range(steps):
        t = torch.full((4,), 1 - step / steps, dtype=torch.float64)
        v, guess = theirs(x, t, labels, seen["label"])
        v_none, guess_none = theirs(x, t, torch.full_like(labels, 4), seen["none"])
        seen = {"label": features_of(guess), "none": features_of(guess_none)}
        x = x - (v_none + scale * (v - v_none)) / steps
    close(ours, x, 2e-5)  # four steps, and the guidance, each add to the rounding
    close(torch.from_numpy(drawn["z/z"]), seen["label"], 1e-4)  # the last prediction
