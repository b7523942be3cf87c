"""Stage two: build, loop, log, save. Knows no domain and no encoder."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.nn.functional  # later, its default arguments would keep the process group
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor
from tqdm import tqdm

from reed import config
from reed.cache.files import only_writer
from reed.errors import ReedError
from reed.seeding import Draws, seed_for
from reed.train import checkpoint, public, recipe
from reed.train import log as runlog
from reed.train.align import AlignedNet
from reed.train.checkpoint import Checkpoint
from reed.train.ema import Ema
from reed.train.feed import Fed, Feed
from reed.train.log import RunLog
from reed.train.recipe import Setup, TrainConfig
from reed.train.watch import Guard, Meter, Stop


def train(settings: TrainConfig, *, progress: bool = True) -> int:
    """Train to `settings.steps`, from the run's last checkpoint if it has one.

    Returns the step reached, which is less after SIGTERM or SIGUSR1: rerun to go on.

    Raises ReedError when the recipe does not fit its cache, when the run folder belongs to
    another recipe or process, and after too many steps with non-finite gradients.
    """
    accelerator = accelerator_for(settings)
    cuda = accelerator.device.type == "cuda"
    setup = recipe.check(settings, accelerator.process_index, accelerator.num_processes, pin=cuda)
    trainer = Trainer(setup, accelerator)  # before the claim: an --init may be of another net
    main = accelerator.is_main_process
    with only_writer(settings.run) if main else contextlib.nullcontext():
        if main:
            recipe.claim(settings)
            setup.data.write(settings.run)
            if setup.data.said:
                print(setup.data.said, file=sys.stderr)
            if progress:
                print(json.dumps(config.plain(settings)), file=sys.stderr)
        trainer.resume()
        trainer.run(progress=progress and accelerator.is_local_main_process)
    # A process group that is still there when Python ends may abort a process that is done.
    accelerator.end_training()
    return trainer.step


def accelerator_for(settings: TrainConfig) -> Accelerator:
    """Accelerate with the recipe's precision, tracker and patience; ReedError if it lacks them."""
    runlog.check_tracker(settings.tracker)
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


def untrained(setup: Setup) -> tuple[AlignedNet, list[str]]:
    """The model before its first step, and what to tell of the `init` that it starts from.

    Raises ReedError when `init` does not fit; a run that has checkpoints does not read it again.
    """
    torch.manual_seed(seed_for(setup.config.seed, "net"))
    net = setup.domain.net(setup.fields)
    torch.manual_seed(seed_for(setup.config.seed, "heads"))
    model = AlignedNet(net, setup.targets)
    fresh = setup.config.init and not checkpoint.steps(setup.config.run)
    return model, public.start_from(model, Path(setup.config.init)) if fresh else []


