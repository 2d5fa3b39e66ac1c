"""Evaluations and training results as rich tables."""

from __future__ import annotations

from rich.table import Table

from trcompress.cli.console import out, remark
from trcompress.cli.tables import bold, make_table
from trcompress.training.evaluate import Evaluation
from trcompress.training.finetune import FinetuneResult
from trcompress.util.figures import count
from trcompress.util.text import visible

MOST_CLASSES = 12
"""Columns of a confusion matrix that a terminal can show; wider ones are in the JSON and in the HTML report."""


def print_evaluation(found: Evaluation, baseline: Evaluation | None = None) -> None:
    """Print the totals, a table per class and the confusion matrix."""
    for note in found.notes:
        remark(note)
    out.print(bold(found.model))
    counted = "steps" if found.task == "labelling" else "sequences"
    out.print(f"  {found.split} part of {found.data}, {count(found.sequences)} {counted}", markup=False)
    if found.accuracy is None:
        _print_errors(found, baseline)
        return
    out.print(f"  accuracy  [bold]{found.accuracy:.2%}[/bold]")
    if found.top5 is not None:
        out.print(f"  top-5     {found.top5:.2%}")
    out.print(f"  loss      {found.loss:.4f}")
    if found.agreement is not None:
        out.print(f"  agreement {found.agreement:.2%} of answers are the {'baseline' if baseline else 'teacher'}'s")
    if baseline is not None:
        drop = baseline.right - found.accuracy
        line = f"  baseline  {baseline.right:.2%} ({baseline.model}); this model is {_points(-drop)}"
        out.print(line, markup=False)
    if not found.confusion:
        out.print(f"{count(len(found.classes))} classes: too many to count each pair of true and given")
        return
    out.print(_class_table(found))
    if len(found.classes) <= MOST_CLASSES:
        out.print(_confusion_table(found))
    else:
        out.print(f"confusion of {count(len(found.classes))} classes: see `--format json`", markup=False)


def _print_errors(found: Evaluation, baseline: Evaluation | None) -> None:
    """Print how far numbers are from those to be met."""
    out.print(f"  RMSE      [bold]{found.rmse:.4g}[/bold]")
    if found.r2 is not None:
        out.print(f"  R2        {found.r2:.4f}")
    if baseline is not None:
        out.print(f"  baseline  RMSE {baseline.rmse:.4g} ({baseline.model})", markup=False)


def print_training(result: FinetuneResult) -> None:
    """Print accuracy before and after, and what was written."""
    for note in result.notes:
        remark(note)
    metrics = result.metrics
    rows = []
    for title, name, form in (
        ("validation accuracy", "validation_accuracy", ".2%"),
        ("accuracy", "accuracy", ".2%"),
        ("RMSE", "rmse", ".4g"),
        ("R2", "r2", ".4f"),
        ("loss", "loss", ".4f"),
    ):
        cells = [metrics.get(f"{name}_{when}") for when in ("before", "after", "teacher")]
        if any(cell is not None for cell in cells):
            rows.append([title, *("" if cell is None else format(cell, form) for cell in cells)])
    out.print(make_table(["", ">before", ">after", ">teacher"], rows))
    if "measured_on" in metrics:
        out.print(f"measured on: {metrics['measured_on']}", markup=False)
    why = "no better result for --patience epochs" if result.stopped == "patience" else "all epochs done"
    out.print(f"kept epoch {result.best_epoch} of {result.epochs} ({why})")
    out.print(
        visible(f"wrote {result.out}, {result.metrics_path}, {result.run_folder}/metrics.jsonl"), markup=False
    )


def _class_table(found: Evaluation) -> Table:
    rows = [
        [one.name, count(one.sequences), *(_share(x) for x in (one.precision, one.recall, one.f1))]
        for one in found.per_class
    ]
    return make_table(["class", ">sequences", ">precision", ">recall", ">F1"], rows, title="per class")


def _confusion_table(found: Evaluation) -> Table:
    """Answers across by number, so that long names of classes fit."""
    numbered = [f"{k} {name}" for k, name in enumerate(found.classes, 1)]
    rows = [
        [name, *(str(cell) if cell else "." for cell in row)]
        for name, row in zip(numbered, found.confusion, strict=True)
    ]
    columns = ["", *(f">{k}" for k in range(1, len(numbered) + 1))]
    return make_table(columns, rows, title="confusion: true class down, answer across")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _points(change: float) -> str:
    return f"{abs(100 * change):.2f} points {'above' if change >= 0 else 'below'}"
