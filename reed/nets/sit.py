"""SiT: DiT's transformer, trained as a flow, with the state-dict keys of REPA and REED."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reed.errors import ReedError, at_least, suggest
from reed.nets import ENTERS, FINAL, Extra, Net, Tap
from reed.nets.layers import (
    Attention,
    Mlp,
    RmsNorm,
    SwiGlu,
    TimestepEmbedder,
    init_linear,
    rotation_2d,
    sincos_2d,
)

SIZES = {  # hidden size, depth, heads; DiT (arXiv 2212.09748), table 1
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}
PATCH_SIZES = (2, 4, 8)
OWN = ("norm", "mlp", "rope", "class_tokens")  # settings of nets that no SiT or REPA has
NORMS, MLPS = ("layer", "rms"), ("gelu", "swiglu")


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
        norm: "layer": LayerNorm without weights; or "rms": RMSNorm with weights, also for qk_norm.
        mlp: "gelu", or "swiglu" with as many parameters.
        rope: Whether queries and keys are also turned by the row and the column of their token.
        class_tokens: Tokens of the label that the net has beside the others; 0 for none.
        class_tokens_after: Blocks before the class tokens come in.
        checkpoint_blocks: Whether training keeps only the inputs of blocks and computes the rest
            again in the backward pass.
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
    norm: str = "layer"
    mlp: str = "gelu"
    rope: bool = False
    class_tokens: int = 0
    class_tokens_after: int = 0
    checkpoint_blocks: bool = False

    def __post_init__(self) -> None:
        sizes = "input_size patch_size in_channels hidden_size depth num_heads num_classes"
        at_least(1, "net: ", **{name: getattr(self, name) for name in sizes.split()})
        if not self.mlp_ratio > 0:
            raise ReedError(f"net: mlp_ratio is {self.mlp_ratio}, it must be positive")
        self._check_multiple("input_size", "patch_size", self.patch_size)
        self._check_multiple("hidden_size", "num_heads", self.num_heads)
        # two axes, each with sines and cosines
        self._check_multiple("hidden_size", "the position embedding", 4)
        self._check_parts()

    def _check_parts(self) -> None:
        for name, known in (("norm", NORMS), ("mlp", MLPS)):
            if (value := getattr(self, name)) not in known:
                raise ReedError(f"net: {name} is {value!r}, not one of {known}")
        if self.rope and (width := self.hidden_size // self.num_heads) % 4:
            raise ReedError(
                f"net: rope turns pairs of channels along two axes, and {self.num_heads} heads of "
                f"hidden_size {self.hidden_size} have {width} channels; use a multiple of 4"
            )
        after = self.class_tokens_after
        at_least(0, "net: ", class_tokens=self.class_tokens, class_tokens_after=after)
        if after and (not self.class_tokens or after >= self.depth):
            raise ReedError(
                f"net: class_tokens_after is {after}, with {self.class_tokens} class_tokens and "
                f"{self.depth} blocks; it must leave a block, and needs class_tokens"
            )

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


def _norm(config: SiTConfig) -> nn.Module:
    """Return the norm over the channels of a token, before its modulation."""
    if config.norm == "rms":
        return RmsNorm(config.hidden_size, eps=1e-6)
    return nn.LayerNorm(config.hidden_size, elementwise_affine=False, eps=1e-6)


class _Block(nn.Module):
    """A block of attention and MLP, each modulated and gated by the condition (adaLN-Zero).

    Source: DiT (arXiv 2212.09748), section 3.2 and figure 3. Keys: attn, mlp, adaLN_modulation.
    """

    def __init__(self, config: SiTConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.norm1 = _norm(config)
        self.attn = Attention(dim, config.num_heads, config.qk_norm, rms=config.norm == "rms")
        self.norm2 = _norm(config)
        mlp = SwiGlu if config.mlp == "swiglu" else Mlp
        self.mlp = mlp(dim, int(dim * config.mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, condition: Tensor, rotation: Tensor | None = None) -> Tensor:
        modulation = self.adaLN_modulation(condition)  # [B, 6D]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=1)
        mixed = self.attn(_modulate(self.norm1(x), shift1, scale1), rotation)
        x = x + gate1[:, None] * mixed
        return x + gate2[:, None] * self.mlp(_modulate(self.norm2(x), shift2, scale2))


class _FinalLayer(nn.Module):
    """The output layer, [B, T, D] -> [B, T, p*p*C], channel last.

    Keys: linear, adaLN_modulation.
    """

    def __init__(self, config: SiTConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.norm_final = _norm(config)
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
        if config.class_tokens:
            places = torch.empty(1, config.class_tokens, config.hidden_size)
            self.class_places = nn.Parameter(places)  # told apart by what is added to the label
        self._initialize()

        # Not among the weights, because it follows from the sizes.
        self.rotation: Tensor | None
        turns = None
        if config.rope:
            grid = config.input_size // config.patch_size
            turns = rotation_2d(grid, config.hidden_size // config.num_heads)
        self.register_buffer("rotation", turns, persistent=False)

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
        if config.class_tokens:
            nn.init.normal_(self.class_places, std=0.02)

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

    def given(self, **inputs: Any) -> Tensor:
        """Return the embeddings of the labels, [B, D]."""
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
        given = self.y_embedder(y)
        condition = self.t_embedder(t) + given  # [B, D]
        before, classes = 0, self.config.class_tokens
        if extra is not None:
            tokens, condition = _entered(tokens, condition, extra)
            before = tokens.shape[1] - self.config.tokens

        # Tokens before those of the grid have no place on it, and are not turned.
        states, rotation = {}, _unturned(self.rotation, before)
        for number, block in enumerate(self.blocks, start=1):
            if classes and number == self.config.class_tokens_after + 1:
                tokens = torch.cat([given[:, None] + self.class_places, tokens], 1)
                before, rotation = before + classes, _unturned(rotation, classes)
            tokens = self._through(block, tokens, condition, rotation)
            if number in taps:
                states[number] = tokens[:, before:]
        if classes:
            tokens, before = tokens[:, classes:], before - classes
        if FINAL in taps:
            states[FINAL] = self.final_layer.modulated(tokens, condition)
            patches = self.final_layer.linear(states[FINAL])
        else:
            patches = self.final_layer(tokens, condition)
        return self._unpatchify(patches[:, before:]), states

    def _through(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        """Return what a block gives; nothing in it is random."""
        if self.config.checkpoint_blocks and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
        return block(*inputs)

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


def _unturned(rotation: Tensor | None, number: int) -> Tensor | None:
    """Return the rotation [2, T, C] with tokens before it that are not turned, [2, n + T, C]."""
    if rotation is None or not number:
        return rotation
    still = rotation.new_zeros(2, number, rotation.shape[-1])
    still[0] = 1
    return torch.cat([still, rotation], 1)


def _entered(tokens: Tensor, condition: Tensor, extra: Extra) -> tuple[Tensor, Tensor]:
    """Add what guides give to the tokens [B, T, D] and to the condition [B, D]."""
    if extra.tokens is not None:
        tokens = tokens + extra.tokens
    if extra.token is not None:
        tokens = torch.cat([extra.token.to(tokens.dtype), tokens], 1)
    if extra.vector is not None:
        condition = condition + extra.vector
    return tokens, condition
