"""Moving averages of a net's weights, in float32, with one fused call for all per update."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from reed.errors import ReedError
from reed.state_dict import compare

# optimizer steps done so far (1 after the first) -> decay
Decay = Callable[[int], float]
_COMPILED = "_orig_mod"  # the name torch.compile gives to the module inside
_WRAPPED = "module"  # the name DistributedDataParallel gives to it


def constant_decay(decay: float = 0.9999) -> Decay:
    """Return a decay that is the same at every step; ReedError unless 0 <= decay < 1."""
    if not 0 <= decay < 1:
        raise ReedError(f"ema: decay is {decay}, it must be at least 0 and below 1")
    return lambda step: decay


def power_decay(sigma_rel: float) -> Decay:
    """Return the decay of a power-function average, (1 - 1/step)^(1 + gamma).

    Such an average covers the same share of a run however long the run is. Source: EDM2 (arXiv
    2312.02696), section 3.1.

    Args:
        sigma_rel: Relative width, such as 0.05 or 0.10; above 0 and at most 12^-1/2.
    """
    gamma = gamma_of(sigma_rel)
    return lambda step: (1 - 1 / step) ** (1 + gamma)


def gamma_of(sigma_rel: float) -> float:
    """Return the exponent gamma >= 0 with sigma_rel^2 = (gamma+1) / ((gamma+2)^2 (gamma+3)).

    Source: EDM2 (arXiv 2312.02696), section 3.1 and appendix C.

    Args:
        sigma_rel: Standard deviation of the averaging profile divided by the length of the run;
            12^-1/2 = 0.289 is that of the plain mean.

    Raises:
        ReedError: sigma_rel is not above 0 and at most 12^-1/2.
    """
    widest = 1 / math.sqrt(12)
    if not 0 < sigma_rel <= widest:
        raise ReedError(
            f"ema: sigma_rel is {sigma_rel}, it must be above 0 and at most {widest:.4f}"
        )
    inverse = sigma_rel**-2
    return max(0.0, float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max()))


def clean_names(names: list[str]) -> list[str]:
    """Remove from names what torch.compile and DistributedDataParallel add.

    Only whole parts of a name are removed, and `module` only if all names begin with it.
    """
    inner = [".".join(part for part in name.split(".") if part != _COMPILED) for name in names]
    if all(name.startswith(f"{_WRAPPED}.") for name in inner):
        inner = [name.removeprefix(f"{_WRAPPED}.") for name in inner]
    return inner


class Ema:
    """Moving averages of a module's parameters, and a copy of its persistent buffers.

    The values are float32, on the module's device, under the names of the module's state dict.
    Make the Ema when the module is on its device. The first average is the one that is meant where
    none is named.

    Args:
        module: The module; its parameters must be float32 (the master weights), because one fused
            call averages them all.
        decay: Decay of the first average as a function of the step (see constant_decay and
            power_decay).
        others: Decay of each further average, by name.
        every: Steps between two updates, each of which has the decays of all these steps.
    """

    @torch.no_grad()
    def __init__(
        self,
        module: nn.Module,
        decay: Decay,
        others: Mapping[str, Decay] | None = None,
        *,
        every: int = 1,
    ) -> None:
        others, self._every = others or {}, every
        self._decays = [decay, *others.values()]
        self._parameters: list[Tensor] = []
        self._averages: list[Tensor] = []
        self._buffers: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._values: dict[str, Tensor] = {}
        self._others: dict[str, dict[str, Tensor]] = {name: {} for name in others}

        # Lists instead of one table, because torch's fused calls take lists. The averages of one
        # parameter are neighbours, so that its values are still in the device's cache.
        states = [self._values, *self._others.values()]
        for name, tensor in _tensors(module).items():
            if isinstance(tensor, nn.Parameter):
                assert tensor.dtype == torch.float32, (name, tensor.dtype)
                for state in states:
                    state[name] = tensor.detach().clone(memory_format=torch.preserve_format)
                    self._parameters.append(tensor)
                    self._averages.append(state[name])
            else:
                copy = tensor.detach().clone(memory_format=torch.preserve_format)
                self._buffers.append(tensor)
                self._copies.append(copy)
                for state in states:  # all have the same copy
                    state[name] = copy

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Set each average to decay * average + (1 - decay) * parameter, and copy the buffers.

        Nothing happens between two updates, if they are several steps apart.

        Args:
            step: Optimizer steps done so far, 1 after the first.
        """
        assert step >= 1, step
        if step % self._every:
            return
        last = range(step - self._every + 1, step + 1)
        weights = [1 - math.prod(map(decay, last)) for decay in self._decays]
        if len(weights) == 1:
            torch._foreach_lerp_(self._averages, self._parameters, weights[0])
        else:
            each = weights * (len(self._averages) // len(weights))
            torch._foreach_lerp_(self._averages, self._parameters, each)
        if self._buffers:
            torch._foreach_copy_(self._copies, self._buffers)

    def state_dict(self) -> dict[str, Tensor]:
        """Return averages and buffers by name, as load_state_dict of the unwrapped net takes them.

        They are those of the first average. The tensors are not copies: save them before the next
        update.
        """
        return dict(self._values)

    def others(self) -> dict[str, dict[str, Tensor]]:
        """Return the same of each further average, by its name."""
        return {name: dict(values) for name, values in self._others.items()}

    @torch.no_grad()
    def load_state_dict(
        self,
        state: Mapping[str, Tensor],
        others: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        """Take over the values of all averages; ReedError unless names and shapes agree."""
        for own, saved in ((self._values, state), *self._pairs(others or {})):
            compare("ema", _shapes(own), saved)
            for name, value in own.items():
                value.copy_(saved[name])

    def _pairs(
        self, others: Mapping[str, Mapping[str, Tensor]]
    ) -> list[tuple[dict[str, Tensor], Mapping[str, Tensor]]]:
        """Return the values of each further average with those that were saved of it."""
        assert others.keys() == self._others.keys(), (list(others), list(self._others))
        return [(values, others[name]) for name, values in self._others.items()]

    @contextmanager
    def weights_in(self, module: nn.Module) -> Generator[None]:
        """Put the first average into `module` for the `with` block; then restore it exactly.

        Args:
            module: The averaged net or a copy of it, wrapped or not.

        Raises:
            ReedError: Names or shapes differ.
        """
        tensors = {name: tensor.detach() for name, tensor in _tensors(module).items()}
        compare("ema", _shapes(tensors), self._values)
        values = list(tensors.values())
        saved = [tensor.clone() for tensor in values]
        torch._foreach_copy_(values, [self._values[name] for name in tensors])
        try:
            yield
        finally:
            torch._foreach_copy_(values, saved)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers under clean names, in state-dict order."""
    state = module.state_dict(keep_vars=True)
    return dict(zip(clean_names(list(state)), state.values(), strict=True))


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}
