"""Library results as rich tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from trcompress.artifact.file import Artifact
from trcompress.artifact.report import Report, WeightReport, make_report
from trcompress.cli.console import count, out, print_json, ratio, size

CANDIDATE_COLUMNS = ("chosen", "metric", "bias_corrected", "weight_error", "difference")


def print_report(report: Report) -> None:
    """Print the whole report."""
    out.print(f"[bold]{report.artifact}[/bold]")
    for weight in report.weights:
        print_weight(weight)
    _print_totals(report)
    _print_tensors(report)
    _print_metrics(report)
    _print_lineage(report)


def print_weight(weight: WeightReport, most_candidates: int | None = None) -> None:
    """Print one compressed weight: the resolved ring, its count, its error and what no ring could do better."""
    rings = f"{weight.rings} rings of " if weight.rings > 1 else ""
    out.print(f"\n[bold]{weight.name}[/bold]  {weight.layer}")
    out.print(f"  {weight.format}: {rings}{weight.shape}  ranks {','.join(map(str, weight.ranks))}")
    if weight.bottleneck:
        out.print(f"  bottleneck K = R0*Rn = {count(weight.bottleneck * weight.rings)}")
    out.print(
        f"  input-to-hidden parameters {count(weight.parameters_before)} -> "
        f"[bold]{count(weight.parameters_after)}[/bold], "
        f"compression_ratio (Eq. 7) [bold]{ratio(weight.compression_ratio)}[/bold]"
    )
    if weight.error is not None:
        out.print(f"  {explain_error(weight)}")
    if weight.error_now is not None:
        out.print(f"  distance of today's cores from the baseline's weight: {weight.error_now:.4f}")
    for note in weight.notes:
        out.print(f"  note: {note}")
    if weight.candidates:
        _print_candidates(weight.candidates, most_candidates)


def explain_error(weight: WeightReport) -> str:
    """The decomposition's error beside the bound, in plain words."""
    if weight.bound is None:
        return f"decomposition error ({weight.init}): {weight.error:.4f} of ||W||"
    return (
        f"decomposition error ({weight.init}): no {weight.format} of these ranks can do better than "
        f"{weight.bound:.4f} of ||W||; this one is at {weight.error:.4f}"
    )


def _print_candidates(candidates: Sequence[Mapping[str, Any]], most: int | None) -> None:
    """Print what calibration compared, the best first; only some of it where `most` is given."""
    ranked = sorted(candidates, key=lambda one: one.get("difference", 0.0))
    shown = ranked if most is None else ranked[:most]
    table = Table(
        title="candidates, by the dense network's answers on held-out calibration data", title_justify="left"
    )
    columns = [column for column in ranked[0] if column != "measure"]
    columns.sort(key=lambda column: CANDIDATE_COLUMNS.index(column) if column in CANDIDATE_COLUMNS else 99)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for candidate in shown:
        table.add_row(*(_cell(candidate.get(column)) for column in columns))
    table.caption = f"difference: {ranked[0].get('measure', 'from the dense network')}"
    out.print(table)
    if len(shown) < len(ranked):
        out.print(f"  and {len(ranked) - len(shown)} more: trcompress report lists all", markup=False)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_totals(report: Report) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("", "before", "after", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    matrices = [(one.parameters_before, one.parameters_after) for one in report.weights]
    before, after = map(sum, zip(*matrices, strict=True))
    table.add_row("input-to-hidden (Eq. 7)", count(before), count(after), ratio(report.compression_ratio))
    table.add_row(
        "all parameters (model_ratio)",
        count(report.parameters_before),
        count(report.parameters_after),
        ratio(report.model_ratio),
    )
    for name, first, second in (
        ("tensor bytes", report.tensor_bytes_before, report.tensor_bytes_after),
        ("bytes on disk", report.file_bytes_before, report.file_bytes_after),
    ):
        share = ratio(first / second) if first and second else ""
        table.add_row(name, size(first), size(second), share)
    out.print()
    out.print(table)
    if report.uncompressed_layers:
        out.print(f"left dense: {', '.join(report.uncompressed_layers)}")


def _print_tensors(report: Report) -> None:
    table = Table(title="parameters by tensor", title_justify="left")
    table.add_column("tensor", overflow="fold")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for tensor in report.tensors:
        table.add_row(tensor.name, count(tensor.before), count(tensor.after))
    out.print()
    out.print(table)


def _print_metrics(report: Report) -> None:
    if not report.metrics:
        return
    out.print("\n[bold]measured[/bold]")
    for name, value in report.metrics.items():
        out.print(f"  {name}: {value}", markup=False)


def _print_lineage(report: Report) -> None:
    out.print("\n[bold]lineage[/bold]")
    if report.source:
        out.print(f"  source {report.source['file']}  sha256 {report.source['sha256']}", markup=False)
    if report.baseline:
        same = "is" if report.baseline["is_the_source"] else "is NOT"
        out.print(f"  the baseline {report.baseline['file']} {same} the file that was compressed", markup=False)
    for step in report.lineage:
        seed = f"  (seed {step['seed']})" if step["seed"] is not None else ""
        out.print(f"  {step['command'] or step['verb']}{seed}", markup=False)


def print_decomposition(artifact: Artifact, format_: str) -> None:
    """Print what `decompose` made: each ring, the two ratios, and where it was written."""
    result = make_report(artifact)
    if format_ == "json":
        print_json(result.to_dict())
        return
    for weight in result.weights:
        print_weight(weight, most_candidates=5)
    _print_totals(result)
    out.print(f"\nwrote {result.artifact}", markup=False)
