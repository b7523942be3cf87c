"""Where the weights of a run are: whole in every process, or divided among the processes (FSDP2).

The optimizer and the averages work on plain tensors in both cases, those of `Weights.part`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from reed.errors import ReedError
from reed.train.align import AlignedNet
from reed.train.checkpoint import Checkpoint
from reed.train.settings import TrainConfig


def check(settings: TrainConfig) -> None:
    """Raise ReedError for settings that need whole weights in a run that divides them."""
    if not settings.fsdp:
        return
    muon = [name for name, group in settings.optim.groups.items() if group.kind == "muon"]
    needs = {
        f"optim.groups.{' and '.join(muon)} of kind 'muon' needs": bool(muon),
        f"preview.every = {settings.preview.every} needs": settings.preview.every > 0,
        f"every.snapshot = {settings.every.snapshot} needs": settings.every.snapshot > 0,
        f"guide.{', '.join(settings.guide)} needs": bool(settings.guide),
        "precision = 'fp16' needs": settings.precision == "fp16",
    }
    for what in (what for what, is_used in needs.items() if is_used):
        raise ReedError(f"{what} whole weights, which fsdp divides; leave one of them out")


def weights_of(model: AlignedNet, settings: TrainConfig, accelerator: Accelerator) -> Weights:
    """Put a model onto the device, whole or divided.

    Raises:
        ReedError: The weights are to be divided among one process.
    """
    if not settings.fsdp:
        return Weights(model.to(accelerator.device))
    if accelerator.num_processes == 1:
        raise ReedError(
            "fsdp divides the weights among processes, and there is one: start several with "
            "accelerate launch or torchrun, or leave fsdp out"
        )
    return Divided(model, accelerator)


class Weights:
    """The weights of a model that every process has.

    Args:
        model: The model, on its device.

    Attributes:
        part: A module with the tensors that this process trains, under the names of the model.
        is_wrapped: Whether the model needs no wrapper to share its gradients.
    """

    is_wrapped = False

    def __init__(self, model: nn.Module) -> None:
        self.part = model

    def clip(self, limit: float) -> Tensor:
        """Scale the gradients down to a norm, and return the norm that they had."""
        # The accelerator's clip_grad_norm_ would import what divided weights need.
        return torch.nn.utils.clip_grad_norm_(self.part.parameters(), limit)

    def stepped(self) -> None:
        """Drop what the step has used."""

    def whole(self, saved: Checkpoint) -> Checkpoint:
        """Return a checkpoint with whole tensors; all processes call this."""
        return saved

    def own(self, saved: Checkpoint) -> Checkpoint:
        """Return what this process trains of a checkpoint with whole tensors."""
        return saved


class Divided(Weights):
    """The weights of a model that FSDP2 divides, along the first axis of each tensor.

    Blocks are gathered one by one when they compute. The tensors of `part` are the shares
    themselves, not copies.

    Args:
        model: The model, not on its device yet, so that it never needs to fit there.
        accelerator: The processes.
    """

    is_wrapped = True

    def __init__(self, model: AlignedNet, accelerator: Accelerator) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self._accelerator, device = accelerator, accelerator.device
        self._mesh = init_device_mesh(device.type, (accelerator.num_processes,))
        # What is there once goes with the model itself; equal blocks are most of it.
        repeated = model.net.repeated()
        times = Counter(type(block) for block in repeated)
        for block in repeated:
            if times[type(block)] > 1:
                fully_shard(block, mesh=self._mesh)
        fully_shard(model, mesh=self._mesh)

        # A fused optimizer and torch's calls for lists of tensors take no distributed tensors.
        self._placed: dict[str, Any] = dict(model.named_parameters())
        super().__init__(nn.Module())
        for name, weight in self._placed.items():
            share = nn.Parameter(weight.detach().to_local(), requires_grad=weight.requires_grad)
            _hold(self.part, name).register_parameter(name.rpartition(".")[2], share)
        stored = model.state_dict(keep_vars=True)
        for name, buffer in model.named_buffers():
            if name in stored:
                _hold(self.part, name).register_buffer(name.rpartition(".")[2], buffer)

    def clip(self, limit: float) -> Tensor:
        """Scale the shares of the gradients by the norm of the whole ones."""
        shares = dict(self.part.named_parameters())
        for name, weight in self._placed.items():
            shares[name].grad = None if weight.grad is None else weight.grad.to_local()
        found = [share.grad for share in shares.values() if share.grad is not None]

        # The shares are disjoint, so that the squares of their norms add up.
        square = torch.nn.utils.get_total_norm(found).square().to(self._accelerator.device)
        norm = self._accelerator.reduce(square, reduction="sum").sqrt()
        torch.nn.utils.clip_grads_with_norm_(list(shares.values()), limit, norm)
        return norm

    def stepped(self) -> None:
        """Drop the gradients, which the optimizer has dropped of the shares alone."""
        for weight in self._placed.values():
            weight.grad = None

    def whole(self, saved: Checkpoint) -> Checkpoint:
        """Gather the shares; only the main process keeps the result, on the CPU."""
        return self._changed(saved, self._gathered)

    def own(self, saved: Checkpoint) -> Checkpoint:
        """Cut out the shares of this process."""
        return self._changed(saved, self._cut)

    def _changed(self, saved: Checkpoint, change: Any) -> Checkpoint:
        """Return a checkpoint with every tensor changed; averages have the names of the net."""
        model = {name: change(name, value) for name, value in saved.model.items()}
        optim = {
            path: change(path.partition("/")[2], value) if value.ndim else value
            for path, value in saved.optim.items()
        }

        def of_net(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: change(f"net.{name}", value) for name, value in state.items()}

        averages = {name: of_net(state) for name, state in saved.averages.items()}
        ema = of_net(saved.ema)
        return replace(saved, model=model, optim=optim, ema=ema, averages=averages)

    def _gathered(self, name: str, share: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        if name not in self._placed:  # a buffer, which every process has
            return share
        like = self._placed[name]
        placed = DTensor.from_local(
            share.detach(),
            self._mesh,
            like.placements,
            run_check=False,
            shape=like.shape,
            stride=like.stride(),
        )
        found = placed.full_tensor()
        return found.cpu() if self._accelerator.is_main_process else share

    def _cut(self, name: str, value: Tensor) -> Tensor:
        like = self._placed.get(name)
        if like is None or like.shape != value.shape:  # reported when it is loaded
            return value
        from torch.distributed.tensor import distribute_tensor

        on_device = value.to(self._accelerator.device)
        return distribute_tensor(on_device, self._mesh, like.placements).to_local()


def _hold(root: nn.Module, name: str) -> nn.Module:
    """Return the module that holds a tensor of this name, made where it is missing."""
    for part in name.split(".")[:-1]:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root