class Trainer:
    """One process's part of a run: model, optimizer, EMA, and the loop over steps."""

    def __init__(self, setup: Setup, accelerator: Accelerator) -> None:
        self.setup, self.accelerator = setup, accelerator
        optim = setup.config.optim
        model, said = untrained(setup)
        for line in said:
            accelerator.print(line, file=sys.stderr)
        model = model.to(accelerator.device)
        self._names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=True,
        )
        self._ema = Ema(model.net, setup.config.decay())
        self._bare = model
        if _compiles(setup.config.compile, accelerator.device):
            for part in model.repeated():
                part.compile()  # in place, so the names in the state dict stay
        self.model, self.optimizer = accelerator.prepare(model, self._optimizer)
        self._guard = Guard(accelerator.device)
        self.step, self.samples = 0, 0

    def resume(self) -> None:
        """Continue from the run's latest checkpoint, if there is one."""
        run = self.setup.config.run
        if not checkpoint.steps(run):
            return
        saved = checkpoint.load(run)
        checkpoint.load_strict(self._bare, saved.model, f"{run} step {saved.step}")
        parameters = dict(self._bare.named_parameters())
        checkpoint.load_optimizer(self._optimizer, parameters, saved.optim)
        self._ema.load_state_dict(saved.ema)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved.extra["scaler"])
        self.step, self.samples = saved.step, saved.extra["samples"]

    def save(self) -> None:
        """Write a checkpoint of the current step (main process only)."""
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        extra = {
            "samples": self.samples,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        checkpoint.save(
            self.setup.config.run,
            Checkpoint(
                self.step,
                self._bare.state_dict(),
                self._ema.state_dict(),
                checkpoint.optimizer_tensors(self._optimizer, self._names),
                extra,
            ),
        )

    def preview(self) -> np.ndarray:
        """Samples of the averaged net, as the domain draws them: [H, W, C] uint8."""
        setup, net = self.setup, self._bare.net
        domain, indices = setup.domain, range(setup.config.preview.num)
        training = net.training
        # the averaged net runs as it is: compiling it for another batch size would not pay
        eager = torch.compiler.set_stance("force_eager")
        with self._ema.weights_in(net), eager, torch.no_grad(), self.accelerator.autocast():
            samples = domain.generate(net.eval(), setup.fields, indices, setup.preview)
        net.train(training)
        return domain.picture(samples, setup.fields)

    def run(self, *, progress: bool) -> None:
        """Step after step until the last one, or until the process is asked to stop."""
        settings, every = self.setup.config, self.setup.config.every
        main = self.accelerator.is_main_process
        feed = Feed(self.setup.stream, self.accelerator.device)
        meter = Meter(self.setup, self.accelerator, feed, self.samples)
        stop = Stop(self.accelerator)
        batches = feed.batches(self.step)
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
                last = self.step == settings.steps or stop.requested(self.step)
                if last or _due(self.step, every.log):
                    line = meter.line(self.step, self.samples)
                    self._guard.check(self.setup)
                    bar.set_postfix_str(f"loss {line['loss']:.3f}")
                    if log is not None:
                        log.write(self.step, line)
                if last or _due(self.step, every.save):
                    self.save()
                if log is not None and _due(self.step, settings.preview.every):
                    log.picture(self.step, self.preview())
                if last:
                    break

    def _log(self) -> RunLog:
        settings = self.setup.config
        if settings.tracker != "none":
            # a rerun of the same folder goes on in the same place
            place = {"id": f"{seed_for('tracker', str(settings.run.resolve())):x}"}
            named = {"name": settings.run.name, "dir": str(settings.run), "resume": "allow"}
            self.accelerator.init_trackers(
                "reed", _flat(config.plain(settings)), init_kwargs={"wandb": named | place}
            )
        return RunLog(settings.run, self.step, self.accelerator.trackers)

    def train_step(self, fed: Fed) -> dict[str, Tensor]:
        """One optimizer step on one batch; returns what to log, still on the device."""
        setup, settings = self.setup, self.setup.config
        weights = {name: schedule(self.step) for name, schedule in setup.schedules.items()}
        logged: dict[str, Tensor] = {}
        for i in range(settings.accumulate):
            last = i == settings.accumulate - 1
            quiet = contextlib.nullcontext() if last else self.accelerator.no_sync(self.model)
            part = fed.part(i, settings.accumulate)
            # gradients are averaged over processes, so this makes the mean over the global batch
            share = part.rows * self.accelerator.num_processes / fed.total
            with quiet:
                total, terms = self._loss(part, weights)
                self.accelerator.backward(total * share)
            for name, term in terms.items():
                logged[name] = logged.get(name, 0) + term * share
        norm = self.accelerator.clip_grad_norm_(
            self.model.parameters(), settings.optim.clip or float("inf")
        )
        for group in self._optimizer.param_groups:
            group["lr"] = settings.optim.lr * setup.lr(self.step)
        if self.accelerator.scaler is None:
            self._guard.watch(norm, self.step)
            # torch's fused optimizers read it: a step that is not finite is skipped
            self._optimizer.found_inf = self._guard.bad  # ty: ignore[missing-attribute]
        else:  # gradients overflow now and then; the scaler skips that step and lowers its scale
            self._guard.watch(logged["loss"], self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.samples += fed.total
        self._ema.update(self.step)
        return logged | {"grad_norm": norm}

    def _loss(self, part: Fed, weights: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss of one micro-batch, and its terms for the log."""
        setup = self.setup
        mine = slice(part.first, part.first + part.rows)
        draws = Draws(setup.config.seed, self.step, part.total, mine, self.accelerator.device)
        targets = {name: part.values[name] for name in setup.targets}
        batch = setup.domain.collate(part.values, setup.fields, targets, part.mask)
        noised = setup.domain.corrupt(batch, draws)
        with self.accelerator.autocast():
            prediction, aligned = self.model(noised, batch)
        losses = setup.domain.loss(prediction, noised, batch)
        terms = {name: value.mean() for name, value in (losses | aligned.losses).items()}
        total = sum(weights[name] * term for name, term in terms.items())
        shown = {name: terms[name].detach() for name in losses}
        shown |= {f"cos/{name}": value.mean() for name, value in aligned.cosines.items()}
        return total, shown | {"loss": total.detach()}


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _compiles(setting: str, device: torch.device) -> bool:
    return setting == "on" or (setting == "auto" and device.type == "cuda")


def _flat(table: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Nested settings as dotted names, which is what trackers take."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{where}{key}.")
        else:
            flat[f"{where}{key}"] = value if isinstance(value, int | float | str) else str(value)
    return flat


def _mixed_precision(precision: str) -> str:
    cuda = torch.cuda.is_available()
    if precision == "auto":
        return "bf16" if cuda and torch.cuda.is_bf16_supported() else "no"
    if precision == "fp16" and not cuda:
        raise ReedError("precision fp16 needs a GPU, and there is none; use bf16 or fp32")
    return "no" if precision == "fp32" else precision
