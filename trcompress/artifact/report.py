"""What a compression bought and what it cost: counts before and after, Eq. 7, errors, accuracy, lineage.

`compression_ratio` is Eq. 7, of the compressed input-to-hidden matrices alone; `model_ratio` is of everything.
The two differ by orders of magnitude, so both are always shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite, prod
from pathlib import Path
from typing import Any

from trcompress.artifact.against import Against, measure_against
from trcompress.artifact.changed import AS_FOUND
from trcompress.artifact.file import Artifact, read_artifact
from trcompress.artifact.parts import PartReport, TensorReport, part_reports, tensor_reports
from trcompress.artifact.results import read_measured
from trcompress.checkpoint import Checkpoint
from trcompress.model.grammar import format_shape
from trcompress.model.header import READ, Weight
from trcompress.model.weight_plan import WeightPlan
from trcompress.util.figures import count, ratio
from trcompress.util.text import aligned

MOST_TOLD = 20
"""Weights that a printed report names."""

SCHEMA_VERSION = 1
"""Of the report's JSON; it rises when a key goes or changes its meaning."""


@dataclass(frozen=True)
class WeightReport:
    """One compressed weight.

    Args:
        error: ||W - W'|| / ||W|| of what `error_of` names; None where nobody measured it.
        bound: no structure of these ranks has a smaller error.
        error_now: of the file, where there is a baseline to measure it on.
        error_of: "the file", or "the cores as found" where they were trained or rounded since.
    """

    name: str
    layer: str
    format: str
    shape: str
    ranks: tuple[int, ...]
    rings: int
    bottleneck: int | None
    parameters_before: int
    parameters_after: int
    compression_ratio: float
    init: str
    error: float | None
    bound: float | None
    notes: tuple[str, ...]
    candidates: tuple[dict[str, Any], ...]
    role: str = "ih"
    error_now: float | None = None
    error_of: str = "the file"


