"""One training run as files: where it writes, what it depends on, what it measures at the end."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from trcompress.data import DataSet
from trcompress.errors import OutputFileError, UsageError
from trcompress.network.classifier import Classifier, Wiring
from trcompress.training.display import Display
from trcompress.training.distributed import Team
from trcompress.training.evaluate import describe
from trcompress.training.loop import Trainer
from trcompress.training.measure import measure_split
from trcompress.training.run_state import RunFolder, RunInterruptedError, RunState, check_identity
from trcompress.training.settings import FinetuneSettings
from trcompress.training.teacher import Teacher
from trcompress.util.files import check_output, write_text
from trcompress.util.text import encodable

Evaluations = dict[str, dict[str, Any]]
"""Of the networks "before", "after" and "teacher", where there are such: an `Evaluation` as JSON values."""


@dataclass(frozen=True)
class OutputPaths:
    """Where a run writes.

    Args:
        model: the trained model.
    """

    model: Path

    @property
    def metrics(self) -> Path:
        """`model.metrics.json` beside `model.safetensors`."""
        return self.model.parent / f"{self.model.stem}.metrics.json"

    @property
    def run(self) -> Path:
        """`model.run`, the folder of log and state."""
        return self.model.parent / f"{self.model.stem}.run"

    def check(self, inputs: Sequence[Any], *, resume: bool, overwrite: bool, beside: Sequence[Path] = ()) -> None:
        """Refuse outputs that exist, before any long work.

        Args:
            inputs: what the run reads; see `check_output`.
            resume: an interrupted run may be gone on with.
            overwrite: outputs that exist may be replaced.
            beside: further files that will be written, as the sidecar.

        Raises:
            OutputFileError: an output exists and may not be replaced, is an input, or would replace another.
        """
        paths = (self.model, self.metrics, self.run, *beside)
        if len(set(paths)) < len(paths):
            raise OutputFileError(
                f"training writes {', '.join(one.name for one in paths)}: two of them are one; choose a name that "
                f"ends otherwise, as {self.model.stem}.safetensors"
            )
        interrupted = RunFolder.has_state(self.run)
        if interrupted and not (resume or overwrite):
            raise OutputFileError(
                f"a run to this output was interrupted, its state is in {self.run}; "
                "go on with `resume=True`, or start again with `overwrite=True`"
            )
        replace = overwrite or (resume and interrupted)
        for path in (self.model, self.metrics, *beside):
            check_output(path, overwrite=replace, keep=inputs)
        if self.run.is_dir():
            folder = RunFolder(self.run)
            for path in (folder.state_path, folder.metrics_path):
                check_output(path, overwrite=True, keep=inputs)


@dataclass(frozen=True)
class TrainingJob:
    """Everything a run needs.

    Args:
        student: the network, on its device.
        data: the data set.
        settings: how to train.
        team: the processes.
        outputs: where to write.
        identity: what the run depends on; a resumed run must have the same.
        teacher: the network to learn from.
        resume: go on from the saved state, if there is one.
        display: what the writing process shows.
    """

    student: Classifier
    data: DataSet
    settings: FinetuneSettings
    team: Team
    outputs: OutputPaths
    identity: dict[str, Any]
    teacher: Teacher | None = None
    resume: bool = False
    display: Display | None = None

    def train(self) -> RunState:
        """Run the loop; the best weights are in the network afterwards.

        Raises:
            UsageError: there is nothing to train on, or the saved state is of another run.
            RunInterruptedError, OutputFileError: see `Trainer.run`.
        """
        if not len(self.data.train):
            raise UsageError(f"training needs rows to train on: {self.data.name} has {', '.join(self.data.splits)}")
        trainer = Trainer(
            self.student,
            self.data,
            self.settings,
            self.team,
            teacher=self.teacher,
            display=self.display if self.team.writes else None,
        )
        trainer.folder = RunFolder(self.outputs.run)
        state = trainer.folder.load() if self.resume else None
        if state is not None:
            check_identity(state.identity, self.identity)
        self.team.wait()
        trainer.state = state or RunState(identity=self.identity)
        try:
            return trainer.run()
        finally:
            trainer.folder.drop_if_empty()

    def metrics(self, state: RunState, before: Classifier | None = None) -> tuple[dict[str, Any], Evaluations]:
        """Measure the trained network once, on the test part if there is one, else on the validation part.

        Args:
            state: of the finished run.
            before: the network as it was.

        Returns:
            Totals for the artifact's header, and what each network does with every class, for the metrics file.
        """
        start, best = state.history[0], state.best or {}
        found: dict[str, Any] = {"best_epoch": best.get("epoch", 0)}
        for name in ("validation_accuracy", "validation_loss"):
            if name in best and (name != "validation_loss" or self.data.task == "regression"):
                found |= {f"{name}_before": start[name], f"{name}_after": best[name]}
        part = self.data.splits.get("test") or self.data.splits.get("validation")
        if part is None:
            return found, {}
        evaluations: Evaluations = {}
        networks = {"before": before, "after": self.student, "teacher": self.teacher and self.teacher.classifier}
        for name, network in networks.items():
            if network is not None:
                figures = measure_split(
                    network.module.to(self.team.device),
                    part,
                    self.team,
                    classes=len(self.data.classes),
                    batch_size=self.settings.batch_size,
                    kind=self.data.task,
                )
                measured = {
                    "accuracy": figures.accuracy,
                    "rmse": figures.rmse,
                    "r2": figures.r2,
                    "loss": figures.loss,
                }
                found |= {f"{what}_{name}": value for what, value in measured.items() if value is not None}
                if figures.accuracy is not None:
                    evaluations[name] = describe(figures, self.outputs.model.name, self.data, part.name).to_dict()
        where = f"{part.name} part of {self.data.name}, {len(part):,} sequences"
        return found | {"measured_on": where}, evaluations

    def close(
        self, state: RunState, metrics: dict[str, Any], evaluations: Evaluations, notes: Sequence[str]
    ) -> None:
        """Write the metrics file and let go of the saved state, which is of no more use."""
        if self.team.writes:
            record = {
                "schema_version": 1,
                "verb": "finetune",
                "model": self.outputs.model.name,
                "metrics": metrics,
                "evaluations": evaluations,
                "settings": self.settings.model_dump(mode="json"),
                "identity": self.identity,
                "notes": list(notes),
                "history": state.history,
            }
            write_text(self.outputs.metrics, json.dumps(encodable(record), indent=2) + "\n")
            RunFolder(self.outputs.run).state_path.unlink(missing_ok=True)
        self.team.wait()


@contextmanager
def resumable(outputs: OutputPaths) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM stop a run at any moment, with a word on how to go on.

    Raises:
        RunInterruptedError: instead of KeyboardInterrupt.
    """
    with _sigterm_interrupts():
        try:
            yield
        except RunInterruptedError:
            raise
        except KeyboardInterrupt:
            raise RunInterruptedError(_say_how_to_go_on(outputs)) from None


def describe_run(settings: FinetuneSettings, data: DataSet, wiring: Wiring | None = None) -> dict[str, Any]:
    """Collect what a run depends on beside its input files, as JSON values, apart from where it runs."""
    kept = settings.model_dump(mode="json", exclude={"device", "teacher_device"})
    about = {"data": data.name, "data_sha256": data.fingerprint}
    return json.loads(json.dumps(kept | about | {"wiring": asdict(wiring or Wiring())}))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt where nobody else handles it; only the main thread can."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say_how_to_go_on(outputs: OutputPaths) -> str:
    if not RunFolder.has_state(outputs.run):
        return "interrupted before the first epoch; run the same command again"
    return f"interrupted; all whole epochs are saved in {outputs.run}: go on with `resume=True`"
