"""What a compression bought and what it cost: counts before and after, Eq. 7, errors, accuracy, lineage.

`compression_ratio` is Eq. 7, of the compressed input-to-hidden matrices alone; `model_ratio` is of everything.
The two differ by orders of magnitude, so both are always shown.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from trcompress.artifact.file import Artifact, read_artifact
from trcompress.model.grammar import format_shape
from trcompress.model.header import Weight
from trcompress.model.plan import WeightPlan


@dataclass(frozen=True)
class WeightReport:
    """One compressed weight."""

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
    error_now: float | None = None


@dataclass(frozen=True)
class TensorReport:
    """One tensor of the dense model, and what is kept of it."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Report:
    """Everything `trcompress report` prints.

    Args:
        compression_ratio: Eq. 7 over all compressed weights together.
        model_ratio: parameters of the whole model, before over after.
        file_bytes_before: the checkpoint file as it was, optimizer state and all; None if unknown.
        tensor_bytes_before: the model tensors in it alone; None if unknown.
        file_bytes_after: the artifact file; None if it was never written.
    """

    artifact: str
    weights: tuple[WeightReport, ...]
    tensors: tuple[TensorReport, ...]
    parameters_before: int
    parameters_after: int
    compression_ratio: float
    model_ratio: float
    file_bytes_before: int | None
    tensor_bytes_before: int | None
    file_bytes_after: int | None
    tensor_bytes_after: int
    uncompressed_layers: tuple[str, ...]
    metrics: dict[str, Any]
    source: dict[str, Any] | None
    lineage: tuple[dict[str, Any], ...]
    baseline: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def make_report(artifact: str | Path | Artifact, *, baseline: str | Path | None = None) -> Report:
    """Report on an artifact.

    Args:
        artifact: the artifact or its path.
        baseline: the dense checkpoint; with it, sizes and errors are measured on it instead of remembered.

    Raises:
        InputFileError: either file cannot be read, or the baseline lacks a weight that was compressed.
    """
    if not isinstance(artifact, Artifact):
        artifact = read_artifact(artifact)
    plans = artifact.weight_plans()
    tensors = _tensor_reports(artifact, plans)
    before, after = sum(one.before for one in tensors), sum(one.after for one in tensors)
    source = artifact.header.source
    measured = _measure(artifact, baseline) if baseline is not None else None
    errors = measured["errors"] if measured else {}
    return Report(
        artifact=str(artifact.path or "(not written)"),
        weights=tuple(
            _weight_report(one, plans[one.name], errors.get(one.name)) for one in artifact.header.weights
        ),
        tensors=tensors,
        parameters_before=before,
        parameters_after=after,
        compression_ratio=_ratio(plans),
        model_ratio=before / after,
        file_bytes_before=measured["file_bytes"] if measured else source.size_bytes if source else None,
        tensor_bytes_before=measured["tensor_bytes"] if measured else source.tensor_bytes if source else None,
        file_bytes_after=artifact.path.stat().st_size if artifact.path else None,
        tensor_bytes_after=artifact.tensor_bytes,
        uncompressed_layers=tuple(
            one.slot.layer_name for one in artifact.header.layers if one.keys.get("weight_ih") not in plans
        ),
        metrics=dict(artifact.header.metrics),
        source=source.model_dump(mode="json") if source else None,
        lineage=tuple(step.model_dump(mode="json") for step in artifact.header.lineage),
        baseline={key: value for key, value in measured.items() if key != "errors"} if measured else None,
    )


def _ratio(plans: dict[str, WeightPlan]) -> float:
    return sum(plan.slot.parameters for plan in plans.values()) / sum(plan.parameters for plan in plans.values())


def _tensor_reports(artifact: Artifact, plans: dict[str, WeightPlan]) -> tuple[TensorReport, ...]:
    cores = {f"{name}.core.{k}" for name, plan in plans.items() for k in range(len(plan.structure.core_shapes))}
    aliases = {alias for group in artifact.header.shared for alias in group[1:]}
    kept = [
        TensorReport(key, tensor.numel(), tensor.numel())
        for key, tensor in artifact.tensors.items()
        if key not in cores and key not in aliases
    ]
    return (
        *(TensorReport(name, plan.slot.parameters, plan.parameters) for name, plan in plans.items()),
        *kept,
    )


def _weight_report(weight: Weight, plan: WeightPlan, error_now: float | None) -> WeightReport:
    return WeightReport(
        name=weight.name,
        layer=plan.slot.describe(),
        format=weight.format,
        shape=format_shape(weight.in_modes, weight.out_modes),
        ranks=weight.ranks,
        rings=plan.copies,
        bottleneck=getattr(plan.structure, "bottleneck", None),
        parameters_before=plan.slot.parameters,
        parameters_after=plan.parameters,
        compression_ratio=plan.compression_ratio,
        init=weight.init,
        error=weight.error,
        bound=weight.bound,
        notes=weight.notes,
        candidates=weight.candidates,
        error_now=error_now,
    )


def _measure(artifact: Artifact, baseline: str | Path) -> dict[str, Any]:
    """Compare with the dense checkpoint itself: its sizes, its identity, and today's error of every weight."""
    from trcompress.checkpoint import read_checkpoint
    from trcompress.layers import cores_to_dense

    checkpoint = read_checkpoint(baseline)
    errors = {}
    for name, plan in artifact.weight_plans().items():
        dense = checkpoint.tensor(name).double()
        rebuilt = cores_to_dense(plan, [core.double() for core in artifact.cores(name)])
        errors[name] = float((dense - rebuilt).norm() / dense.norm())
    source = artifact.header.source
    return {
        "file": str(baseline),
        "is_the_source": source is not None and checkpoint.sha256 == source.sha256,
        "file_bytes": checkpoint.size_bytes,
        "tensor_bytes": checkpoint.tensor_bytes,
        "parameters": sum(prod(shape) for shape in checkpoint.shapes.values()),
        "errors": errors,
    }
