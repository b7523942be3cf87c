"""The precision of a net's computation, whatever the settings of the process are."""

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
    """Run the `with` block in inference mode with the given precision.

    Convolutions use deterministic algorithms.

    Args:
        device: Device of the net.
        precision: "fp32": TF32 is off, also in convolutions, where torch allows it by default.
            "tf32": TF32 is on. "bf16": autocast, so that norms and softmax stay in float32.
            "fp64": like "fp32", for a net whose weights are float64.
    """
    import torch

    # The setting of matrix products is global, so the old one is restored at the end; that of
    # convolutions has a context manager of its own.
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
    """Resolve "auto": bf16 on a GPU that has it, else fp32."""
    import torch

    if name != "auto":
        return name
    if torch.device(device).type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp32"


def cast_weights(net: nn.Module, precision: str) -> None:
    """Cast the parameters of a net to bfloat16 for "bf16"; all other precisions keep them.

    Buffers, such as frequencies of positions, scales and running statistics, keep their numbers:
    `net.bfloat16()` would round them, too, and a position of 1,000 times a rounded frequency is
    another angle.
    """
    import torch

    if precision == "bf16":
        for parameter in net.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)


def in_double(net: nn.Module) -> nn.Module:
    """Convert a net to float64, and the floats that it is called with, too."""
    import torch

    def cast(value: Any) -> Any:
        is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.double() if is_float else value

    def widened(module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return tuple(map(cast, args)), {name: cast(value) for name, value in named.items()}

    net.double().register_forward_pre_hook(widened, with_kwargs=True)
    return net
