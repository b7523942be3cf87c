"""Image models of transformers: their vision tower, and where its tokens are."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reed import weights as files
from reed.encoders import pretrained as pre
from reed.encoders.image.timm_models import GRID, one_line
from reed.errors import ReedError

if TYPE_CHECKING:
    import torch

# Where models of images and text keep the part that reads images.
TOWERS = ("vision_model", "vision_tower", "visual", "vision_encoder", "image_model", "image_tower")
# Parameters that are a class token, under the names that the families use.
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
MAPS = ((1, 2, 3), (3, 1, 2))  # axes of the channels, rows and columns of a map of features
ROUND = 512  # pixels; some models state a size that is no multiple of their patches


@dataclass(frozen=True)
class Layout:
    """Where the tokens of the patches are in what a model returns.

    Attributes:
        own: Pixels per side that the model was made for.
        patch: Pixels per token and side; 0 for a model of one size alone.
        grid: Tokens per side.
        dim: Channels of a token.
        prefix: Class and register tokens before those of the patches.
        axis: Axis of the channels: 1 or 3 of a map of features, 2 of a list of tokens.
        is_class: Whether the first token is a class token.
    """

    own: int
    patch: int
    grid: int
    dim: int
    prefix: int = 0
    axis: int = 2
    is_class: bool = False

    @property
    def size(self) -> int:
        """Pixels per side of the model's input."""
        return self.grid * self.patch if self.patch else self.own

    def tokens(self, last: torch.Tensor) -> torch.Tensor:
        """Return the tokens of the patches, [B, T, dim], row by row."""
        if self.axis == 1:
            return last.flatten(2).transpose(1, 2)
        return last.flatten(1, 2) if self.axis == 3 else last[:, self.prefix :]


def tower_of(model: Any) -> Any:
    """Return the part of a model that reads images; a model of images alone is that part."""
    for name, part in model.named_modules():
        if name.rpartition(".")[2] in TOWERS and hasattr(part, "config"):
            model = part
            break

    # Masked autoencoders hide patches in inference, too, unless none are to be hidden.
    if hasattr(model.config, "mask_ratio"):
        model.config.mask_ratio = 0.0
    model.config.return_dict = True
    return model


def on_meta(folder: Path) -> Any:
    """Make the vision tower that config.json describes, on the device "meta".

    Raises:
        ReedError: transformers has no such model.
    """
    import torch

    config = pre.open_part("AutoConfig", folder)
    if config.model_type == "timm_wrapper":
        model = f"{folder} holds a model of timm"
        raise ReedError(f"{model}; use --encoder timm:{config.architecture} with that folder")
    auto = files.library("transformers").AutoModel
    try:
        with torch.device("meta"):
            model = auto.from_config(config, dtype=torch.float32)
    except Exception as error:  # each family has its own checks of its settings
        problem = f"transformers makes no model of {folder / 'config.json'}: {one_line(error)}"
        raise ReedError(f"{problem}; choose another model") from error
    return tower_of(model.eval())


def own_size(model: Any, processor: Any) -> int:
    """Return the pixels per side that a model was made for.

    It is that of its positions where it has some, else what its processor makes; ROUND for a model
    of any size whose processor makes any.
    """
    crop = getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None)
    for said in (getattr(model.config, "image_size", None), crop, getattr(processor, "size", None)):
        sides = [said] if isinstance(said, int) else said
        if not isinstance(sides, (list, tuple)):
            sides = [getattr(said, name, None) for name in ("height", "shortest_edge")]
        if found := [side for side in sides if side]:
            return int(found[-1])
    return ROUND


