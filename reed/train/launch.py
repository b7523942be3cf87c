"""The accelerator of a run: device, precision, processes and trackers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed.nn.functional  # imported later, it would keep the process group alive
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from reed.errors import ReedError
from reed.train import log
from reed.train.settings import TrainConfig


def check(settings: TrainConfig) -> None:
    """Raise ReedError if the tracker is not installed, or the device lacks the precision."""
    log.check_tracker(settings.tracker)
    _mixed_precision(settings.precision)


def accelerator_for(settings: TrainConfig) -> Accelerator:
    """Make the Accelerator with the recipe's precision, tracker and timeout; see `check`."""
    check(settings)
    cuda = torch.cuda.is_available()
    # bfloat16 partial sums in long matrix products have led compiled training to worse minima
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    return Accelerator(
        mixed_precision=_mixed_precision(settings.precision),
        cpu=not cuda,  # else the processes of a launch do not find one another without a GPU
        log_with=None if settings.tracker == "none" else settings.tracker,
        project_dir=settings.run,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(minutes=settings.wait_minutes))],
    )


def same_for_all(accelerator: Accelerator, run: Path, step: int) -> None:
    """Raise ReedError, in every process, if the processes would resume at different steps.

    Args:
        accelerator: The run's processes.
        run: The run's folder, as every process sees it.
        step: Step of the last checkpoint that this process sees there, 0 for none.
    """
    if accelerator.num_processes == 1:
        return
    found = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(found)) > 1:
        other = next(i for i, each in enumerate(found) if each != found[0])
        raise ReedError(
            f"process 0 sees step {found[0]} as the last checkpoint of {run}, process {other} "
            f"sees step {found[other]} (0: none); put the run on a file system that all machines "
            "share, or copy it to each of them"
        )


def _mixed_precision(precision: str) -> str:
    cuda = torch.cuda.is_available()
    if precision == "auto":
        return "bf16" if cuda and torch.cuda.is_bf16_supported() else "no"
    if precision == "fp16" and not cuda:
        raise ReedError("precision fp16 needs a GPU, and there is none; use bf16 or fp32")
    return "no" if precision == "fp32" else precision
