"""The precision that a net computes in, whatever the process has set."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

PRECISIONS = ("fp32", "tf32", "bf16")
OF_SAMPLING = (*PRECISIONS, "fp64")


@contextmanager
def computing(device: str, precision: str) -> Generator[None]:
    """Inference with a stated precision.

    fp32: no TF32 anywhere, not in the convolutions either, where torch allows it by default;
    tf32: both; bf16: autocast, so that norms and softmax stay in float32; fp64: of a net that is
    so. Convolutions take deterministic algorithms.
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


def pick(name: str, device: str) -> str:
    """One of OF_SAMPLING; "auto" is bf16 on a GPU that has it, else fp32, and fp64 on a CPU."""
    import torch

    if name != "auto":
        return name
    if torch.device(device).type == "cpu":
        return "fp64"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp32"


def in_double(net: nn.Module) -> nn.Module:
    """The net in float64, whatever floats it is called with."""
    import torch

    def cast(value: Any) -> Any:
        is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.double() if is_float else value

    def widened(module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return tuple(map(cast, args)), {name: cast(value) for name, value in named.items()}

    net.double().register_forward_pre_hook(widened, with_kwargs=True)
    return net
