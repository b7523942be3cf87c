"""SiT: DiT's transformer, trained as a flow, with the state-dict keys of REPA and REED."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reed.errors import ReedError, at_least, suggest
from reed.nets import ENTERS, FINAL, Extra, Net, Tap
from reed.nets.layers import Attention, Mlp, TimestepEmbedder, init_linear, sincos_2d

SIZES = {  # hidden size, depth, heads; DiT (arXiv 2212.09748), table 1
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}
PATCH_SIZES = (2, 4, 8)


@dataclass(frozen=True)
class SiTConfig:
    """The sizes of a SiT; the defaults are SiT-XL/2 on 32x32x4 latents of ImageNet.

    Attributes:
        input_size: Height and width of the input in latent pixels; a multiple of patch_size.
        patch_size: Height and width of a patch in latent pixels.
        in_channels: Channels of the input.
        hidden_size: Channels of a token; a multiple of num_heads and of 4.
        depth: Number of blocks.
        num_heads: Heads of attention.
        mlp_ratio: Hidden width of the MLPs divided by hidden_size.
        num_classes: Number of labels.
        null_class: Whether there is a label num_classes, which means "no label", for
            classifier-free guidance.
        qk_norm: Whether queries and keys are normalised.
    """

    input_size: int = 32
    patch_size: int = 2
    in_channels: int = 4
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    null_class: bool = True
    qk_norm: bool = False

    def __post_init__(self) -> None:
        sizes = "input_size patch_size in_channels hidden_size depth num_heads num_classes"
        at_least(1, "net: ", **{name: getattr(self, name) for name in sizes.split()})
        if not self.mlp_ratio > 0:
            raise ReedError(f"net: mlp_ratio is {self.mlp_ratio}, it must be positive")
        self._check_multiple("input_size", "patch_size", self.patch_size)
        self._check_multiple("hidden_size", "num_heads", self.num_heads)
        # two axes, each with sines and cosines
        self._check_multiple("hidden_size", "the position embedding", 4)

    def _check_multiple(self, name: str, reason: str, divisor: int) -> None:
        value = getattr(self, name)
        if value % divisor:
            raise ReedError(
                f"net: {name} {value} is not a multiple of {divisor} ({reason}); "
                f"the next one is {value + divisor - value % divisor}"
            )

    @property
    def tokens(self) -> int:
        """Tokens of a sample: (input_size / patch_size) squared."""
        return (self.input_size // self.patch_size) ** 2


def sit_names() -> list[str]:
    """Return the names of the published sizes, such as "SiT-XL/2"."""
    return [f"SiT-{size}/{patch}" for size in SIZES for patch in PATCH_SIZES]


def sit_config(name: str) -> SiTConfig:
    """Return the configuration of a published size, such as "SiT-XL/2".

    Raises:
        ReedError: There is no such size; the message suggests the nearest name.
    """
    if name not in sit_names():
        raise ReedError(f"net: unknown SiT {name!r}.{suggest(name, sit_names())}")
    size, patch = name.removeprefix("SiT-").split("/")
    hidden, depth, heads = SIZES[size]
    return SiTConfig(patch_size=int(patch), hidden_size=hidden, depth=depth, num_heads=heads)


class _PatchEmbedder(nn.Module):
    """Embedding of patches, row by row, [B, C, H, W] -> [B, T, D]. Key: proj."""

    def __init__(self, config: SiTConfig) -> None:
        super().__init__()
        patch = config.patch_size
        self.proj = nn.Conv2d(config.in_channels, config.hidden_size, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class _LabelEmbedder(nn.Module):
    """Embedding of labels, int64 [B] -> [B, D]. Key: embedding_table."""

    def __init__(self, config: SiTConfig) -> None:
        super().__init__()
        rows = config.num_classes + config.null_class
        self.embedding_table = nn.Embedding(rows, config.hidden_size)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift x [B, T, D] per sample by [B, D]."""
    return x * (1 + scale[:, None]) + shift[:, None]


