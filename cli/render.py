"""Reports on the terminal: short, unless --verbose."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from trcompress.artifact.document import accuracy_of
from trcompress.artifact.file import Artifact
from trcompress.artifact.report import Report, WeightReport, make_report
from trcompress.cli.console import is_verbose, out, print_json
from trcompress.cli.tables import bold, make_table
from trcompress.util.figures import count, error, ratio, share, size, spell

CANDIDATE_COLUMNS = ("chosen", "metric", "bias_corrected", "weight_error", "difference")
MOST_MATRICES = 20
"""Matrices in the short report; --verbose lists all."""


def print_report(report: Report) -> None:
    """Print one report: sizes, matrices, accuracy, lineage; with --verbose candidates and tensors too."""
    out.print(bold(report.artifact))
    _print_totals(report)
    _print_outputs(report)
    _print_accuracy(report)
    if is_verbose():
        for weight in report.weights:
            print_weight(weight)
        _print_passes(report)
        _print_tensors(report)
        _print_metrics(report)
    elif report.weights:
        _print_matrices(report.weights)
    _print_latency(report)
    _print_lineage(report)


def print_reports(reports: Sequence[Report], front: Sequence[Mapping[str, Any]]) -> None:
    """Print several reports as one table, and which of them nothing beats."""
    rows = []
    for report in reports:
        known = report.to_dict()
        bytes_after = report.tensor_bytes_after if report.file_bytes_after is None else report.file_bytes_after
        accuracies = [spell(accuracy_of(known, role), "share") for role in ("dense", "compressed")]
        best = any(one["name"] == report.artifact and one["best"] for one in front)
        ratios = [spell(report.bytes_ratio, "ratio"), ratio(report.compression_ratio)]
        rows.append([report.artifact, size(bytes_after), *ratios, *accuracies, "*" if best else ""])
    columns = ["!artifact", ">on disk", ">file", ">Eq. 7", ">dense", ">accuracy", ""]
    out.print(make_table(columns, rows))
    if front:
        out.print("* nothing here is both smaller and as accurate")


def print_weight(weight: WeightReport, most_candidates: int | None = None, told_once: Collection[str] = ()) -> None:
    """Print one compressed weight: the resolved ring, its count, its error and what no ring could do better."""
    rings = f"{weight.rings} rings of " if weight.rings > 1 else ""
    out.print()
    out.print(bold(weight.name), weight.layer, markup=False)
    _line(f"  {weight.format}: {rings}{weight.shape}  ranks {','.join(map(str, weight.ranks))}")
    if weight.bottleneck:
        _line(f"  bottleneck K = R0*Rn = {count(weight.bottleneck * weight.rings)}")
    _line(
        f"  parameters {count(weight.parameters_before)} -> {count(weight.parameters_after)}, "
        f"compression_ratio (Eq. 7) {ratio(weight.compression_ratio)}"
    )
    if weight.error is not None:
        _line(f"  {explain_error(weight)}")
    if weight.error_now is not None:
        _line(f"  distance of today's cores from the baseline's weight: {error(weight.error_now)}")
    for note in weight.notes:
        if note not in told_once:
            _line(f"  note: {note}")
    if weight.candidates:
        _print_candidates(weight.candidates, most_candidates)


def explain_error(weight: WeightReport) -> str:
    """The decomposition's error beside the bound, in plain words."""
    if weight.error_of != "the file":
        bound = "" if weight.bound is None else f"; the least of these ranks is {error(weight.bound)}"
        return f"error of {weight.error_of} ({weight.init}): {spell(weight.error, 'error')} of ||W||{bound}"
    if weight.bound is None:
        return f"decomposition error ({weight.init}): {spell(weight.error, 'error')} of ||W||"
    return (
        f"decomposition error ({weight.init}): no {weight.format} of these ranks can do better than "
        f"{error(weight.bound)} of ||W||; this one is at {spell(weight.error, 'error')}"
    )


def _line(text: str) -> None:
    out.print(text, markup=False)


def _print_candidates(candidates: Sequence[Mapping[str, Any]], most: int | None) -> None:
    """Print what calibration compared, the best first; only some of it where `most` is given."""
    ranked = sorted(candidates, key=lambda one: one.get("difference", 0.0))
    shown = ranked if most is None else ranked[:most]
    same = {column for column in ranked[0] if len({str(one.get(column)) for one in ranked}) == 1}
    columns = [column for column in ranked[0] if column != "measure" and not (len(ranked) > 1 and column in same)]
    columns.sort(key=lambda column: CANDIDATE_COLUMNS.index(column) if column in CANDIDATE_COLUMNS else 99)
    out.print(
        make_table(
            [_head(column, ranked[0][column]) for column in columns],
            [[_cell(one.get(column)) for column in columns] for one in shown],
            title="candidates, by the dense network's answers on held-out calibration data",
            caption=f"difference: {ranked[0].get('measure', 'from the dense network')}",
        )
    )
    if len(shown) < len(ranked):
        out.print(f"  and {len(ranked) - len(shown)} more: trcompress report -v lists all", markup=False)


