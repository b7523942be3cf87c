"""Which targets of a run are released: moving averages of residuals, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from reed.train.curriculum import Schedule
from reed.train.release import Release

EVERY = 10  # steps between two looks at the averages, for which the host waits for the device


class Releases:
    """The releases of a run, and the averages that those on a plateau are decided by.

    The residual of a target is 1 minus its cosine, or the difference of its Gram matrices, as a
    mean over the global batch. All processes keep the same averages, so they release at the same
    step. An average is the mean with weights that fall by its decay per step, from the first step
    on at which the target has a weight, so it needs no first value: what is not aligned yet does
    not improve, and is on no plateau.

    Args:
        releases: Target -> its release, with all times in optimizer steps.
        accelerator: Device and processes.

    Attributes:
        begins: Target -> step at which its weight begins to fall, of those for which it is known.
        ends: Target -> step from which on its weight is 0, and it is not read.
    """

    def __init__(self, releases: Mapping[str, Release], accelerator: Accelerator) -> None:
        self._releases, self._accelerator = dict(releases), accelerator
        self.begins: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        self._averages: dict[str, Tensor] = {}  # [fast or slow, (sum, weight)]
        self._aligned: dict[str, int] = {}  # steps with a weight
        device = accelerator.device
        precise = torch.float32 if device.type == "mps" else torch.float64
        for name, release in self._releases.items():
            if release.at is None:
                self._averages[name] = torch.zeros(2, 2, dtype=precise, device=device)
                self._aligned[name] = 0
            else:
                self._begin(name, int(release.at), self._ramp(name))

    def weights(self, schedules: Mapping[str, Schedule], step: int) -> dict[str, float]:
        """Return the weight of every loss at a step.

        Args:
            schedules: Loss name -> its weight, which holds a release at a known time.
            step: Optimizer step, counted from 0.
        """
        weights = {name: schedule(step) for name, schedule in schedules.items()}
        for name in self._averages.keys() & self.begins.keys():
            # As long as it was when it began: a rerun with more steps may state a longer one.
            ramp = self.ends[name] - self.begins[name]
            falling = replace(self._releases[name], ramp=ramp)
            weights[name] *= falling.ramp_from(self.begins[name]).at(step)
        return weights

    def done(self, step: int) -> list[str]:
        """Return the targets that are not aligned at a step any more."""
        return [name for name, end in self.ends.items() if step >= end]

    def watch(self, logged: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
        """Add the residuals of one step to the averages, without waiting for the device.

        Args:
            logged: What the step logs: this process's share of the means over the batch.
            weights: The weight of every loss in the step.
        """
        for name in [name for name in self._averages if name not in self.begins]:
            if not weights[name]:
                continue
            self._aligned[name] += 1
            averages, decays = self._averages[name], self._releases[name].averages
            cosine = logged.get(f"cos/{name}")
            residual = logged[f"gram/{name}"] if cosine is None else 1 - cosine
            if self._accelerator.num_processes > 1:
                residual = self._accelerator.reduce(residual, reduction="mean")

            # The optimizer skips a step that is not finite, and so do the averages.
            kept = averages.new_tensor(decays)[:, None]
            added = torch.stack([residual.to(averages), averages.new_ones(())])
            updated = kept * averages + (1 - kept) * added
            self._averages[name] = torch.where(residual.isfinite(), updated, averages)

    def decide(self, step: int) -> list[str]:
        """Return the targets whose release begins at a step, after looking at their averages."""
        found = []
        for name, averages in self._averages.items() if step % EVERY == 0 else ():
            if name in self.begins or self._aligned[name] < self._ramp(name):
                continue
            fast, slow = (averages[:, 0] / averages[:, 1]).tolist()
            if slow - fast < self._releases[name].below * slow:
                self._begin(name, step, self._ramp(name))
                found.append(name)
        return found

    def _ramp(self, name: str) -> int:
        ramp = self._releases[name].ramp
        assert isinstance(ramp, int), "resolve() it first"
        return ramp

    def _begin(self, name: str, step: int, ramp: int) -> None:
        self.begins[name], self.ends[name] = step, step + ramp

    def line(self, step: int) -> dict[str, int]:
        """Return what the log says of the releases that have begun at a step."""
        begun = {name: at for name, at in self.begins.items() if at <= step}
        return {f"release/{name}": at for name, at in begun.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what is measured, as plain values; floats in JSON keep all their bits."""
        return {
            name: {
                "averages": averages.tolist(),
                "aligned": self._aligned[name],
                "begins": self.begins.get(name),
                "ends": self.ends.get(name),
            }
            for name, averages in self._averages.items()
        }

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Take over what `state_dict` returned after `step` steps."""
        for name, averages in self._averages.items():
            saved = state[name]
            self._averages[name] = averages.new_tensor(saved["averages"])
            self._aligned[name] = saved.get("aligned", step)  # earlier versions counted all steps
            if (begins := saved["begins"]) is not None:
                ends = saved.get("ends", begins + self._ramp(name))
                self._begin(name, begins, ends - begins)