@dataclass(frozen=True)
class Report:
    """Everything `trcompress report` prints.

    Args:
        compression_ratio: Eq. 7 over all compressed input-to-hidden weights together; 1 where there is none.
        model_ratio: parameters of the whole model, before over after.
        file_bytes_before: the checkpoint file as it was, optimizer state and all; None if unknown.
        tensor_bytes_before: the model tensors in it alone; without a source, what its tensors would take.
        other_bytes_before: the difference: what the file held beside the model; None if unknown.
        file_bytes_after: the artifact file; None if it was never written.
        bytes_ratio: model tensors before over the whole artifact file after (its tensors, if never written).
        parts: where parameters and bytes sit, by part of the network.
        evaluations: by role ("dense", "decomposed", "compressed"): accuracy, figures per class, confusion.
        curves: the epochs of fine-tuning.
        latency: the benchmark against the dense model.
        passes: what passes did to tensors and modules: kind, name, before, after, damage.
        dropped: tensors of the checkpoint that were left out, as the user asked.
    """

    schema_version: int
    artifact: str
    weights: tuple[WeightReport, ...]
    tensors: tuple[TensorReport, ...]
    parts: tuple[PartReport, ...]
    parameters_before: int
    parameters_after: int
    compression_ratio: float
    model_ratio: float
    file_bytes_before: int | None
    tensor_bytes_before: int | None
    other_bytes_before: int | None
    file_bytes_after: int | None
    tensor_bytes_after: int
    bytes_ratio: float | None
    uncompressed_layers: tuple[str, ...]
    metrics: dict[str, Any]
    source: dict[str, Any] | None
    lineage: tuple[dict[str, Any], ...]
    baseline: dict[str, Any] | None = None
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    curves: tuple[dict[str, Any], ...] = ()
    latency: dict[str, Any] | None = None
    passes: tuple[dict[str, Any], ...] = ()
    dropped: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; figures that are not finite become None."""
        return finite(asdict(self))

    def __repr__(self) -> str:
        rows = [
            (
                f"{self.artifact}:",
                f"{count(self.parameters_before)} -> {count(self.parameters_after)} parameters "
                f"({ratio(self.model_ratio)}), Eq. 7 {ratio(self.compression_ratio)}",
            ),
            *((one.name, self._told(one)) for one in self.weights[:MOST_TOLD]),
        ]
        more = len(self.weights) - MOST_TOLD
        return "\n".join([*aligned(rows), *([f"  and {more} more"] if more > 0 else [])])

    @staticmethod
    def _told(one: WeightReport) -> str:
        error = "" if one.error is None else f", error {one.error:.4f}"
        return (
            f"{one.format} {one.shape} ranks {','.join(map(str, one.ranks))}: {ratio(one.compression_ratio)}{error}"
        )


def make_report(
    artifact: str | Path | Artifact,
    *,
    baseline: str | Path | Checkpoint | None = None,
    results: Iterable[str | Path] = (),
) -> Report:
    """Report on an artifact.

    Args:
        artifact: the artifact or its path.
        baseline: the dense checkpoint, or its path; sizes and errors are then measured on it, not remembered.
        results: JSON files of `evaluate`, `bench` or `finetune` to show with it; what `finetune` wrote beside the
            artifact is read without being named.

    Raises:
        InputFileError: a file cannot be read, or the baseline lacks a weight that was compressed.
    """
    if not isinstance(artifact, Artifact):
        artifact = read_artifact(artifact)
    plans = artifact.distinct_plans()
    compressed = artifact.weight_plans()
    against = measure_against(artifact, baseline) if baseline is not None else None
    source = artifact.header.source
    return Report(
        schema_version=SCHEMA_VERSION,
        artifact=str(artifact.path or "(not written)"),
        weights=tuple(
            _weight_report(one, plans[one.name], artifact, against.errors[one.name] if against else None)
            for one in artifact.header.weights
            if one.name in plans
        ),
        **_counts(artifact, plans, against),
        uncompressed_layers=tuple(
            layer.name
            for layer in artifact.header.layers
            if not any(one.key in compressed for one in layer.matrices)
        ),
        metrics=dict(artifact.header.metrics),
        source=source.model_dump(mode="json") if source else None,
        lineage=tuple(step.model_dump(mode="json") for step in artifact.header.lineage if step.verb != READ),
        baseline=against.to_dict() if against else None,
        passes=tuple(one.model_dump(mode="json") for one in artifact.header.passes),
        dropped=tuple(str(key) for keys in artifact.reading("dropped") for key in keys),
        **read_measured(artifact.path, artifact.header, results).model_dump(mode="json"),
    )


def _counts(artifact: Artifact, plans: dict[str, WeightPlan], against: Against | None) -> dict[str, Any]:
    """Parameters, bytes and ratios."""
    tensors = tensor_reports(artifact, plans, against.weight_bytes if against else None)
    before, after = sum(one.before for one in tensors), sum(one.after for one in tensors)
    source = artifact.header.source
    file_before, model_before = (
        (against.file_bytes, against.tensor_bytes)
        if against
        else (source.size_bytes, source.tensor_bytes)
        if source
        else (None, sum(one.bytes_before for one in tensors))
    )
    file_after = artifact.path.stat().st_size if artifact.path else None
    return {
        "tensors": tensors,
        "parts": part_reports(tensors),
        "parameters_before": before,
        "parameters_after": after,
        "compression_ratio": _ratio(tensors, plans),
        "model_ratio": before / after,
        "file_bytes_before": file_before,
        "tensor_bytes_before": model_before,
        "other_bytes_before": max(0, file_before - model_before) if file_before and model_before else None,
        "file_bytes_after": file_after,
        "tensor_bytes_after": artifact.tensor_bytes,
        "bytes_ratio": model_before / (file_after or artifact.tensor_bytes) if model_before else None,
    }


def _ratio(tensors: Sequence[TensorReport], plans: dict[str, WeightPlan]) -> float:
    """Eq. 7 of the compressed input-to-hidden weights together; 1 where there is none."""
    inputs = {name for name, plan in plans.items() if plan.matrix.role == "ih"}
    pairs = [(one.before, one.after) for one in tensors if one.name in inputs]
    before, after = (sum(side) for side in zip(*pairs, strict=True)) if pairs else (1, 1)
    return before / after


def _weight_report(weight: Weight, plan: WeightPlan, artifact: Artifact, error_now: float | None) -> WeightReport:
    before = prod(artifact.header.original.get(weight.name, (plan.matrix.parameters,)))
    return WeightReport(
        name=weight.name,
        layer=plan.matrix.describe(),
        format=weight.format,
        shape=format_shape(weight.in_modes, weight.out_modes),
        ranks=weight.ranks,
        rings=plan.copies,
        bottleneck=getattr(plan.structure, "bottleneck", None),
        parameters_before=before,
        parameters_after=plan.parameters,
        compression_ratio=before / plan.parameters,
        init=weight.init,
        error=weight.error,
        bound=weight.bound,
        notes=weight.notes,
        candidates=weight.candidates,
        role=plan.matrix.role,
        error_now=error_now,
        error_of="the cores as found" if AS_FOUND in weight.notes else "the file",
    )


def finite(value: Any) -> Any:
    """Replace figures that JSON has no word for by None, at any depth.

    Example:
        >>> finite({"loss": float("nan"), "epochs": (1, 2.5)})
        {'loss': None, 'epochs': [1, 2.5]}
    """
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list | tuple) else value