def _head(column: str, value: Any) -> str:
    """Name a column; one of figures keeps each in one piece."""
    figures = isinstance(value, float | int) and not isinstance(value, bool)
    return (">" if figures else "") + column.replace("_", " ")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_totals(report: Report) -> None:
    before, after = (
        sum(getattr(one, key) for one in report.weights if one.role == "ih")
        for key in ("parameters_before", "parameters_after")
    )
    on_disk = report.tensor_bytes_after if report.file_bytes_after is None else report.file_bytes_after
    rows = [
        ["whole file", size(report.tensor_bytes_before), size(on_disk), spell(report.bytes_ratio, "ratio")],
        [
            "all parameters (model_ratio)",
            count(report.parameters_before),
            count(report.parameters_after),
            ratio(report.model_ratio),
        ],
    ]
    if before:
        rows.append(["input-to-hidden (Eq. 7)", count(before), count(after), ratio(report.compression_ratio)])
    out.print(make_table(["", ">before", ">after", ">ratio"], rows))
    if report.other_bytes_before and report.tensor_bytes_before and report.file_bytes_before:
        _line(
            f"before: the model's tensors; the checkpoint file took {size(report.file_bytes_before)}, "
            f"{size(report.other_bytes_before)} of it beside the model"
        )
    if report.passes:
        kinds = {one["kind"]: sum(other["kind"] == one["kind"] for other in report.passes) for one in report.passes}
        _line(f"passes: {', '.join(f'{kind} ({number})' for kind, number in kinds.items())}; -v lists them")
    if report.dropped:
        _line(f"left out of the checkpoint, as asked: {', '.join(report.dropped)}")
    if report.uncompressed_layers:
        _line(f"left dense: {', '.join(report.uncompressed_layers)}")


def _print_accuracy(report: Report) -> None:
    known = report.to_dict()
    names = {"dense": "dense", "decomposed": "decomposed", "compressed": "this artifact"}
    found = {name: accuracy_of(known, role) for role, name in names.items()}
    parts = [f"{name} {share(value)}" for name, value in found.items() if value is not None]
    if parts:
        where = report.metrics.get("measured_on")
        _line(f"accuracy: {', '.join(parts)}" + (f" ({where})" if where else ""))


def _error_cell(weight: WeightReport) -> str:
    if weight.error_now is not None:
        return spell(weight.error_now, "error")
    of = "" if weight.error_of == "the file" or weight.error is None else " as found"
    return spell(weight.error, "error") + of


def _print_matrices(weights: Sequence[WeightReport]) -> None:
    if not weights:
        return
    rows = [
        [
            one.name,
            f"{one.shape} ranks {','.join(map(str, one.ranks[:-1]))}",
            ratio(one.compression_ratio),
            _error_cell(one),
            spell(one.bound, "error"),
        ]
        for one in weights[:MOST_MATRICES]
    ]
    out.print(make_table(["!matrix", "shape", ">Eq. 7", ">error", ">bound"], rows))
    if len(weights) > MOST_MATRICES:
        out.print(f"and {len(weights) - MOST_MATRICES} more: -v lists all", markup=False)


def _print_passes(report: Report) -> None:
    if report.passes:
        rows = [
            [one["kind"], one["name"], one["before"], one["after"], spell(one["damage"], "damage")]
            for one in report.passes
        ]
        out.print(make_table(["pass", "!on", "before", "after", ">damage"], rows))


def _print_tensors(report: Report) -> None:
    rows = [
        [one.name, count(one.before), count(one.after), size(one.bytes_before), size(one.bytes_after)]
        for one in report.tensors
    ]
    out.print(
        make_table(
            ["!tensor", ">values", ">after", ">bytes", ">after"], rows, title="parameters and bytes by tensor"
        )
    )


def _print_metrics(report: Report) -> None:
    if report.metrics:
        out.print(make_table(["measured", ""], [[name, _cell(value)] for name, value in report.metrics.items()]))


def _print_latency(report: Report) -> None:
    if report.latency:
        rows = []
        for one in report.latency["timings"]:
            times = [f"{one[side]:.3f}" for side in ("baseline_ms", "artifact_ms")]
            rows.append([one["what"], count(one["batch"]), *times, ratio(one["speedup"])])
            onnx = [one[f"{side}_onnx_ms"] for side in ("baseline", "artifact")]
            if None not in onnx:
                rows.append([f"{one['what']}, ONNX", count(one["batch"]), *(f"{ms:.3f}" for ms in onnx), ""])
        out.print(make_table(["", ">batch", ">dense ms", ">compressed ms", ">faster"], rows))


def _print_outputs(report: Report) -> None:
    """How far the outputs moved on held-out data, as every calibrated step found it."""
    steps = {"plain": "without data", "chosen": "calibrated", "refined": "refined"}
    for step in report.lineage:
        facts = step["settings"].get("calibration")
        if isinstance(facts, Mapping) and facts.get("measure"):
            known = {name: facts.get(f"difference_{name}") for name in steps}
            moved = [f"{value:.4g} {steps[name]}" for name, value in known.items() if isinstance(value, float)]
            _line(f"{facts['measure']}, held out: {', '.join(moved)}")


def _print_lineage(report: Report) -> None:
    if not (report.source or report.lineage or report.baseline):
        _line("lineage: none in the file; of a small one, a sidecar holds it (compress --sidecar)")
        return
    out.print(bold("lineage"))
    if report.source:
        _line(f"  source {report.source['file']}  sha256 {report.source['sha256']}")
    if report.baseline:
        same = "is" if report.baseline["is_the_source"] else "is NOT"
        _line(f"  the baseline {report.baseline['file']} {same} the file that was compressed")
    for step in report.lineage:
        seed = f"  (seed {step['seed']})" if step["seed"] is not None else ""
        _line(f"  {step['command'] or step['verb']}{seed}")


def print_decomposition(artifact: Artifact, format_: str) -> None:
    """Print what `decompose` made: each ring, the two ratios, and where it was written."""
    result = make_report(artifact)
    if format_ == "json":
        print_json(result.to_dict())
        return
    notes = [set(weight.notes) for weight in result.weights]
    shared = set.intersection(*notes) if len(notes) > 1 else set()
    for weight in result.weights:
        print_weight(weight, None if is_verbose() else 5, shared)
    for note in sorted(shared):
        _line(f"note: {note}")
    _print_totals(result)
    _print_outputs(result)
    _line(f"wrote {result.artifact}")
