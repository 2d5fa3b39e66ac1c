"""What `compress`, and `plan` with a budget for the whole file, do and print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trcompress.errors import UsageError

if TYPE_CHECKING:
    from trcompress.artifact.file import Artifact
    from trcompress.passes.whole import Whole
    from trcompress.passes.whole_file import RunnableFile


def run_compress(checkpoint: Path, given: dict[str, Any]) -> None:
    """Compress, train where that is asked for, write, and print what was done."""
    from trcompress.artifact.write import write_artifact
    from trcompress.util.files import check_output

    out = given["out"] or checkpoint.with_suffix(".small.safetensors")
    check_output(out, overwrite=given["overwrite"], keep=(checkpoint, *_files(given)))
    metrics: Mapping[str, Any] = {}
    if given["training_data"]:
        whole, metrics = _train(checkpoint, out, given)
    else:
        artifact, whole = compress_whole(checkpoint, given)
        if whole.reached:
            write_artifact(out, artifact, overwrite=given["overwrite"], sidecar=given["sidecar"])
    print_whole(whole, given["format_"], out if whole.reached else None, metrics)
    whole.require_reached()


def plan_whole(checkpoint: Path, given: dict[str, Any]) -> None:
    """Show the ladder that `compress` would walk; nothing is written."""
    if not given["calibrate"]:
        raise UsageError("a budget for the whole file needs `calibrate`: inputs to measure damage on")
    _, whole = compress_whole(checkpoint, given | {"readout": "final", "stacks": None})
    print_whole(whole, given["format_"])
    whole.require_reached()


def compress_whole(checkpoint: Path, given: dict[str, Any]) -> tuple[Artifact, Whole]:
    """Find what fits the budget; nothing is written."""
    from trcompress.cli.console import progress_bar
    from trcompress.passes.whole_file import compress_file

    runnable = _runnable(checkpoint, given)
    with progress_bar("compress") as update:
        return compress_file(runnable, **_budget(runnable, given), progress=update)


def print_whole(
    whole: Whole, format_: str, out: Path | None = None, metrics: Mapping[str, Any] | None = None
) -> None:
    """Print the ladder and the plan of each tensor; and what training came to."""
    from trcompress.cli.console import out as stdout
    from trcompress.cli.console import print_json, say
    from trcompress.cli.tables import make_table
    from trcompress.util.figures import count, ratio

    if format_ == "json":
        print_json(whole_json(whole, out) | {"metrics": dict(metrics or {})})
        return
    rungs = [[count(one.nbytes), f"{one.damage:.3g}", one.what] for one in whole.rungs]
    stdout.print(make_table([">file bytes", ">damage", "!step"], rungs, title=f"ladder ({whole.structure})"))
    rows = [
        [row.name, count(row.bytes_before), count(row.bytes_after), f"{row.damage:.3g}", row.level]
        for row in whole.rows
    ]
    title = "plan of each tensor (damage of each alone)"
    stdout.print()
    stdout.print(make_table(["!tensor", ">bytes before", ">after", ">damage", "stored as"], rows, title=title))
    for record in whole.passes:
        if record.kind != "rounding":
            say(f"{record.kind}: {record.name}: {record.before} -> {record.after}")
    for note in whole.notes:
        say(note)
    say(f"damage: {whole.measure}, on inputs held out: {whole.damage:.4g}")
    size = out.stat().st_size if out else whole.nbytes
    before = f"{count(whole.bytes_before)} bytes of tensors -> {count(size)} bytes of file"
    say(f"{before}: {ratio(whole.bytes_before / size)} of the whole model")
    if metrics and "accuracy_after" in metrics:
        before, after = (100 * metrics[f"accuracy_{one}"] for one in ("before", "after"))
        say(f"trained: accuracy {before:.2f} % before, {after:.2f} % after, on {metrics['measured_on']}")
    if out:
        say(f"wrote {out}")


def whole_json(whole: Whole, out: Path | None) -> dict[str, Any]:
    """The same as plain values."""
    from dataclasses import asdict

    return {
        "out": str(out) if out else None,
        "reached": whole.reached,
        "structure": whole.structure,
        "tensor_bytes_before": whole.bytes_before,
        "file_bytes": out.stat().st_size if out else whole.nbytes,
        "damage": whole.damage,
        "measure": whole.measure,
        "ladder": [asdict(one) for one in whole.rungs],
        "tensors": [asdict(one) for one in whole.rows],
        "passes": [one.model_dump(mode="json") for one in whole.passes],
        "notes": list(whole.notes),
    }


def _runnable(checkpoint: Path, given: dict[str, Any]) -> RunnableFile:
    from trcompress.cli.console import progress_bar
    from trcompress.cli.options import reading
    from trcompress.cli.task_options import read_data_options
    from trcompress.passes.runnable import open_runnable

    with progress_bar("data") as update:
        return open_runnable(
            checkpoint,
            given["calibrate"],
            _wiring(given),
            outputs=given["outputs"],
            data_options=read_data_options(given["data_options"]),
            reading=reading(given),
            seed=given["seed"],
            progress=update,
        )


def _train(checkpoint: Path, out: Path, given: dict[str, Any]) -> tuple[Whole, Mapping[str, Any]]:
    """Compress, train on data with labels and a teacher, the checkpoint by default, and write the best."""
    from trcompress.cli.console import progress_bar
    from trcompress.cli.task_options import open_data
    from trcompress.passes.trained import compress_and_train
    from trcompress.training.settings import FinetuneSettings

    runnable = _runnable(checkpoint, given)
    data = open_data(given | {"data": given["training_data"], "max_bad_clips": None})
    chosen = {name: given[name] for name in ("epochs", "batch_size", "lr", "seed")}
    with progress_bar("compress") as update:
        found = compress_and_train(
            runnable,
            data,
            out,
            teacher=given["teacher"] or checkpoint,
            settings=FinetuneSettings(**chosen),
            wiring=_wiring(given),
            overwrite=given["overwrite"],
            sidecar=given["sidecar"],
            progress=update,
            **_budget(runnable, given),
        )
    return found.whole, found.training.metrics if found.training else {}


def _budget(runnable: RunnableFile, given: dict[str, Any]) -> dict[str, Any]:
    """The goal, and what may be done to reach it, as `compress_file` takes them."""
    from trcompress.cli.options import command_line

    allowed = {name: given[name] for name in ("seed", "passes", "storage", "matrices", "units", "rank")}
    target = runnable.target_bytes(given["target_size"], given["target_ratio_model"])
    return {"target_bytes": target, "command": command_line(), "packed": given["pack"], **allowed}


def _wiring(given: dict[str, Any]) -> Any:
    from trcompress.cli.task_options import read_wiring

    of_the_file = ("drop", "allow_nonfinite")  # which tensors arrive is not how they form a network
    return read_wiring({name: value for name, value in given.items() if name not in of_the_file})


def _files(given: dict[str, Any]) -> Sequence[Path]:
    """Input files that an output must not replace."""
    named = (given["calibrate"], given.get("training_data"), given.get("teacher"))
    return [Path(one) for one in named if one and Path(one).exists()]
