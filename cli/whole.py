"""What `compress`, and `plan` with a budget for the whole file, do and print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trcompress.errors import UsageError

if TYPE_CHECKING:
    from trcompress.passes.compress_checkpoint import CompressedFile
    from trcompress.passes.whole import Whole


def run_compress(checkpoint: Path, given: dict[str, Any]) -> None:
    """Compress, train where that is asked for, write, and print what was done."""
    from trcompress.cli.options import beside

    out = given["out"] or beside(checkpoint, ".small.safetensors")
    training = {name: given[name] for name in ("teacher", "epochs", "batch_size", "lr")}
    written = {name: given[name] for name in ("overwrite", "sidecar")}
    found = compress_whole(checkpoint, given, out, finetune=given["training_data"], **training, **written)
    print_whole(
        found.whole,
        given["format_"],
        out if found.whole.reached else None,
        found.training.metrics if found.training else {},
    )
    found.whole.require_reached()


def plan_whole(checkpoint: Path, given: dict[str, Any]) -> None:
    """Show the ladder that `compress` would walk; nothing is written."""
    if not given["calibrate"]:
        raise UsageError("a budget for the whole file needs `calibrate`: inputs to measure damage on")
    given = given | {"readout": "final", "stacks": None}
    whole = compress_whole(checkpoint, given, finetune=given["finetune"], planned=True).whole
    print_whole(whole, given["format_"])
    whole.require_reached()


def compress_whole(
    checkpoint: Path, given: Mapping[str, Any], out: Path | None = None, **more: Any
) -> CompressedFile:
    """Find what fits the budget, and write it where a path is given.

    Args:
        checkpoint: the file.
        given: options of the verb.
        out: where to write.
        more: other arguments of `trcompress.compress`.
    """
    from trcompress.cli.console import progress_bar
    from trcompress.cli.options import command_line, reading
    from trcompress.cli.task_options import read_data_options, read_wiring
    from trcompress.passes.compress_checkpoint import compressed_file

    of_the_file = ("drop", "allow_nonfinite")  # which tensors arrive is not how they form a network
    wiring = read_wiring({name: value for name, value in given.items() if name not in of_the_file})
    same = ("calibrate", "target_size", "target_ratio_model", "passes", "storage", "matrices", "units", "rank")
    how = {name: given[name] for name in (*same, "pack", "outputs", "seed")}
    how |= {"wiring": wiring, "reading": reading(given), "command": command_line()}
    how["data_options"] = read_data_options(given["data_options"]) or None
    with progress_bar("compress") as update:
        return compressed_file(checkpoint, out, **how, **more, progress=update)


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
