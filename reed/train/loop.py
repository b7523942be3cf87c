"""The training loop. It knows no domain and no encoder by name."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from reed.cache.files import only_writer
from reed.guides.bank import open_banks
from reed.guides.guide import guides_of
from reed.seeding import seed_for
from reed.train import averages, checkpoint, expected, public, recipe, summary, trackers
from reed.train.align import AlignedNet
from reed.train.checkpoint import Checkpoint
from reed.train.feed import Fed, Feed
from reed.train.launch import accelerator_for, same_for_all
from reed.train.log import RunLog
from reed.train.muon import FACTOR, optimizer_of
from reed.train.noised import noised_batch
from reed.train.plateau import Releases
from reed.train.recipe import Setup, TrainConfig
from reed.train.sharded import weights_of
from reed.train.watch import Guard, Meter, Stop, by_time


def train(settings: TrainConfig, *, progress: bool = True) -> int:
    """Train to `settings.steps`, from the run's last checkpoint if it has one.

    Returns:
        The step reached, which is less than `settings.steps` after SIGTERM or SIGUSR1; rerun to
        continue.

    Raises:
        ReedError: The recipe does not fit its cache, the run's folder belongs to another recipe or
            process, or too many steps had non-finite gradients.
        KeyboardInterrupt: Ctrl-C was pressed; a checkpoint is saved.
    """
    accelerator = accelerator_for(settings)
    cuda = accelerator.device.type == "cuda"
    setup = recipe.check(settings, accelerator.process_index, accelerator.num_processes, pin=cuda)
    # The trainer is made before the folder is claimed, because --init may be of another net.
    trainer = Trainer(setup, accelerator)

    main = accelerator.is_main_process
    with only_writer(settings.run) if main else contextlib.nullcontext():
        if main:
            setup.data.check(settings.run)
            recipe.claim(setup.config)
            setup.data.write(settings.run)
        trainer.resume()
        if main:
            summary.begin(setup, trainer.bare, accelerator, trainer.step, progress=progress)
        is_interrupt = trainer.run(progress=progress and accelerator.is_local_main_process)

    # A process group that still exists when Python ends may abort the finished process.
    accelerator.end_training()
    if is_interrupt:
        raise KeyboardInterrupt
    return trainer.step


def untrained(setup: Setup) -> tuple[AlignedNet, list[str]]:
    """Make the model as it is before its first step.

    Returns:
        The model, and the lines to show to the user about the `init` that it starts from. A run
        that has checkpoints does not read `init` again.

    Raises:
        ReedError: The weights of `init` do not fit the net.
    """
    torch.manual_seed(seed_for(setup.config.seed, "net"))
    net = setup.domain.net(setup.fields)
    torch.manual_seed(seed_for(setup.config.seed, "heads"))
    model = AlignedNet(net, setup.targets, setup.guides)
    fresh = setup.config.init and not checkpoint.steps(setup.config.run)
    return model, public.start_from(model, Path(setup.config.init)) if fresh else []


class Trainer:
    """One process's part of a run: model, optimizer, averaged weights, and the loop over steps.

    Attributes:
        bare: The model without what wraps it for several processes.
        step: Optimizer steps done.
        samples: Samples seen, over all processes.
        releases: Which targets are released, and when.
    """

    def __init__(self, setup: Setup, accelerator: Accelerator) -> None:
        self.setup, self.accelerator = setup, accelerator
        model, lines = untrained(setup)
        for line in lines:
            accelerator.print(line, file=sys.stderr)
        self._weights = weights_of(model, setup.config, accelerator)
        part = self._weights.part
        self._names = {id(p): name for name, p in part.named_parameters() if p.requires_grad}
        self._optimizer = optimizer_of(part, setup.config.optim)

        if (guides := guides_of(model.net)) is not None:
            open_banks(guides, setup.config.shards, setup.data.check_bank)
        self._ema = averages.of_net(part.get_submodule("net"), setup.config)
        self.bare = model
        self._compiled = _compiles(setup.config.compile, accelerator.device)
        if self._compiled:
            for block in model.repeated():
                block.compile()  # in place, so that the names in the state dict stay
        # Both are there already; placing them again would import torch.distributed.tensor.
        parts = [self._optimizer] if self._weights.is_wrapped else [model, self._optimizer]
        made = accelerator.prepare(*parts, device_placement=[False] * len(parts))
        self.model, self.optimizer = (model, made) if self._weights.is_wrapped else made
        self._guard = Guard(accelerator.device)
        self.releases = Releases(setup.releases, accelerator)
        self.step, self.samples = 0, 0

    def resume(self) -> None:
        """Continue from the run's latest checkpoint, if there is one."""
        run = self.setup.config.run
        steps = checkpoint.steps(run)
        same_for_all(self.accelerator, run, max(steps, default=0))
        if not steps:
            return

        saved = self._weights.own(checkpoint.load(run, averages=self._ema.others()))
        checkpoint.load_strict(self._weights.part, saved.model, f"{run} step {saved.step}")
        parameters = dict(self._weights.part.named_parameters())
        checkpoint.load_optimizer(self._optimizer, parameters, saved.optim)
        self._ema.load_state_dict(saved.ema, saved.averages)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved.extra["scaler"])
        self.releases.load_state_dict(saved.extra.get("releases", {}), saved.step)
        self.step, self.samples = saved.step, saved.extra["samples"]

    def save(self) -> None:
        """Write a checkpoint of the current step, which the main process does."""
        if not (self.accelerator.is_main_process or self._weights.is_wrapped):
            return

        # With fp16, the scaler has a state of its own: the current factor of the loss.
        scaler, settings = self.accelerator.scaler, self.setup.config
        extra = {"samples": self.samples, "scaler": scaler.state_dict() if scaler else None}
        if measured := self.releases.state_dict():
            extra["releases"] = measured
        optim = checkpoint.optimizer_tensors(self._optimizer, self._names)
        model = self._weights.part.state_dict()
        parts = model, self._ema.state_dict(), optim, extra, self._ema.others()
        saved = self._weights.whole(Checkpoint(self.step, *parts))
        if self.accelerator.is_main_process:
            checkpoint.save(settings.run, saved)
            checkpoint.prune(settings.run, settings.keep, settings.every.keep)

    def preview(self) -> np.ndarray:
        """Draw samples from the averaged net; return their picture, [H, W, C] uint8."""
        setup, net = self.setup, self.bare.net
        domain, indices = setup.domain, range(setup.config.preview.num)
        training = net.training
        # Uncompiled, because compiling for another batch size takes longer than a few pictures.
        compiled, plain = self._compiled, contextlib.nullcontext()
        eager = torch.compiler.set_stance("force_eager") if compiled else plain
        with self._ema.weights_in(net), eager, torch.no_grad(), self.accelerator.autocast():
            samples = domain.generate(net.eval(), setup.fields, indices, setup.preview)
        net.train(training)
        return domain.picture(samples, setup.fields)

    def run(self, *, progress: bool) -> bool:
        """Train until the last step or a signal; return whether it was Ctrl-C."""
        settings, every = self.setup.config, self.setup.config.every
        main = self.accelerator.is_main_process
        feed = Feed(self.setup.stream, self.accelerator.device)
        meter = Meter(self.setup, self.accelerator, feed, self.releases, self.samples)
        stop = Stop(self.accelerator)
        self._leave_out(self.releases.ends)
        batches = feed.batches(self.step)

        # Only the main process writes the log; every process computes its means and may stop.
        bar = tqdm(
            total=settings.steps,
            initial=self.step,
            desc=settings.run.name,
            unit="step",
            disable=not progress,
            dynamic_ncols=True,
        )
        log = self._log() if main else None

        with stop, bar, log or contextlib.nullcontext(), contextlib.closing(batches):
            while self.step < settings.steps:
                meter.add(self.train_step(next(batches)))
                bar.update()
                self._leave_out(self.releases.decide(self.step))
                last = self.step == settings.steps or stop.requested(self.step)
                if last or _due(self.step, every.log):
                    line = meter.line(self.step, self.samples)
                    self._guard.check(self.setup)
                    bar.set_postfix_str(summary.progress(line, self.setup.domain.losses))
                    if log is not None:
                        log.write(self.step, line)
                if last or _due(self.step, every.save):
                    self.save()
                if main and _due(self.step, every.snapshot):
                    averages.snapshot(settings, self.step, self._ema)
                if log is not None and _due(self.step, settings.preview.every):
                    log.picture(self.step, self.preview())
                if last:
                    break
        return stop.is_interrupt

    def _leave_out(self, released: Iterable[str]) -> None:
        """Stop reading targets from the step on from which their weight is 0."""
        for name in released:
            self.setup.stream.read_until(name, self.releases.ends[name])

    def _log(self) -> RunLog:
        """Open the log, and the tracker if the recipe names one."""
        settings = self.setup.config
        known = expected.watch(settings, self.setup.data)
        started = trackers.start(self.accelerator, settings)
        return RunLog(settings.run, self.step, started, known.unusual if known else None)

    def train_step(self, fed: Fed) -> dict[str, Tensor]:
        """Do one optimizer step on one batch, and return the values to log, still on the device."""
        setup, settings = self.setup, self.setup.config
        weights = self.releases.weights(setup.schedules, self.step)
        released = self.releases.done(self.step)
        fed, resting = fed.without(released), self.bare.resting(released)
        logged: dict[str, Tensor] = {}
        waits = self.accelerator.num_processes > 1 and not self._weights.is_wrapped

        for i in range(settings.accumulate):
            last = i == settings.accumulate - 1
            sync = contextlib.nullcontext() if last else self.accelerator.no_sync(self.model)
            part = fed.part(i, settings.accumulate)
            # Gradients are averaged over processes; with this factor the result is the mean over
            # the samples of the global batch.
            share = part.rows * self.accelerator.num_processes / fed.total
            with sync:
                total, terms = self._loss(part, weights)
                if waits:  # for every gradient
                    total = total + sum(0 * weight.sum() for weight in resting)
                self.accelerator.backward(total * share)
            for name, term in terms.items():
                logged[name] = logged.get(name, 0) + term * share

        # A head without a loss stays as it is: AdamW leaves out what has no gradient.
        for weight in resting:
            weight.grad = None
        self.releases.watch(logged, weights)

        self.accelerator.unscale_gradients()
        norm = self._weights.clip(settings.optim.clip or float("inf"))
        for group in self._optimizer.param_groups:
            group["lr"] = settings.optim.lr * setup.lr(self.step) * group.get(FACTOR, 1.0)
        if self.accelerator.scaler is None:
            self._guard.watch(norm, self.step)
            # torch's fused optimizers read this attribute and skip the step where it is 1.
            self._optimizer.found_inf = self._guard.bad  # ty: ignore[missing-attribute]
        else:
            # In fp16, gradients sometimes overflow; the scaler skips the step and lowers its scale.
            self._guard.watch(logged["loss"], self.step)

        self.optimizer.step()
        self.optimizer.zero_grad()
        self._weights.stepped()
        self.step += 1
        self.samples += fed.total
        self._ema.update(self.step)
        return logged | {"grad_norm": norm}

    def _loss(self, part: Fed, weights: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted loss of one micro-batch, and its terms for the log."""
        setup = self.setup
        batch, noised, drawn = noised_batch(setup, self.bare.net, part, self.step)
        with self.accelerator.autocast():
            prediction, aligned = self.model(noised, batch, drawn)

        # The losses are computed outside of autocast, in float32.
        losses = setup.domain.loss(prediction, noised, batch)
        terms = {name: value.mean() for name, value in (losses | aligned.losses).items()}
        total = sum(weights[name] * term for name, term in terms.items())
        logged = {name: terms[name].detach() for name in losses}
        logged |= {name: value.mean() for name, value in aligned.logged().items()}
        for name, error in aligned.errors.items():
            logged |= by_time(f"z/{name}", error.values, error.counts, noised.t)
        return total, logged | {"loss": total.detach()}


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _compiles(setting: str, device: torch.device) -> bool:
    return setting == "on" or (setting == "auto" and device.type == "cuda")
