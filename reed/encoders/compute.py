"""What the image encoders share: a batch of uint8 images on a device, and the precision there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from reed.cache.build import BadSample
from reed.errors import ReedError, suggest

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp32", "tf32", "bf16")


def check_precision(name: str, precision: str) -> None:
    """Refuse a precision that is none of PRECISIONS; name: the encoder's."""
    if precision not in PRECISIONS:
        hint = suggest(precision, PRECISIONS)
        raise ReedError(f"{name}.precision cannot be {precision!r}.{hint}")


@contextmanager
def computing(device: str, precision: str) -> Iterator[None]:
    """Inference with a stated precision, whatever the process has set.

    fp32: no TF32 anywhere, not in the convolutions either, where torch allows it by default;
    tf32: both; bf16: autocast, so that norms and softmax stay in float32. Convolutions take
    deterministic algorithms.
    """
    import torch

    fast = precision == "tf32"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if fast else "highest")
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(
                torch.backends.cudnn.flags(
                    enabled=True, benchmark=False, deterministic=True, allow_tf32=fast
                )
            )
            if precision == "bf16":
                kind = torch.device(device).type
                stack.enter_context(torch.autocast(kind, dtype=torch.bfloat16))
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def images(samples: Sequence[dict[str, Any]], device: str) -> torch.Tensor:
    """The images of some samples, uint8 [B, 3, R, R] on `device`.

    BadSample unless each is uint8 [R, R, 3] with one R.
    """
    import torch

    first = np.asarray(samples[0]["image"]).shape
    for sample in samples:
        image = np.asarray(sample["image"])
        square = image.ndim == 3 and image.shape[0] == image.shape[1] and image.shape[2] == 3
        if not square or image.dtype != np.uint8:
            raise BadSample(f"image is {image.dtype} {image.shape}, it should be uint8 [R, R, 3]")
        if image.shape != first:
            raise BadSample(f"image is {image.shape}, the one before it {first}")
    stacked = torch.from_numpy(np.stack([sample["image"] for sample in samples]))
    return stacked.to(device).permute(0, 3, 1, 2).contiguous()
