"""Embeddings of any timm model as a feature space."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from reed import weights as files
from reed.errors import ReedError
from reed.metrics import FEATURES, rgb, unfit
from reed.metrics.image_set import ImageSet
from reed.precision import computing
from reed.state_dict import fill, for_timm
from reed.weights import Found, Origin

if TYPE_CHECKING:
    import torch

OFFSET = 0.1  # tokens that the code of DINOv2 adds to the wanted side of the position embedding


def hub_positions(positions: torch.Tensor, side: int) -> torch.Tensor:
    """Resample a position embedding as the code of DINOv2 on torch.hub does.

    It interpolates bicubically without antialiasing. Its scale factor is that of ``side + 0.1``
    tokens, which was meant against rounding, and which moves the points that are read.

    Args:
        positions: Embedding of the class token and of M * M patches, [1, 1 + M * M, C].
        side: Tokens per side that are wanted.

    Returns:
        float32 [1, 1 + side * side, C].
    """
    import torch
    from torch.nn import functional

    prefix, patches = positions[:, :1].float(), positions[:, 1:].float()
    trained = round(patches.shape[1] ** 0.5)
    if trained == side:
        return positions.float()

    square = patches.reshape(1, trained, trained, -1).permute(0, 3, 1, 2)  # [1, C, M, M]
    scale = (side + OFFSET) / trained
    resampled = functional.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([prefix, resampled.flatten(2).transpose(1, 2)], dim=1)


RESAMPLINGS = {"hub_positions": hub_positions}  # names are written to records


class TimmSpace:
    """The embedding of one timm model before its classifier.

    Images are resized to the model's size with antialiasing, in the interpolation that the model
    was trained with, and normalised by the model's own mean and standard deviation. Nothing is
    cropped.

    Args:
        name: Name of the space, for messages.
        model: Name of the model in timm.
        weights: A weights file; None for the public weights.
        precision: ``fp32``, ``tf32`` or ``bf16``.
        size: Height and width of the input in pixels; 0 for the model's own.
        head: Whether to keep the head, which in CLIP is the projection to the space shared with
            text.
        positions: Key of RESAMPLINGS, which resamples the position embedding; empty for timm's own
            way, which antialiases.
    """

    outputs = ("embedding",)

    def __init__(
        self,
        name: str,
        model: str,
        weights: str | None = None,
        precision: str = "fp32",
        *,
        size: int = 0,
        head: bool = False,
        positions: str = "",
    ) -> None:
        self._positions = positions
        self._name, self._weights, self._precision = name, weights, precision
        timm, torch = (files.library(lib, f"{name}", "eval") for lib in ("timm", "torch"))

        # On the device "meta" the model takes no memory, and its settings can still be read.
        more: dict[str, Any] = {} if head else {"num_classes": 0}
        self._create = partial(timm.create_model, model, pretrained=False, **more)
        try:
            with torch.device("meta"):
                settings = self._create().pretrained_cfg
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            near = ", ".join(timm.list_pretrained(f"{model.split('.')[0]}*")[:8])
            hint = f"see {near or 'timm.list_models()'}"
            raise ReedError(f"cannot make the timm model {model!r}: {reason}; {hint}") from error

        self._size = size or settings["input_size"][-1]
        self._mode = settings["interpolation"]
        self._mean, self._std = settings["mean"], settings["std"]
        repo, url = settings.get("hf_hub_id") or "", settings.get("url") or ""
        self._origin = Origin(repo, url=url, option=f"--weights {name}=FILE")

    def revision(self) -> str:
        positions = f"{self._positions} " if self._positions else ""
        return (
            f"sha256:{self._found().sha256} {self._create.args[0]} {self._size}px "
            f"{self._mode}-antialias {positions}{self._precision} timm-{version('timm')}"
        )

    def _found(self) -> Found:
        return files.find(self._name, self._origin, self._weights)

    def lacks(self, real: ImageSet) -> str:
        """Return why the space cannot be used: it needs weights, and one or three channels."""
        has_weights = files.is_here(self._origin, self._weights)
        return unfit(real) or ("" if has_weights else f"no weights ({self._origin.option})")

    def load(self, device: str, real: ImageSet) -> None:
        path = self._found().files[0]
        model = self._create()
        state = for_timm(model, files.read(path))
        fill(model, state, f"{self._name}: {path}")
        model.requires_grad_(False)

        # Setting the size resamples the position embedding, so the trained one is kept first.
        trained = getattr(model, "pos_embed", None)
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=(self._size, self._size))
        if self._positions:
            assert trained is not None, f"{self._name} has no position embedding"
            resample = RESAMPLINGS[self._positions]
            model.pos_embed.data = resample(trained, model.patch_embed.grid_size[0])
        self._model, self._device = model.requires_grad_(False).eval().to(device), device

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        pixels = torch.from_numpy(rgb(images)).to(self._device)
        with computing(self._device, "fp32"):
            x = self._preprocess(pixels)
        with computing(self._device, self._precision):
            return {"embedding": self._model(x).float().cpu().numpy()}

    def _preprocess(self, pixels: Any) -> Any:
        """Convert uint8 [B, 3, H, W] to float32 [B, 3, size, size]."""
        from torch.nn import functional

        x = pixels.float() / 255
        if x.shape[-2:] != (self._size, self._size):
            x = functional.interpolate(
                x, (self._size, self._size), mode=self._mode, align_corners=False, antialias=True
            )
        mean, std = (x.new_tensor(values)[:, None, None] for values in (self._mean, self._std))
        return (x - mean) / std


def of_timm(name: str) -> partial[TimmSpace]:
    """Return a callable that makes the space "timm:NAME"."""
    return partial(TimmSpace, f"timm:{name}", name)


FEATURES.prefixes["timm"] = of_timm
# 224 pixels and the model on torch.hub, as in dgm-eval (Stein et al., arXiv 2306.04675) and EDM2
# (Karras et al., arXiv 2312.02696)
FEATURES.register("dinov2-l")(
    partial(
        TimmSpace,
        "dinov2-l",
        "vit_large_patch14_dinov2.lvd142m",
        size=224,
        positions="hub_positions",
    )
)
# OpenAI trained with the quick form of GELU. As in CMMD (Jayasumana et al., arXiv 2401.09603)
FEATURES.register("clip-l-336")(
    partial(TimmSpace, "clip-l-336", "vit_large_patch14_clip_quickgelu_336.openai", head=True)
)
