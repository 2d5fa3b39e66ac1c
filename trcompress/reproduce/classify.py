"""Tables 1-3, Fig. 7 and the footnote's networks: a classifier trained from scratch, per split and seed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from safetensors.torch import save

from trcompress.data import DataSet
from trcompress.reproduce.context import Context
from trcompress.reproduce.network import build_classifier, input_parameters
from trcompress.reproduce.plots import Curve, Plot
from trcompress.reproduce.recipe_schema import ClassifyRecipe
from trcompress.reproduce.result import Findings, ResultRow, Table
from trcompress.reproduce.sequences import open_sequences
from trcompress.training.display import Progress as EpochProgress
from trcompress.training.distributed import team
from trcompress.training.loop import Trainer
from trcompress.training.measure import measure_split
from trcompress.util.files import write_text
from trcompress.util.progress import Progress, part_of

SPLIT_WORDS = {
    "auto": "the data's own split",
    "random": "random split",
    "group": "groups left out",
    "official-1": "official split 1",
    "official-2": "official split 2",
    "official-3": "official split 3",
}
RATIO = "compression ratio (Eq. 7)"
WHOLE = "parameters of the whole network"
FILE = "bytes of the whole network's file"


@dataclass(frozen=True)
class ClassifyRun:
    """One trained network.

    Args:
        split: how the data was divided.
        seed: of the run.
        accuracy: on the test part.
        train_accuracy: of the last epoch.
        best_epoch: the one that was kept, by validation.
        parameters: of the input-to-hidden weight, counted in the built layer.
        all_parameters: of the network.
        file_bytes: of the network's state dict as a safetensors file.
        history: a record per epoch.
    """

    split: str
    seed: int
    accuracy: float
    train_accuracy: float
    best_epoch: int
    parameters: int
    all_parameters: int
    file_bytes: int
    history: tuple[dict[str, Any], ...]

    @property
    def seconds_per_epoch(self) -> float:
        """Mean time of an epoch's training, validation not counted."""
        times = [record["epoch_s"] for record in self.history if "epoch_s" in record]
        return fmean(times) if times else 0.0


class ShareDisplay:
    """Turns the training loop's display into shares of the whole."""

    def __init__(self, progress: Progress, epochs: int) -> None:
        self._progress, self._epochs = progress, max(1, epochs)

    def batch(self, progress: EpochProgress) -> None:
        """Tell how far the pass is."""
        done = (progress.epoch - 1 + progress.share) / self._epochs
        self._progress(f"epoch {progress.epoch}, loss {progress.loss:.3f}", min(1.0, done))

    def epoch(self, record: dict[str, Any]) -> None:
        """Tell that a pass is done."""
        self._progress(f"epoch {record['epoch']}", min(1.0, record["epoch"] / self._epochs))

    def close(self) -> None:
        """Nothing is open."""


def run_classify(recipe: ClassifyRecipe, context: Context) -> Findings:
    """Train once per split and seed; measure on the test part once."""
    runs: list[ClassifyRun] = []
    total = len(recipe.data.splits) * len(recipe.seeds)
    for split in recipe.data.splits:
        loading = part_of(context.progress, f"{split}: data", len(runs), total) or context.progress
        data = open_sequences(recipe.data, split, context.folder, loading)
        for seed in recipe.seeds:
            telling = part_of(context.progress, f"{split}, seed {seed}", len(runs), total) or context.progress
            runs.append(_train(recipe, data, split, seed, telling))
            _log(context.folder, runs)
    return Findings(
        data=data.name,
        rows=tuple(_rows(recipe, data, runs)),
        tables=(_table(runs),),
        plots=tuple(_curves(recipe, data, runs)),
        notes=tuple(_notes(data)),
    )


