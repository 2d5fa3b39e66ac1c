"""A compressed model's times beside the dense one's, as rich tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rich.table import Table

from trcompress.cli.console import out, remark
from trcompress.cli.tables import bold, make_table
from trcompress.timing.bench import BenchReport
from trcompress.util.figures import count, ratio, size


def print_bench(found: BenchReport) -> None:
    """Print latencies, memory and file sizes."""
    for note in found.notes:
        remark(note)
    machine = found.machine
    out.print(bold(found.artifact), f"beside {found.baseline}", markup=False)
    out.print(
        f"  {machine['cpu']}, {found.threads} threads, device {found.device}, torch {machine['torch']}; "
        f"{count(found.steps)} steps a sequence; medians of interleaved rounds in ms; train: a training step",
        markup=False,
    )
    out.print(_times(found))
    if any(one.artifact_onnx_ms for one in found.timings):
        out.print(_onnx_times(found))
    out.print(_sizes(found))


def _times(found: BenchReport) -> Table:
    rows = [
        [
            one.stack or "(root)",
            one.what,
            count(one.batch),
            f"{one.baseline_ms:,.3f}",
            f"{one.artifact_ms:,.3f}",
            f"{one.speedup:,.2f}x",
            f"{size(one.baseline_peak_bytes)} / {size(one.artifact_peak_bytes)}",
            _forms(one.chosen),
        ]
        for one in found.timings
    ]
    columns = ["stack", "", ">batch", ">dense", ">ring", ">faster", ">peak, dense/ring", "form"]
    return make_table(columns, rows)


def _onnx_times(found: BenchReport) -> Table:
    rows = [
        [one.stack or "(root)", count(one.batch), f"{dense:,.3f}", f"{ring:,.3f}", f"{dense / ring:,.2f}x"]
        for one in found.timings
        if (dense := one.baseline_onnx_ms) and (ring := one.artifact_onnx_ms)
    ]
    columns = ["stack", ">batch", ">dense ms", ">ring ms", ">faster"]
    return make_table(columns, rows, title="as ONNX files in onnxruntime, on as many threads, in the same rounds")


def _forms(chosen: Mapping[str, str]) -> str:
    """One word where all weights are evaluated alike, else how many in each form; the JSON names each weight's."""
    forms = Counter(chosen.values())
    return next(iter(forms)) if len(forms) == 1 else ", ".join(f"{n} {form}" for form, n in forms.items())


def _sizes(found: BenchReport) -> Table:
    rows = []
    for one in found.memory:
        kept = f" + {size(one.kept_bytes)} kept in eval" if one.kept_bytes else ""
        rows.append(
            [
                f"memory of {one.stack or '(root)'}",
                size(one.baseline_bytes),
                size(one.artifact_bytes) + kept,
                ratio(one.baseline_bytes / (one.artifact_bytes + one.kept_bytes)),
            ]
        )
    for name, pair in (("tensor bytes", found.tensor_bytes), ("bytes on disk", found.file_bytes)):
        before, after = pair["baseline"], pair["artifact"]
        rows.append([name, size(before), size(after), ratio(before / after)])
    return make_table(["", ">dense", ">compressed", ">ratio"], rows)
