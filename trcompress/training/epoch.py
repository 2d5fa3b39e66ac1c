"""One pass over the training part: batches, gradients, optimizer steps, running figures."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from math import ceil, isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trcompress.data import Split
from trcompress.errors import UsageError
from trcompress.network.classifier import Chain
from trcompress.training.batches import Batch, Request, read_batches, shuffled_requests
from trcompress.training.display import Display, Progress
from trcompress.training.distributed import Team
from trcompress.training.learner import Learner
from trcompress.training.schedule import lr_factor, make_optimizer, set_lr
from trcompress.training.settings import FinetuneSettings
from trcompress.training.straight_through import StraightThrough

LOOK_EVERY_S = 0.5
"""Figures are read from the device this often, to be shown and to see that they are finite."""


class Passes:
    """Passes over the training part with one optimizer.

    Args:
        learner: the network and its loss, on the team's device.
        parameters: those that learn.
        split: the training part.
        settings: how.
        team: the processes.
        display: told how far a pass is.
        rounding: of what is stored in few bits.
    """

    def __init__(
        self,
        learner: Learner,
        parameters: list[nn.Parameter],
        split: Split,
        settings: FinetuneSettings,
        team: Team,
        display: Display,
        rounding: StraightThrough | None = None,
    ) -> None:
        self._rounding = rounding or StraightThrough(learner.network, {})
        self.learner, self.parameters, self.split = learner, parameters, split
        self.settings, self.team, self.display = settings, team, display
        self.optimizer = make_optimizer(
            learner.network,
            parameters,
            weight_decay=settings.weight_decay,
            core_lr_scale=settings.core_lr_scale or 1.0,
        )
        self.scaler = torch.amp.GradScaler(team.device.type, enabled=settings.amp == "fp16")
        self._parallel = None if team.size == 1 else _in_parallel(learner)
        self._weights = learner.class_weights.cpu().numpy()
        self._steps = ceil(ceil(len(split) / settings.batch_size) / settings.accumulate)

    def run(self, epoch: int) -> dict[str, Any]:
        """Train for one epoch.

        Returns:
            Its record: phase, epoch (from 1), loss, accuracy, lr, sequences per second, seconds.

        Raises:
            UsageError: the loss is not finite any more.
        """
        seed_all(self.settings.seed, epoch, self.team.rank)
        self.learner.train()
        self._rounding.begin_epoch()
        requests = shuffled_requests(self.split, self.settings.batch_size, seed=self.settings.seed, epoch=epoch)
        batches = read_batches(self.split, requests, self.team)
        watch = _RunningMetrics(self, epoch)
        lr = 0.0
        for number in range(self._steps):
            first = number * self.settings.accumulate
            lr = self._set_lr(epoch * self._steps + number)
            self._step(requests[first : first + self.settings.accumulate], batches, watch)
        return {"phase": "end-to-end", "epoch": epoch + 1, **watch.finish(), "lr": lr}

    def _set_lr(self, step: int) -> float:
        epochs = self.settings.epochs
        warmup = min(self.settings.warmup_epochs, epochs / 2) * self._steps
        lr = self.settings.lr * lr_factor(step, epochs * self._steps, warmup)
        set_lr(self.optimizer, lr)
        return lr

    def _step(self, group: list[Request], batches: Iterator[Batch], watch: _RunningMetrics) -> None:
        """Make one optimizer step over one or several batches."""
        indices = np.concatenate([request.indices for request in group])
        label_total = float(len(indices))
        if self.learner.task.kind == "classification":
            label_total = float(self._weights[self.split.labels[indices]].sum())
        self.optimizer.zero_grad(set_to_none=True)
        for request in group:
            batch = next(batches)
            parallel = self._parallel
            alone = nullcontext() if parallel is None or request is group[-1] else parallel.no_sync()
            with alone, self._rounding.step():
                loss, logits = (parallel or self.learner)(batch, label_total, len(indices))
                self.scaler.scale(loss * self.team.size).backward()  # DDP divides by the size again
            watch.add(loss.detach() * len(indices), logits, batch, len(request.indices))
        self.scaler.unscale_(self.optimizer)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def _in_parallel(learner: Learner) -> DistributedDataParallel:
    """Wrap for gradients of all processes; a user's own network may leave parameters unused."""
    return DistributedDataParallel(learner, find_unused_parameters=not isinstance(learner.network, Chain))


class _RunningMetrics:
    """Running figures of one pass, kept on the device."""

    def __init__(self, passes: Passes, epoch: int) -> None:
        self._passes, self._epoch = passes, epoch
        self._sums = torch.zeros(3, dtype=torch.float64, device=passes.team.device)  # loss, correct, sequences
        self._started = self._looked = time.perf_counter()
        self._done = 0

    def add(self, loss_sum: Tensor, logits: Tensor, batch: Batch, sequences: int) -> None:
        self._done += sequences
        self._sums[0] += loss_sum
        self._sums[2] += batch.mask.sum()
        self._sums[1] += (self._passes.learner.task.right(logits, batch) * batch.mask).sum()
        if time.perf_counter() - self._looked > LOOK_EVERY_S:
            self._looked = time.perf_counter()
            self._show()

    def finish(self) -> dict[str, Any]:
        """Add up over all processes."""
        self._passes.team.sum_(self._sums)
        loss, accuracy = self._read()
        seconds = time.perf_counter() - self._started
        share = {"accuracy": accuracy} if self._passes.learner.task.has_classes else {}
        return {"loss": loss, **share, "sequences_per_s": self._done / seconds, "epoch_s": seconds}

    def _read(self) -> tuple[float, float]:
        loss, correct, count = self._sums.tolist()
        if not isfinite(loss):
            raise UsageError(
                f"the loss must stay finite: it is {loss} in epoch {self._epoch + 1}; "
                f"lower the learning rate ({self._passes.settings.lr}) or clip gradients "
                f"(now {self._passes.settings.clip or 'off'})"
            )
        return loss / max(1.0, count), correct / max(1.0, count)

    def _show(self) -> None:
        loss, accuracy = self._read()
        passes = self._passes
        passes.display.batch(
            Progress(
                epoch=self._epoch + 1,
                epochs=passes.settings.epochs,
                share=self._done / len(passes.split),
                loss=loss,
                accuracy=accuracy,
                sequences_per_s=self._done / (time.perf_counter() - self._started),
            )
        )


def seed_all(seed: int, epoch: int, rank: int) -> None:
    """Seed every generator of this process by the run's seed, the epoch and the rank alone."""
    own = int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0])
    torch.manual_seed(own)
    random.seed(own)
    np.random.seed(own)


@contextmanager
def own_randomness(team: Team) -> Iterator[None]:
    """Give the caller's generators back as they were."""
    states = random.getstate(), np.random.get_state()
    devices = [team.device.index or 0] if team.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
