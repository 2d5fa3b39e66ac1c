"""`trcompress evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trcompress.cli.options import device_option, format_option, path_argument
from trcompress.cli.task_options import open_data, path_option, read_wiring, task_options


@click.command()
@path_argument("model", "MODEL")
@task_options
@click.option(
    "--split",
    type=click.Choice(["test", "validation", "train"]),
    default="test",
    show_default=True,
    help="Part of the data.",
)
@path_option("--teacher", "CKPT", "A model to compare answers with.")
@path_option("--baseline", "CKPT", "The dense model, measured beside this one.")
@click.option("--min-accuracy", type=click.FloatRange(0, 1), metavar="A", help="Exit 5 below this accuracy.")
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 1),
    metavar="D",
    help="Exit 5 if the accuracy is more than this below the baseline's; 0.01 is one point.",
)
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True, help="Sequences at a time.")
@device_option
@format_option
def evaluate(model: Path, **given: Any) -> None:
    """Measure an artifact or a dense checkpoint on data.

    Accuracy, top-5 (from six classes on), loss, a table per class, the confusion matrix, and how often the
    answers agree with the teacher's or the baseline's. The classifier is the recurrent stack and the linear head
    in the file; how they were found is printed.

    Functions named M:F, with examples: docs/your-code.md.

    Example: trcompress evaluate model.tr.safetensors --data data.npz --baseline model.pt --max-drop 0.01
    """
    from trcompress.errors import QualityGateError, UsageError
    from trcompress.training.evaluate import check_gates
    from trcompress.training.evaluate import evaluate as measure

    if given["max_drop"] is not None and given["baseline"] is None:
        raise UsageError("--max-drop needs the model to compare with: --baseline CKPT")
    data, wiring = open_data(given), read_wiring(given)
    same = {key: given[key] for key in ("split", "batch_size", "device")} | {"wiring": wiring}
    baseline = measure(given["baseline"], data, **same) if given["baseline"] else None
    found = measure(model, data, teacher=given["teacher"] or given["baseline"], **same)
    missed = None
    try:
        check_gates(found, min_accuracy=given["min_accuracy"], baseline=baseline, max_drop=given["max_drop"])
    except QualityGateError as error:
        missed = error
    if _writes():
        _print(found, baseline, missed, given["format_"])
    if missed is not None:
        raise missed


def _writes() -> bool:
    """Under torchrun, one process prints."""
    import os

    return os.environ.get("RANK", "0") == "0"


def _print(found: Any, baseline: Any, missed: Any, format_: str) -> None:
    from trcompress.cli.console import error_document, print_json
    from trcompress.cli.render_evaluation import print_evaluation

    if format_ == "human":
        print_evaluation(found, baseline)
        return
    extra = {} if baseline is None else {"baseline": baseline.to_dict()}
    if baseline is not None and found.accuracy is not None:
        extra["drop"] = baseline.right - found.accuracy
    print_json(
        found.to_dict() | extra | ({} if missed is None else error_document(missed, str(missed), missed.exit_code))
    )
