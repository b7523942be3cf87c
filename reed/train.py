"""Stage two: build, loop, log, save. Knows no domain and no encoder."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from reed import checkpoint, config, public, recipe, runlog
from reed.align import AlignedNet
from reed.checkpoint import Checkpoint
from reed.ema import Ema, constant_decay
from reed.errors import ReedError
from reed.recipe import Setup, TrainConfig
from reed.seeding import Draws, seed_for


def train(settings: TrainConfig, *, progress: bool = True) -> int:
    """Train to `settings.steps`, from the run's last checkpoint if it has one.

    Returns the step reached, which is less after SIGTERM or SIGUSR1: rerun to go on.

    Raises ReedError when the recipe does not fit its cache, when the run folder belongs to
    another recipe, and after too many steps with non-finite gradients.
    """
    cuda = torch.cuda.is_available()
    # without cpu=True, the processes of a launch would not find one another where there is no GPU
    accelerator = Accelerator(mixed_precision=_mixed_precision(settings.precision), cpu=not cuda)
    setup = recipe.check(settings, accelerator.process_index, accelerator.num_processes, pin=cuda)
    trainer = Trainer(setup, accelerator)  # before the claim: an --init may be of another net
    if accelerator.is_main_process:
        recipe.claim(settings)
        if progress:
            print(json.dumps(config.plain(settings)), file=sys.stderr)
    trainer.resume()
    trainer.run(progress=progress and accelerator.is_local_main_process)
    return trainer.step


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
            [p for p in model.parameters() if p.requires_grad], lr=optim.lr, betas=optim.betas,
            eps=optim.eps, weight_decay=optim.weight_decay, fused=True,
        )  # fmt: skip
        self._ema = Ema(model.net, constant_decay(setup.config.ema_decay))
        self._bare = model
        self.model, self.optimizer = accelerator.prepare(model, self._optimizer)
        self._guard = _Guard(accelerator.device)
        self.step = 0

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
        self.step = saved.step

    def save(self) -> None:
        """Write a checkpoint of the current step (main process only)."""
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        checkpoint.save(
            self.setup.config.run,
            Checkpoint(
                self.step,
                self._bare.state_dict(),
                self._ema.state_dict(),
                checkpoint.optimizer_tensors(self._optimizer, self._names),
                {"scaler": scaler.state_dict() if scaler is not None else None},
            ),
        )

    def run(self, *, progress: bool) -> None:
        """Step after step until the last one, or until the process is asked to stop."""
        settings, every = self.setup.config, self.setup.config.every
        main = self.accelerator.is_main_process
        log = runlog.RunLog(settings.run, self.step) if main else contextlib.nullcontext()
        meter = _Meter(settings.batch)
        stop = _Stop(self.accelerator)
        batches = self.setup.stream.batches(self.step)
        bar = tqdm(
            total=settings.steps, initial=self.step, desc=settings.run.name, unit="step",
            disable=not progress, dynamic_ncols=True,
        )  # fmt: skip
        with stop, bar, log, contextlib.closing(batches):
            while self.step < settings.steps:
                began = time.perf_counter()
                stored = next(batches)
                meter.wait += time.perf_counter() - began
                meter.add(self.train_step(stored))
                bar.update()
                last = self.step == settings.steps or stop.requested(self.step)
                if last or _due(self.step, every.log):
                    line = meter.line(self)
                    self._guard.check(self)
                    bar.set_postfix_str(f"loss {line['loss']:.3f}")
                    if main:
                        log.write(self.step, line)
                if last or _due(self.step, every.save):
                    self.save()
                if last:
                    break

    def train_step(self, stored: Any) -> dict[str, Tensor]:
        """One optimizer step on one stored batch; returns what to log, still on the device."""
        setup, settings = self.setup, self.setup.config
        weights = {name: schedule(self.step) for name, schedule in setup.schedules.items()}
        values = setup.stream.decode(stored, self.accelerator.device)
        micro = settings.batch // (self.accelerator.num_processes * settings.accumulate)
        logged: dict[str, Tensor] = {}
        for i in range(settings.accumulate):
            last = i == settings.accumulate - 1
            quiet = contextlib.nullcontext() if last else self.accelerator.no_sync(self.model)
            with quiet:
                part = {n: v[i * micro : (i + 1) * micro] for n, v in values.items()}
                total, terms = self._loss(part, i * micro, micro, weights)
                self.accelerator.backward(total / settings.accumulate)
            for name, term in terms.items():
                logged[name] = logged.get(name, 0) + term / settings.accumulate
        norm = self.accelerator.clip_grad_norm_(
            self.model.parameters(), settings.optim.clip or float("inf")
        )
        for group in self._optimizer.param_groups:
            group["lr"] = settings.optim.lr * setup.lr(self.step)
        if self.accelerator.scaler is None:
            self._guard.watch(norm, self.step)
            self._optimizer.found_inf = self._guard.bad
        else:  # gradients overflow now and then; the scaler skips that step and lowers its scale
            self._guard.watch(logged["loss"], self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self._ema.update(self.step)
        return logged | {"grad_norm": norm}

    def _loss(
        self, part: dict[str, Tensor], offset: int, rows: int, weights: dict[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss of one micro-batch, and its terms for the log."""
        setup, settings = self.setup, self.setup.config
        first = self.accelerator.process_index * settings.batch // self.accelerator.num_processes
        mine = slice(first + offset, first + offset + rows)
        draws = Draws(settings.seed, self.step, settings.batch, mine, self.accelerator.device)
        targets = {name: part[name] for name in setup.targets}
        batch = setup.domain.collate(part, setup.fields, targets)
        noised = setup.domain.corrupt(batch, draws)
        with self.accelerator.autocast():
            prediction, aligned = self.model(noised, batch)
        losses = setup.domain.loss(prediction, noised, batch)
        terms = {name: value.mean() for name, value in (losses | aligned.losses).items()}
        total = sum(weights[name] * term for name, term in terms.items())
        shown = {name: terms[name].detach() for name in losses}
        shown |= {f"cos/{name}": value.mean() for name, value in aligned.cosines.items()}
        return total, shown | {"loss": total.detach()}