class _Block(nn.Module):
    """A block of attention and MLP, each modulated and gated by the condition (adaLN-Zero).

    Source: DiT (arXiv 2212.09748), section 3.2 and figure 3. Keys: attn, mlp, adaLN_modulation.
    """

    def __init__(self, config: SiTConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(dim, config.num_heads, config.qk_norm)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        modulation = self.adaLN_modulation(condition)  # [B, 6D]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=1)
        x = x + gate1[:, None] * self.attn(_modulate(self.norm1(x), shift1, scale1))
        return x + gate2[:, None] * self.mlp(_modulate(self.norm2(x), shift2, scale2))


class _FinalLayer(nn.Module):
    """The output layer, [B, T, D] -> [B, T, p*p*C], channel last.

    Keys: linear, adaLN_modulation.
    """

    def __init__(self, config: SiTConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.norm_final = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(dim, config.patch_size**2 * config.in_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.linear(self.modulated(x, condition))

    def modulated(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the states that the linear layer reads, [B, T, D]."""
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=1)
        return _modulate(self.norm_final(x), shift, scale)


class SiT(Net):
    """SiT: a noised image and a class label -> the velocity of the flow.

    Keys and shapes are those of the public REPA and REED checkpoints without their projectors. The
    net does not drop labels: the caller replaces them by num_classes. Sources: SiT (arXiv
    2401.08740), DiT (arXiv 2212.09748), REPA (arXiv 2410.06940).
    """

    enters, beside = ENTERS, "ahead"

    def __init__(self, config: SiTConfig) -> None:
        super().__init__()
        self.config = config
        # A parameter, not a buffer, because the public checkpoints and their averages have it.
        self.pos_embed = nn.Parameter(
            torch.empty(1, config.tokens, config.hidden_size), requires_grad=False
        )
        self.x_embedder = _PatchEmbedder(config)
        self.t_embedder = TimestepEmbedder(config.hidden_size)
        self.y_embedder = _LabelEmbedder(config)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.final_layer = _FinalLayer(config)
        self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        """Initialise every block as the identity and the output as zero (adaLN-Zero; DiT, 3.2)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module)

        config = self.config
        grid = config.input_size // config.patch_size
        self.pos_embed.copy_(sincos_2d(grid, config.hidden_size)[None])
        # The convolution is a linear layer on patches, and is initialised as such.
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.view(config.hidden_size, -1))
        assert self.x_embedder.proj.bias is not None
        nn.init.zeros_(self.x_embedder.proj.bias)
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        for layer in self.t_embedder.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)

        for module in self.modules():
            if isinstance(module, _Block | _FinalLayer):
                last = module.adaLN_modulation[1]
                assert isinstance(last, nn.Linear)
                nn.init.zeros_(last.weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def taps(self) -> list[Tap]:
        """Return one tap for each block."""
        return [Tap(self.config.hidden_size, self.config.tokens)] * self.config.depth

    def repeated(self) -> list[nn.Module]:
        """Return the modules that torch.compile compiles one by one; equal ones share a graph."""
        return [*self.blocks, self.final_layer]

    @property
    def widths(self) -> tuple[int, int]:
        """Channels of what enters, and of the embedding of a label."""
        return self.config.hidden_size, self.config.hidden_size

    def given(self, **inputs: Tensor) -> Tensor:
        """Return the embeddings of the labels `y`, [B, D]."""
        return self.y_embedder(inputs["y"])

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        taps: Sequence[int] = (),
        extra: Extra | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the velocity [B, C, H, W], and tap -> token states [B, T, D], row by row.

        Args:
            x: Noised images, [B, C, H, W].
            t: Times, float [B]; 0 is data and 1 is noise.
            y: Labels, int64 [B]; num_classes means no label.
            taps: Blocks whose token states are returned, counted from 1; FINAL for the states
                that the output layer reads, which begin with the n tokens of `extra`.
            extra: What guides add; tokens of it are not among the states at the blocks.

        Raises:
            ReedError: A tap is not a block, or x has another shape.
        """
        self._check(x, taps)
        tokens = self.x_embedder(x) + self.pos_embed  # [B, T, D]
        condition = self.t_embedder(t) + self.y_embedder(y)  # [B, D]
        before = 0
        if extra is not None:
            tokens, condition = _entered(tokens, condition, extra)
            before = tokens.shape[1] - self.config.tokens

        states = {}
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens, condition)
            if number in taps:
                states[number] = tokens[:, before:]
        if FINAL in taps:
            states[FINAL] = self.final_layer.modulated(tokens, condition)
            patches = self.final_layer.linear(states[FINAL])
        else:
            patches = self.final_layer(tokens, condition)
        return self._unpatchify(patches[:, before:]), states

    def _check(self, x: Tensor, taps: Sequence[int]) -> None:
        """Check the shape of x, and that the taps are blocks of this net."""
        config = self.config
        for tap in taps:
            if tap != FINAL and not 1 <= tap <= config.depth:
                raise ReedError(
                    f"tap {tap} is not a block of this net: its depth is {config.depth}, "
                    f"so use 1 to {config.depth}"
                )
        expected = (config.in_channels, config.input_size, config.input_size)
        if tuple(x.shape[1:]) != expected:
            raise ReedError(
                f"the net takes samples of shape {list(expected)} but got "
                f"{list(x.shape[1:])}; set the net's in_channels and input_size to match the data"
            )

    def _unpatchify(self, patches: Tensor) -> Tensor:
        """Put patches together, [B, T, p*p*C], channel last -> [B, C, H, W]."""
        config = self.config
        size, p = config.input_size, config.patch_size
        grid = size // p
        patches = patches.reshape(-1, grid, grid, p, p, config.in_channels)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, config.in_channels, size, size)


def _entered(tokens: Tensor, condition: Tensor, extra: Extra) -> tuple[Tensor, Tensor]:
    """Add what guides give to the tokens [B, T, D] and to the condition [B, D]."""
    if extra.tokens is not None:
        tokens = tokens + extra.tokens
    if extra.token is not None:
        tokens = torch.cat([extra.token.to(tokens.dtype), tokens], 1)
    if extra.vector is not None:
        condition = condition + extra.vector
    return tokens, condition
