"""A compressed model's times beside the dense one's, as rich tables."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from trcompress.cli.console import count, out, ratio, remark, size
from trcompress.timing.bench import Bench

WHAT = {"eval": "eval", "train": "training step"}


def print_bench(found: Bench) -> None:
    """Print latencies, memory and file sizes."""
    for note in found.notes:
        remark(note)
    machine = found.machine
    out.print(f"[bold]{found.artifact}[/bold] beside {found.baseline}")
    out.print(
        f"  {machine['cpu']}, {found.threads} threads, device {found.device}, torch {machine['torch']}; "
        f"{count(found.steps)} steps a sequence; medians of interleaved rounds"
    )
    out.print(_times(found))
    out.print(_sizes(found))


def _times(found: Bench) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("stack", "", "batch", "dense ms", "compressed ms", "faster", "dense peak", "compressed peak"):
        table.add_column(column, justify="left" if column in ("stack", "") else "right")
    table.add_column("evaluated as", overflow="fold")
    for one in found.timings:
        table.add_row(
            one.stack or "(root)",
            WHAT[one.what],
            count(one.batch),
            f"{one.baseline_ms:,.3f}",
            f"{one.artifact_ms:,.3f}",
            f"[bold]{one.speedup:,.2f}x[/bold]",
            size(one.baseline_peak_bytes),
            size(one.artifact_peak_bytes),
            _forms(one.chosen),
        )
    return table


def _forms(chosen: Mapping[str, str]) -> str:
    """One word where all weights are evaluated alike, else each weight's."""
    forms = set(chosen.values())
    return forms.pop() if len(forms) == 1 else "; ".join(f"{name}: {form}" for name, form in chosen.items())


def _sizes(found: Bench) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("", "dense", "compressed", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for one in found.memory:
        kept = f" + {size(one.kept_bytes)} kept in eval" if one.kept_bytes else ""
        together = one.artifact_bytes + one.kept_bytes
        table.add_row(
            f"memory of {one.stack or '(root)'}",
            size(one.baseline_bytes),
            size(one.artifact_bytes) + kept,
            ratio(one.baseline_bytes / together),
        )
    for name, pair in (("tensor bytes", found.tensor_bytes), ("bytes on disk", found.file_bytes)):
        before, after = pair["baseline"], pair["artifact"]
        table.add_row(name, size(before), size(after), ratio(before / after))
    return table