class _Guard:
    """Counts steps with a non-finite loss or gradient on the device, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self.bad = torch.zeros((), device=device)
        self._count = torch.zeros((), device=device)
        self._last = torch.zeros((), device=device, dtype=torch.int64)

    def watch(self, value: Tensor, step: int) -> None:
        """Note whether the gradient norm (or loss) of a step is finite; if not it is skipped."""
        self.bad = (~torch.isfinite(value)).float()
        self._count += self.bad
        self._last = torch.where(self.bad > 0, step, self._last)

    def check(self, trainer: Trainer) -> None:
        """Stop the run after too many bad steps, naming the last one and its samples."""
        count, limit = int(self._count), trainer.setup.config.stop_after_bad
        if count < limit:
            return
        step = int(self._last)
        keys = trainer.setup.stream.keys_at(step)
        raise ReedError(
            f"{count} steps had non-finite gradients (the last: step {step}, samples "
            f"{', '.join(keys[:4])}, …); lower optim.lr, or use precision bf16 or fp32"
        )


class _Meter:
    """Means over the steps since the last log line."""

    def __init__(self, batch: int) -> None:
        self._batch, self.wait = batch, 0.0
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps, self.wait, self._began = 0, 0.0, time.perf_counter()

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one step's values, on the device."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps += 1

    def line(self, trainer: Trainer) -> dict[str, Any]:
        """The log line, averaged over processes; the one place where the host waits."""
        means = {name: total / self._steps for name, total in self._sums.items()}
        means = trainer.accelerator.reduce(means, reduction="mean")
        line: dict[str, Any] = {name: float(value) for name, value in means.items()}
        seconds = time.perf_counter() - self._began
        done = trainer.step - 1
        line |= {f"weight/{n}": schedule(done) for n, schedule in trainer.setup.schedules.items()}
        line |= {
            "lr": trainer.setup.config.optim.lr * trainer.setup.lr(done),
            "samples": trainer.step * self._batch,
            "samples_per_s": self._steps * self._batch / seconds,
            "wait_share": self.wait / seconds,
        }
        self._reset()
        return line


class _Stop:
    """SIGTERM and SIGUSR1 (pre-emption) end the run after the step at hand, with a checkpoint."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator, self._asked = accelerator, False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def requested(self, step: int) -> bool:
        """Whether to stop now; processes agree on it every tenth step."""
        if self._accelerator.num_processes == 1:
            return self._asked
        if step % 10:
            return False
        asked = torch.tensor(float(self._asked), device=self._accelerator.device)
        return bool(self._accelerator.reduce(asked) > 0)


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _mixed_precision(precision: str) -> str:
    cuda = torch.cuda.is_available()
    if precision == "auto":
        return "bf16" if cuda and torch.cuda.is_bf16_supported() else "no"
    if precision == "fp16" and not cuda:
        raise ReedError("precision fp16 needs a GPU, and there is none; use bf16 or fp32")
    return "no" if precision == "fp32" else precision
