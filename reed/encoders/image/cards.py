"""Facts about each vision encoder that are known without its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

from reed.encoders.image.preprocess import HALF, IMAGENET, OPENAI, Preprocess
from reed.weights import Origin


@dataclass(frozen=True)
class Card:
    """One public vision encoder.

    Attributes:
        name: Name in the registry.
        model: Model name for ``timm.create_model``.
        origin: Location of the public weights.
        preprocess: Normalisation and resizing of the input.
        dim: Channels of a token of the model's output.
        patch: Input pixels per token and side, of the model's output.
        licence: Licence of the weights.
        pooled: Whether the vector per image is the model's own pooling, because it has no class
            token.
        arguments: Further arguments of ``timm.create_model``.
        stages: (dim, patch) of each layer, for models in which one differs from the output.
        convert: Format of the weights file: ``timm``, ``mocov3``, or for files of transformers,
            which are read beside timm's, ``dinov3`` or ``siglip``.
        vector: Channels of the vector per image; 0 for those of a token.
        native: Input pixels and tokens per side of a model that runs at one size alone.
    """

    name: str
    model: str
    origin: Origin
    preprocess: Preprocess
    dim: int
    patch: int
    licence: str
    pooled: bool = False
    arguments: tuple[tuple[str, int], ...] = ()
    stages: tuple[tuple[int, int], ...] = ()
    convert: str = "timm"
    vector: int = 0
    native: tuple[int, int] | None = None


FACEBOOK = "https://dl.fbaipublicfiles.com"
REPA = Preprocess(*IMAGENET, order="normalise-resize")
SIZES = {"s": ("small", 384), "b": ("base", 768), "l": ("large", 1024), "g": ("giant", 1536)}


def _on_timm(model: str) -> Origin:
    return Origin(f"timm/{model}")


def _dinov2(size: str, registers: bool) -> Card:
    """Return the card of a DINOv2 (Oquab et al., 2023; with registers, Darcet et al., 2023)."""
    (word, dim), reg = SIZES[size], "_reg4" if registers else ""
    model = f"vit_{word}_patch14{reg}_dinov2.lvd142m"
    name = f"dinov2{'-reg' if registers else ''}-{size}"
    return Card(name, model, _on_timm(model), REPA, dim, 14, "Apache-2.0")


def _dinov3(name: str, word: str, dim: int) -> Card:
    """Return the card of a DINOv3 (Siméoni et al., 2025)."""
    model = f"vit_{word}_patch16_dinov3.lvd1689m"
    resize = Preprocess(*IMAGENET, order="antialias-normalise")
    origin = _on_timm(model)
    return Card(f"dinov3-{name}", model, origin, resize, dim, 16, "DINOv3", convert="dinov3")


def _dinov3_convnext(size: str) -> Card:
    """Return the card of a ConvNeXt that was distilled from DINOv3."""
    word, first = {"t": ("tiny", 96), "s": ("small", 96), "b": ("base", 128), "l": ("large", 192)}[
        size
    ]
    model, resize = f"convnext_{word}.dinov3_lvd1689m", Preprocess(*IMAGENET, "antialias-normalise")
    stages = tuple((first << stage, 4 << stage) for stage in range(4))
    name, origin, dim = f"dinov3-convnext-{size}", _on_timm(model), first << 3
    return Card(name, model, origin, resize, dim, 32, "DINOv3", pooled=True, stages=stages)


def _pe(kind: str, size: str) -> Card:
    """Return the card of a Perception Encoder (Bolya et al., 2025)."""
    word, dim, patch = {
        "b": ("base", 768, 16),
        "l": ("large", 1024, 14),
        "g": ("gigantic", 1536, 14),
    }[size]
    side = {"core": {"b": 224, "l": 336, "g": 448}, "spatial": {"b": 512, "l": 448, "g": 448}}
    model = f"vit_pe_{kind}_{word}_patch{patch}_{side[kind][size]}.fb"
    resize = Preprocess(*HALF, order="antialias-normalise")
    name, origin, pooled = f"pe-{kind}-{size}", _on_timm(model), size == "g"  # no class token
    return Card(name, model, origin, resize, dim, patch, "Apache-2.0", pooled=pooled)


def _mocov3(size: str) -> Card:
    """Return the card of a MoCo v3 (Chen et al., 2021).

    The large model is that of RCG (Li et al., 2023), which REPA uses. timm has no MoCo v3, but its
    ViT has the same parameters under the same names. The files also hold the position embedding,
    which is a fixed table of sines in MoCo v3.
    """
    word, dim = SIZES[size]
    urls = {
        "s": f"{FACEBOOK}/moco-v3/vit-s-300ep/vit-s-300ep.pth.tar",
        "b": f"{FACEBOOK}/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar",
        "l": "mocov3_vitl.pth (linked from https://github.com/LTH14/rcg)",
    }

    # The small model has 12 heads, where timm's small ViT has 6.
    return Card(
        f"mocov3-{size}",
        f"vit_{word}_patch16_224",
        Origin(url=urls[size]),
        REPA,
        dim,
        16,
        "CC-BY-NC-4.0",
        arguments=(("num_heads", 12),) if size == "s" else (),
        convert="mocov3",
    )


def _others() -> list[Card]:
    """Return the cards of CLIP, SigLIP 2, MAE, I-JEPA and ConvNeXt."""
    clip = Preprocess(*OPENAI, order="resize-normalise")
    siglip = Preprocess(*HALF, order="antialias-normalise")
    timm = Preprocess(*IMAGENET, order="antialias-normalise")

    cards = [
        # OpenAI trained with the quick form of GELU; timm publishes the file under the other name.
        Card(
            "clip-l",
            "vit_large_patch14_clip_quickgelu_224.openai",
            _on_timm("vit_large_patch14_clip_224.openai"),
            clip,
            1024,
            14,
            "MIT",
        ),
        Card(
            "ijepa-h",
            "vit_huge_patch14_gap_224.in1k_ijepa",
            Origin(url=f"{FACEBOOK}/ijepa/IN1K-vit.h.14-300e.pth.tar"),
            REPA,
            1280,
            14,
            "CC-BY-NC-4.0",
            pooled=True,
        ),
        Card(
            "convnext-b",
            "convnext_base.fb_in22k",
            _on_timm("convnext_base.fb_in22k"),
            timm,
            1024,
            32,
            "Apache-2.0",
            pooled=True,
            stages=((128, 4), (256, 8), (512, 16), (1024, 32)),
        ),
    ]

    # These families differ in size alone.
    for name, dim, word in (
        ("b", 768, "base"),
        ("l", 1024, "large"),
        ("so400m", 1152, "so400m"),
        ("g", 1536, "giantopt"),
    ):
        model, name = f"vit_{word}_patch16_siglip_256.v2_webli", f"siglip2-{name}"
        card = Card(name, model, _on_timm(model), siglip, dim, 16, "Apache-2.0", pooled=True)
        cards.append(replace(card, convert="siglip"))
    for size in "bl":
        model = f"vit_{SIZES[size][0]}_patch16_224.mae"
        origin, dim = _on_timm(model), SIZES[size][1]
        cards.append(Card(f"mae-{size}", model, origin, REPA, dim, 16, "CC-BY-NC-4.0"))
    return cards


CARDS = (
    *(_dinov2(size, registers) for registers in (False, True) for size in "sblg"),
    *(_dinov3(size, *SIZES[size]) for size in "sbl"),
    _dinov3("s-plus", "small_plus", 384),
    _dinov3("h-plus", "huge_plus", 1280),
    _dinov3("7b", "7b", 4096),
    *(_dinov3_convnext(size) for size in "tsbl"),
    *(_pe(kind, size) for kind in ("core", "spatial") for size in "blg"),
    *(_mocov3(size) for size in "sbl"),
    *_others(),
)