def outputs(model: Any, x: torch.Tensor, own: int) -> Mapping[str, Any]:
    """Return what a vision tower gives for images [B, 3, S, S] of any size that it takes.

    Args:
        model: The tower.
        x: Images, rescaled and normalised.
        own: Size that it was made for; for others, positions are interpolated.

    Raises:
        ReedError: It has no last hidden state.
    """
    import torch

    takes = inspect.signature(model.forward).parameters
    more: dict[str, Any] = {}
    if "interpolate_pos_encoding" in takes and x.shape[-1] != own:
        more["interpolate_pos_encoding"] = True

    # A masked autoencoder sorts the tokens by this noise.
    if "noise" in takes and isinstance(patch := getattr(model.config, "patch_size", None), int):
        count = (x.shape[-1] // patch) ** 2
        noise = torch.arange(count, dtype=torch.float32, device=x.device)
        more["noise"] = noise.expand(len(x), count)

    found = model(pixel_values=x, **more)
    if not isinstance(found, Mapping) or found.get("last_hidden_state") is None:
        raise ReedError(f"its {type(found).__name__} has no last_hidden_state")
    return found


def features(
    model: Any, x: torch.Tensor, layout: Layout, *, pools: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the patch tokens [B, T, dim] and one vector per image [B, D'].

    Args:
        model: A vision tower.
        x: Images [B, 3, S, S], rescaled and normalised.
        layout: Where its tokens are.
        pools: Whether the model's own pooling is used, where there is no class token.
    """
    found = outputs(model, x, layout.own)
    last = found["last_hidden_state"]
    tokens = layout.tokens(last)
    if layout.is_class:
        return tokens, last[:, 0]

    # Some models pool to a map of one pixel, and some to several vectors per image.
    pooled = found.get("pooler_output") if pools else None
    if pooled is not None and pooled.numel() == len(x) * pooled.shape[1]:
        return tokens, pooled.flatten(1)
    return tokens, tokens.mean(1)


def layout_of(model: Any, own: int, grid: int) -> Layout:
    """Find where the tokens are in what a model on "meta" returns.

    Args:
        model: A vision tower.
        own: Pixels per side that it was made for.
        grid: Tokens per side; 0 for GRID, or its own for a model of one size alone.

    Raises:
        ReedError: They are on no square grid, which ones they are cannot be told, or there is no
            such grid.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise ReedError("it has a decoder, whose states are no patches")
    if count := getattr(model.config, "num_detection_tokens", 0):
        raise ReedError(f"behind the tokens of its patches are {count} of detections")

    found = _by_two_sizes(model, own, own) or _by_two_sizes(model, ROUND, own)
    found = found or _by_one_size(model, own)
    found = replace(found, is_class=bool(found.prefix) and _has_class_token(model))

    # Models whose windows or positions fit one grid alone keep theirs.
    if not found.patch:
        if grid not in (0, found.grid):
            problem = f"it takes images of {own} pixels alone, which give a grid of {found.grid}"
            raise ReedError(f"{problem}, not {grid}; set grid={found.grid}")
        return found
    tried = [replace(found, grid=side) for side in ([grid] if grid else [GRID, own // found.patch])]
    for layout in tried:
        if shape_at(model, layout)[0] == (layout.grid**2, layout.dim):
            return layout
    raise ReedError(f"{tried[0].size} pixels give no grid of {tried[0].grid}; choose another grid")


def shape_at(model: Any, layout: Layout) -> tuple[tuple[int, ...], int]:
    """Return the shape of the tokens of one image, and the channels of the vector, on "meta"."""
    import torch

    try:
        with torch.device("meta"), torch.no_grad():
            x = torch.zeros(1, 3, layout.size, layout.size)
            tokens, vector = features(model, x, layout)
    except Exception:  # each family fails in its own way at a size that it does not take
        return (), 0
    return tuple(tokens.shape[1:]), vector.shape[1]


def _raw_shape(model: Any, size: int, own: int) -> tuple[int, ...]:
    """Return the shape of the last hidden state of one image of ``size`` pixels, on "meta"."""
    import torch

    with torch.device("meta"), torch.no_grad():
        return tuple(outputs(model, torch.zeros(1, 3, size, size), own)["last_hidden_state"].shape)


def _by_two_sizes(model: Any, side: int, own: int) -> Layout | None:
    """Tell patches from other tokens by an image of twice the size, which has four times as many.

    Returns:
        The layout; None if the model does not take both sizes, or its tokens grow otherwise.
    """
    try:
        first, second = (_raw_shape(model, size, own) for size in (side, 2 * side))
    except Exception:  # each family fails in its own way at a size that it does not take
        return None
    if len(first) == 4:
        for axis, row, column in MAPS:
            grid = first[row]
            if first[column] == grid and second[row] == second[column] == 2 * grid:
                return Layout(own, side // grid, grid, first[axis], 0, axis)
    if len(first) == 3:
        grid = math.isqrt(max(second[1] - first[1], 0) // 3)
        if grid and second[1] - first[1] == 3 * grid**2 <= 3 * first[1]:
            return Layout(own, side // grid, grid, first[2], first[1] - grid**2)
    return None


def _by_one_size(model: Any, own: int) -> Layout:
    """Tell patches from other tokens of a model that takes one size alone, by its settings."""
    first = _raw_shape(model, own, own)
    if len(first) == 4:
        for axis, row, column in MAPS:
            if first[row] == first[column] != first[axis]:
                return Layout(own, 0, first[row], first[axis], 0, axis)
    if len(first) == 3:
        patch = getattr(model.config, "patch_size", None)
        patch = patch[-1] if isinstance(patch, (list, tuple)) and patch else patch
        if patch and 0 < (grid := own // patch) ** 2 <= first[1]:
            return Layout(own, 0, grid, first[2], first[1] - grid**2)

        # Without patches in the settings, only a square is certain, or one and a class token.
        for prefix in range(2 if _has_class_token(model) else 1):
            if (
                first[1] > prefix
                and (grid := math.isqrt(first[1] - prefix)) ** 2 == first[1] - prefix
            ):
                return Layout(own, 0, grid, first[2], prefix)
    raise ReedError(f"its last hidden state is {list(first)}, where no square of patches is")


def _has_class_token(model: Any) -> bool:
    """Return whether a model has one class token."""
    for name, value in model.named_parameters():
        if name.rpartition(".")[2] in CLASS_TOKENS:
            return value.numel() == value.shape[-1]
    return False
