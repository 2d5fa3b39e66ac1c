"""Evaluations and training results as rich tables."""

from __future__ import annotations

from rich.table import Table

from trcompress.cli.console import count, out, remark
from trcompress.training.evaluate import Evaluation
from trcompress.training.finetune import FinetuneResult


def print_evaluation(found: Evaluation, baseline: Evaluation | None = None) -> None:
    """Print the totals, a table per class and the confusion matrix."""
    for note in found.notes:
        remark(note)
    out.print(f"[bold]{found.model}[/bold]: {found.split} part of {found.data}, {count(found.sequences)} sequences")
    out.print(f"  accuracy  [bold]{found.accuracy:.2%}[/bold]")
    if found.top5 is not None:
        out.print(f"  top-5     {found.top5:.2%}")
    out.print(f"  loss      {found.loss:.4f}")
    if found.agreement is not None:
        out.print(f"  agreement {found.agreement:.2%} of answers are the {'baseline' if baseline else 'teacher'}'s")
    if baseline is not None:
        drop = baseline.accuracy - found.accuracy
        out.print(f"  baseline  {baseline.accuracy:.2%} ({baseline.model}); this model is {_points(-drop)}")
    out.print(_class_table(found))
    out.print(_confusion_table(found))


def print_training(result: FinetuneResult) -> None:
    """Print accuracy before and after, and what was written."""
    for note in result.notes:
        remark(note)
    metrics = result.metrics
    table = Table(box=None, pad_edge=False)
    for column in ("", "before", "after", "teacher"):
        table.add_column(column, justify="left" if not column else "right")
    rows = (
        ("validation accuracy", "validation_accuracy", ".2%"),
        ("accuracy", "accuracy", ".2%"),
        ("loss", "loss", ".4f"),
    )
    for title, name, form in rows:
        cells = [metrics.get(f"{name}_{when}") for when in ("before", "after", "teacher")]
        if any(cell is not None for cell in cells):
            table.add_row(title, *("" if cell is None else format(cell, form) for cell in cells))
    out.print(table)
    if "measured_on" in metrics:
        out.print(f"accuracy and loss: {metrics['measured_on']}", markup=False)
    why = "no better result for --patience epochs" if result.stopped == "patience" else "all epochs done"
    out.print(f"kept epoch {result.best_epoch} of {result.epochs} ({why})")
    out.print(f"wrote {result.out}, {result.metrics_path}, {result.run_folder}/metrics.jsonl", markup=False)


def _class_table(found: Evaluation) -> Table:
    table = Table(title="per class", title_justify="left")
    for column in ("class", "sequences", "precision", "recall", "F1"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for one in found.per_class:
        table.add_row(one.name, count(one.sequences), *(_share(x) for x in (one.precision, one.recall, one.f1)))
    return table


def _confusion_table(found: Evaluation) -> Table:
    table = Table(title="confusion: true class down, answer across", title_justify="left")
    table.add_column("")
    for name in found.classes:
        table.add_column(name, justify="right")
    for name, row in zip(found.classes, found.confusion, strict=True):
        table.add_row(name, *(str(cell) if cell else "." for cell in row))
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _points(change: float) -> str:
    return f"{abs(100 * change):.2f} points {'above' if change >= 0 else 'below'}"
