"""The one training loop: epochs over batches, measured on the validation part, saved after each.

Fine-tuning and training from scratch both run through `Trainer.run`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from trcompress.data import DataSet
from trcompress.errors import UsageError
from trcompress.network.classifier import Classifier
from trcompress.training.display import Display, NoDisplay
from trcompress.training.distributed import Team
from trcompress.training.epoch import Passes, own_randomness
from trcompress.training.learner import Learner, class_weights
from trcompress.training.measure import measure_split
from trcompress.training.parameters import select_parameters
from trcompress.training.run_state import (
    RunFolder,
    RunState,
    pack_optimizer,
    unpack_optimizer,
)
from trcompress.training.settings import FinetuneSettings
from trcompress.training.straight_through import StraightThrough
from trcompress.training.tasks import Task
from trcompress.training.teacher import Teacher


class Trainer:
    """Trains one network.

    Args:
        student: the network, on the team's device.
        data: its train part is trained on, its validation part chooses the epoch; the test part is not touched.
        settings: how.
        team: the processes.
        teacher: the network to learn from.
        folder: where state and log go; None keeps nothing on disk.
        display: what the user sees.
        state: where to go on; an empty one starts.
    """

    def __init__(
        self,
        student: Classifier,
        data: DataSet,
        settings: FinetuneSettings,
        team: Team,
        *,
        teacher: Teacher | None = None,
        folder: RunFolder | None = None,
        display: Display | None = None,
        state: RunState | None = None,
    ) -> None:
        self.student, self.data, self.settings, self.team = student, data, settings, team
        self.teacher, self.display = teacher, display or NoDisplay()
        self.folder = folder
        self.state = state or RunState()
        self.rounding = StraightThrough(student.module, student.storage)
        self._learnable = [name for name, one in student.module.named_parameters() if one.requires_grad]
        self._weights = class_weights(settings.class_weights, data.train, len(data.classes))
        if settings.patience and data.validation is None:
            raise UsageError(
                f"`patience={settings.patience}` needs a validation part to be patient about: "
                "take one with `data_options=validation_fraction=0.2`"
            )
        self._learner().close()  # faults show before anything is written
        self._parameters()

    def run(self) -> RunState:
        """Train to the end, and leave the best weights in the network.

        Raises:
            KeyboardInterrupt: Ctrl-C; the last whole epoch is saved.
            OutputFileError: the state cannot be written; the one before remains.
            UsageError: the loss is not finite any more.
        """
        with own_randomness(self.team):
            try:
                self._begin()
                if self.state.epoch < self.settings.epochs and not self.state.finished:
                    self._run_epochs()
                self.state.finished = True
                self._save()
            finally:
                self.display.close()
        self.student.module.load_state_dict(self.state.groups["best"])
        return self.state

    def _begin(self) -> None:
        """Take up the saved weights, or measure the ones given."""
        if self.state.groups:
            self.student.module.load_state_dict(self.state.groups["model"])
        else:
            self._validate({"phase": "start", "epoch": 0})
            self._save()
        if self.folder and self.team.writes:
            self.folder.restart_log(self.state.history)
        self.display.epoch(self.state.history[-1])

    def _run_epochs(self) -> None:
        learner, parameters = self._learner(), self._parameters()
        if learner.remembers and self.teacher:
            self.teacher.remember(self.data.train, self.team, batch_size=self.settings.batch_size)
        passes = Passes(learner, parameters, self.data.train, self.settings, self.team, self.display, self.rounding)
        if self.state.epoch:
            unpack_optimizer(passes.optimizer, self.state.groups.get("optimizer", {}), self.state.numbers)
            passes.scaler.load_state_dict(self.state.numbers["scaler"])
        try:
            for epoch in range(self.state.epoch, self.settings.epochs):
                self._run_epoch(passes, epoch)
                if self.state.finished:
                    return
        finally:
            learner.close()

    def _learner(self) -> Learner:
        task = Task.of(self.data)
        return Learner(self.student, self.settings, self._weights, self.teacher, task).to(self.team.device)

    def _parameters(self) -> list[nn.Parameter]:
        return select_parameters(self.student, self._learnable, self.settings.freeze)

    def _run_epoch(self, passes: Passes, epoch: int) -> None:
        record = passes.run(epoch)
        self._validate(record)
        patience = self.settings.patience
        self.state.finished = bool(patience and self.state.stale >= patience)
        self.state.epoch = epoch + 1
        self.state.groups["optimizer"], numbers = pack_optimizer(passes.optimizer)
        self.state.numbers = {**numbers, "scaler": passes.scaler.state_dict()}
        self._save()
        if self.folder and self.team.writes:
            self.folder.log(record)
        self.display.epoch(record)

    def _validate(self, record: dict[str, Any]) -> None:
        """Measure on the validation part; keep the weights if they are the best so far."""
        module = self.student.module
        if self.data.validation is not None:
            with self.rounding.as_stored():
                figures = measure_split(
                    module,
                    self.data.validation,
                    self.team,
                    classes=len(self.data.classes),
                    batch_size=self.settings.batch_size,
                    kind=self.data.task,
                )
            told = {"validation_accuracy": figures.accuracy, "validation_loss": figures.loss}
            record |= {name: value for name, value in told.items() if value is not None}
        self.state.history.append(record)
        weights = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
        self.state.groups["model"] = weights
        if self.state.best is None or is_better(record, self.state.best):
            self.state.best, self.state.stale = record, 0
            self.state.groups["best"] = weights
        else:
            self.state.stale += 1

    def _save(self) -> None:
        if self.folder and self.team.writes:
            self.folder.save(self.state)
        self.team.wait()


def is_better(record: dict[str, Any], best: dict[str, Any]) -> bool:
    """Return True where an epoch is better on the validation part (accuracy, then loss), or there is none."""
    if "validation_loss" not in record:
        return True
    return _key(record) > _key(best)


def _key(record: dict[str, Any]) -> tuple[float, float]:
    return record.get("validation_accuracy", 0.0), -record["validation_loss"]
