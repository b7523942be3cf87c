"""What codecs compute of a whole batch: casts, int8, and which records fit.

Values are arrays, or tensors on an accelerator, which then computes; what is returned is of the
same kind. Every step is one correctly rounded operation per number, so that the bytes depend
neither on the size of the batch nor on the library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

_MANY = 1 << 16  # bytes from which a call of torch takes less time than numpy
_HALF = 65504.0  # the largest float16
_PIECE = 1 << 18  # numbers that int8 is computed of at a time, so that they stay in the cache


def is_tensor(values: Any) -> bool:
    """Whether values are a tensor; torch is not imported for that."""
    return hasattr(values, "is_cuda")


def on_host(value: Any) -> Any:
    """Return a tensor as an array, anything else as it is."""
    return value.detach().cpu().numpy() if is_tensor(value) else value


def tensor_of(array: np.ndarray) -> Tensor:
    """Return a tensor with the memory of an array; a copy if that may not be written."""
    import torch

    return torch.from_numpy(array if array.flags.writeable else array.copy())


def cast(values: Any, dtype: str) -> Any:
    """Return values in a float dtype of numpy, C-contiguous; what is too large becomes infinite."""
    if is_tensor(values):
        import torch

        return values.to(getattr(torch, np.dtype(dtype).name)).contiguous()
    array = np.asarray(values)
    if array.dtype == np.float32 and np.dtype(dtype) == np.float16:
        # numpy takes thirty times as long; both round to nearest, ties to even.
        return tensor_of(np.ascontiguousarray(array)).half().numpy().reshape(array.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array, dtype=dtype, order="C")


def finite(values: Any, cast_from: Any = None) -> np.ndarray:
    """Return which records of floats [records, ...] are finite, [records] bool.

    Args:
        values: The records.
        cast_from: What they were cast from, if that is float32: the norm of a record that is
            smaller than the largest float16 tells faster that all of it is finite.
    """
    if is_tensor(values):
        return values.isfinite().reshape(len(values), -1).all(1).cpu().numpy()
    if _is_small(values if cast_from is None else cast_from):
        return np.ones(len(values), bool)
    if values.dtype == np.float16 and values.size:
        bits = tensor_of(values.view(np.int16)).reshape(len(values), -1)
        return ((bits & 0x7FFF).amax(1) < 0x7C00).numpy()
    return np.isfinite(values).reshape(len(values), -1).all(1)


def _is_small(values: Any) -> bool:
    """Whether float32 records have norms so small that even float16 holds all values.

    False says nothing: the norm of many values may be large, and other dtypes are not looked at.
    """
    if not (isinstance(values, np.ndarray) and values.dtype == np.float32):
        return False
    if values.nbytes < _MANY or not (values.flags.c_contiguous and values.flags.writeable):
        return False  # it takes longer than looking at every number, or would be copied
    import torch

    norms = torch.linalg.vector_norm(tensor_of(values).reshape(len(values), -1), dim=1)
    return bool((norms < _HALF).all())


def doubled(array: np.ndarray) -> np.ndarray:
    """Return a copy in float64, C-contiguous."""
    if array.nbytes < _MANY or not array.dtype.isnative:
        return np.array(array, np.float64, order="C")
    exact = np.empty(array.shape)
    tensor_of(exact).copy_(tensor_of(array))  # in half of numpy's time
    return exact


def int8(values: Any, rms: np.ndarray) -> tuple[Any, Any]:
    """Return steps [..., D] int8 and scales [...] float32 of values [..., D].

    Args:
        values: The values; scales that are not finite tell those that do not fit.
        rms: The root mean square of every channel, [D] float32.
    """
    import torch

    # torch computes on both: its casts are many times as fast as those of numpy.
    on_device = is_tensor(values)
    x = cast(values, "float32")
    with torch.inference_mode():
        x = x if on_device else tensor_of(x)
        flat = x.reshape(-1, x.shape[-1])
        even = tensor_of(np.asarray(rms, np.float32)).to(x.device)
        steps = torch.empty(flat.shape, dtype=torch.int8, device=x.device)
        scale = torch.empty(len(flat), device=x.device)

        # A GPU has no cache to stay in, and each call costs it time.
        piece = max(1, _PIECE // x.shape[-1]) if not on_device else max(1, len(flat))
        for start in range(0, len(flat), piece):
            rows = slice(start, start + piece)
            _int8(flat[rows], even, steps[rows], scale[rows])
    steps, scale = steps.reshape(x.shape), scale.reshape(x.shape[:-1])
    return (steps, scale) if on_device else (steps.numpy(), scale.numpy())


def _int8(x: Tensor, rms: Tensor, steps: Tensor, scale: Tensor) -> None:
    """Fill steps and scales of some rows."""
    import torch

    even = x / rms
    # A divisor on the device: by a plain number, a GPU multiplies with the rounded inverse.
    torch.div(even.abs().amax(-1), torch.full((), 127.0, device=x.device), out=scale)
    even /= torch.where(scale > 0, scale, 1.0).unsqueeze(-1)
    steps.copy_(even.round_())