def _train(recipe: ClassifyRecipe, data: DataSet, split: str, seed: int, progress: Progress) -> ClassifyRun:
    settings = recipe.train.model_copy(update={"seed": seed})
    with team(settings.device) as crew:
        student = build_classifier(recipe.model, data, dropout=settings.dropout, seed=seed)
        student.module.to(crew.device)
        trainer = Trainer(student, data, settings, crew, display=ShareDisplay(progress, settings.epochs))
        state = trainer.run()
        part = data.test or data.validation or data.train
        figures = measure_split(
            student.module, part, crew, classes=len(data.classes), batch_size=settings.batch_size
        )
    return ClassifyRun(
        split=split,
        seed=seed,
        accuracy=figures.right,
        train_accuracy=state.history[-1].get("accuracy", 0.0),
        best_epoch=(state.best or {}).get("epoch", 0),
        parameters=input_parameters(student.recurrent["rnn"]),
        all_parameters=sum(one.numel() for one in student.module.parameters()),
        file_bytes=len(save({key: value.cpu().contiguous() for key, value in student.module.state_dict().items()})),
        history=tuple(state.history),
    )


def _log(folder: Path, runs: Sequence[ClassifyRun]) -> None:
    """Keep every epoch of every run so far."""
    lines = [json.dumps({"split": run.split, "seed": run.seed, **record}) for run in runs for record in run.history]
    write_text(folder / "metrics.jsonl", "\n".join(lines) + "\n")


def _rows(recipe: ClassifyRecipe, data: DataSet, runs: Sequence[ClassifyRun]) -> Iterator[ResultRow]:
    paper, original = recipe.paper, recipe.data.original
    counted = runs[0].parameters
    yield ResultRow(
        name="input-to-hidden parameters",
        measured=counted,
        paper=paper.get("parameters"),
        note="counted in the built layer" + ("" if counted == recipe.model.parameters else ": NOT the plan's"),
    )
    yield ResultRow(
        name=RATIO,
        measured=recipe.model.matrix.parameters / counted,
        paper=paper.get("compression_ratio"),
    )
    yield ResultRow(name=WHOLE, measured=runs[0].all_parameters)
    yield ResultRow(name=FILE, measured=runs[0].file_bytes, note="its state dict as safetensors")
    for split in recipe.data.splits:
        found = [run.accuracy for run in runs if run.split == split]
        yield ResultRow(
            name=f"accuracy, {SPLIT_WORDS[split]}",
            measured=fmean(found),
            spread=stdev(found) if len(found) > 1 else None,
            runs=len(found),
            paper=paper.get("accuracy"),
            note=f"paper: {original}; here: {data.name}" if original else f"here: {data.name}",
        )


def _table(runs: Sequence[ClassifyRun]) -> Table:
    columns = ("split", "seed", "test accuracy", "train accuracy", "best epoch", "epochs", "s per epoch")
    rows = tuple(
        (
            run.split,
            run.seed,
            round(run.accuracy, 4),
            round(run.train_accuracy, 4),
            run.best_epoch,
            len(run.history) - 1,
            round(run.seconds_per_epoch, 2),
        )
        for run in runs
    )
    return Table(title="runs", columns=columns, rows=rows)


def _curves(recipe: ClassifyRecipe, data: DataSet, runs: Sequence[ClassifyRun]) -> Iterator[Plot]:
    """Fig. 7 (b), (c): training loss, and accuracy on the parts that training sees."""
    names = {"loss": "training loss", "accuracy": "training accuracy", "validation_accuracy": "validation accuracy"}
    for key, label in names.items():
        curves = [
            Curve(name=f"{run.split}, seed {run.seed}", x=tuple(map(float, x)), y=tuple(y))
            for run in runs
            if (points := [(one["epoch"], one[key]) for one in run.history if key in one])
            for x, y in [zip(*points, strict=True)]
        ]
        if curves:
            yield Plot(
                file=key.replace("_", "-"),
                title=f"{recipe.row.rpartition(', ')[2]}, {data.name}: {label}",
                x_label="epoch",
                y_label=label,
                curves=tuple(curves),
            )


def _notes(data: DataSet) -> Iterator[str]:
    yield f"test part of the last split: {data.split_note}"
    yield how_chosen(data)
    yield from data.notes


def how_chosen(data: DataSet) -> str:
    """Say which epoch was kept, and that the test part had no say in it."""
    if data.validation is None:
        return "there is no validation part: the last epoch was kept; the test part was measured once per run"
    return "the epoch was chosen by the validation part; the test part was measured once per run"
