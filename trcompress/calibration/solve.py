"""The cores that are best in a metric: in closed form for two-mode rings, by ALS in that metric for all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trcompress.calibration.metrics import Metric
from trcompress.decompose import FileMatrix, MatrixSource, decompose
from trcompress.decompose import Metric as SolverMetric
from trcompress.decompose.tr_svd import split_halves
from trcompress.formats import TensorRing
from trcompress.plan import WeightPlan
from trcompress.weights import CompressedWeight, matrices_of


def solve(
    plain: CompressedWeight, dense: Tensor | FileMatrix, metric: Metric, *, seed: int = 0, starts: int = 1
) -> CompressedWeight:
    """Find cores in a metric.

    Args:
        plain: the same structure in the plain metric, to start from.
        dense: the weight (G*H, I).
        metric: what counts.
        seed: of random starts.
        starts: how many starts are followed beside `plain`.
    """
    weight = plain.plan
    matrices = matrices_of(weight, dense)
    if is_two_mode(weight) and not weight.per_gate:
        cores = _two_mode(matrices[0], weight, metric)
    else:
        cores = _by_als(matrices, plain, metric, seed=seed, starts=starts + 1)
    return replace(plain, cores=cores, error=plain_error(matrices, weight, cores))


def is_two_mode(weight: WeightPlan) -> bool:
    """Whether the structure is a plain product of two matrices."""
    return len(weight.structure.in_modes) == len(weight.structure.out_modes) == 1


def two_mode_factors(source: MatrixSource, rank: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """The best W_hat = A B of a rank in a metric, exactly.

    With H' H = rows' rows + ridge I and D the gates' root, let P be the leading right singular vectors of H W D.
    Then A = W D P and B = P' D^-1: H enters through a matrix of the outputs alone and is never inverted.

    Args:
        source: W (I, O).
        rank: K.
        metric: rows (R, I) and gates (O, O) or (O,), or None.

    Returns:
        A (I, k) and B (k, O), k <= K: fewer where fewer are exact.
    """
    gates, inverse = _gate_matrices(metric, source)
    directions = _leading(source, rank, metric, gates)
    return source.times(gates @ directions), directions.t() @ inverse


def _leading(source: MatrixSource, rank: int, metric: Metric, gates: Tensor) -> Tensor:
    """Leading right singular vectors of H W D, (O, k)."""
    outputs = source.shape[1]
    seen = torch.zeros(0 if metric.rows is None else len(metric.rows), outputs, dtype=torch.float64)
    gram = torch.zeros(outputs, outputs, dtype=torch.float64)
    ridge = metric.ridge if metric.rows is not None else 1.0
    for first, block in source.cast_blocks(torch.float64):
        if metric.rows is not None:
            seen += metric.rows[:, first : first + len(block)] @ block
        if ridge:
            gram.addmm_(block.t(), block, alpha=ridge)
    if not ridge:
        values, vectors = torch.linalg.svd(seen @ gates, full_matrices=False)[1:]
        kept = int((values > 1e-12 * values[0]).sum()) if len(values) else 0
        return vectors[: min(rank, kept)].t()
    gram.addmm_(seen.t(), seen)
    return torch.linalg.eigh(gates.t() @ gram @ gates)[1][:, -rank:].flip(1)


def _gate_matrices(metric: Metric, source: MatrixSource) -> tuple[Tensor, Tensor]:
    if metric.gates is None:
        eye = torch.eye(source.shape[1], dtype=torch.float64)
        return eye, eye
    if metric.gates.dim() == 1:
        return torch.diag(metric.gates), torch.diag(1 / metric.gates)
    return metric.gates, torch.linalg.inv(metric.gates)


def _two_mode(source: MatrixSource, weight: WeightPlan, metric: Metric) -> tuple[Tensor, ...]:
    ring = weight.structure
    left, right = two_mode_factors(source, ring.bottleneck, _padded(metric, weight))
    scale = (right.norm() / left.norm().clamp_min(1e-300)).sqrt() if left.numel() else torch.ones(())
    left = torch.nn.functional.pad(left * scale, (0, 0, 0, weight.padded_input - len(left)))
    return tuple(split_halves(ring, left, right / scale))


def _by_als(
    matrices: Sequence[MatrixSource], plain: CompressedWeight, metric: Metric, **options: Any
) -> tuple[Tensor, ...]:
    weight, padded = plain.plan, _padded(metric, plain.plan)
    weights = padded.gate_weights
    parts = [None] * len(matrices) if weights is None else weights.chunk(len(matrices))
    found = []
    for number, (matrix, part) in enumerate(zip(matrices, parts, strict=True)):
        own = SolverMetric(padded.rows, padded.ridge, part)
        start = [core[number] if weight.per_gate else core for core in plain.cores]
        found.append(decompose(matrix, weight.structure, metric=own, warm_start=start, **options).cores)
    if not weight.per_gate:
        return tuple(found[0])
    return tuple(torch.stack(cores) for cores in zip(*found, strict=True))


def _padded(metric: Metric, weight: WeightPlan) -> Metric:
    """The metric for a matrix whose hidden units are padded: the rows that are added weigh as the least gate."""
    extra = weight.padded_hidden - weight.slot.hidden_size
    if metric.gates is None or not extra:
        return metric
    values = metric.gate_weights.view(weight.slot.gates, -1)
    return replace(metric, gates=torch.nn.functional.pad(values, (0, extra), value=float(values.min())).flatten())


def plain_error(matrices: Sequence[MatrixSource], weight: WeightPlan, cores: Sequence[Tensor]) -> float:
    """||W - W_hat|| / ||W||, of all gates together."""
    ring: TensorRing = weight.structure
    squared = whole = 0.0
    for number, matrix in enumerate(matrices):
        own = [core[number].double() if weight.per_gate else core.double() for core in cores]
        left, right = ring.input_factor(own), ring.output_factor(own)
        for first, block in matrix.cast_blocks(torch.float64):
            squared += float((block - left[first : first + len(block)] @ right).square().sum())
        whole += matrix.squared_norm
    return (squared / whole) ** 0.5 if whole else 0.0
