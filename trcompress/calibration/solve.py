"""The cores that are best in a metric: in closed form for two-mode rings, by ALS in that metric for all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trcompress.calibration.factor_cache import FactorCache
from trcompress.calibration.token_weights import TokenSensitivity, token_factors
from trcompress.decomposition import MatrixSource, Metric, decompose
from trcompress.decomposition.factors import metric_factors
from trcompress.decomposition.tr_svd import split_halves
from trcompress.decomposition.weight import CompressedWeight, gate_sources
from trcompress.formats import TensorRing, as_ring
from trcompress.model.weight_plan import WeightPlan

ALS: dict[str, Any] = {"starts": 2, "sweeps": 100, "restarts": 0}
"""How hard a metric is searched: from the plain cores, and from one start of its own."""
QUICK_ALS: dict[str, Any] = {"starts": 1, "sweeps": 20, "restarts": 0, "polish": False}
"""The same where structures are only compared."""


def solve(
    plain: CompressedWeight,
    dense: MatrixSource,
    metric: Metric,
    *,
    seed: int = 0,
    quick: bool = False,
    factors: FactorCache | None = None,
) -> CompressedWeight:
    """Find cores in a metric.

    Args:
        plain: the same structure in the plain metric, to start from.
        dense: W (I, G*H).
        metric: what counts.
        seed: of random starts.
        quick: whether a rough answer will do.
        factors: what closed forms gave before.
    """
    weight = plain.plan
    matrices = gate_sources(weight, dense)
    if is_two_mode(weight) and not weight.per_gate:
        cores = _two_mode(matrices[0], weight, metric, factors or FactorCache())
    else:
        cores = _by_als(matrices, plain, metric, seed=seed, **(QUICK_ALS if quick else ALS))
    return replace(plain, cores=cores, error=plain_error(weight, dense, cores))


def contains(larger: TensorRing, smaller: TensorRing) -> bool:
    """Whether every matrix of the smaller ring is one of the larger: the same modes, and no bond is wider."""
    same = (larger.in_modes, larger.out_modes) == (smaller.in_modes, smaller.out_modes)
    return same and all(a >= b for a, b in zip(larger.ranks, smaller.ranks, strict=True))


def calibrated_ring(weight: WeightPlan) -> TensorRing:
    """Return the structure of a weight that is calibrated, which must be a ring.

    Raises:
        ShapeError: it is a baseline format.
    """
    return as_ring(weight.structure, f"{weight.name}: only tensor rings are calibrated")


def is_two_mode(weight: WeightPlan) -> bool:
    """Return True where the structure is a plain product of two matrices."""
    return len(weight.structure.in_modes) == len(weight.structure.out_modes) == 1


def _two_mode(source: MatrixSource, weight: WeightPlan, metric: Metric, factors: FactorCache) -> tuple[Tensor, ...]:
    rank = calibrated_ring(weight).bottleneck
    if weight.padded_hidden != weight.matrix.gate_rows:  # not the matrix that is known by this key
        return _split(weight, *metric_factors(source, rank, _padded(metric, weight)))
    return _split(weight, *factors.find(weight.name, source, metric, rank))


def _split(weight: WeightPlan, left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
    """Cores of A (I, k) and B (k, O), of even size."""
    scale = (right.norm() / left.norm().clamp_min(1e-300)).sqrt() if left.numel() else torch.ones(())
    left = torch.nn.functional.pad(left * scale, (0, 0, 0, weight.padded_input - len(left)))
    return tuple(split_halves(calibrated_ring(weight), left, right / scale))


def solve_by_tokens(plain: CompressedWeight, dense: MatrixSource, seen: TokenSensitivity) -> CompressedWeight:
    """Return the cores of a two-mode ring where tokens and gates weigh one by one; see `token_weights`."""
    weight = plain.plan
    (source,) = gate_sources(weight, dense)
    cores = _split(weight, *token_factors(source.dense(), calibrated_ring(weight).bottleneck, seen))
    return replace(plain, cores=cores, error=plain_error(weight, dense, cores))


def _by_als(
    matrices: Sequence[MatrixSource], plain: CompressedWeight, metric: Metric, **options: Any
) -> tuple[Tensor, ...]:
    weight, padded = plain.plan, _padded(metric, plain.plan)
    weights = padded.output_diagonal
    parts = [None] * len(matrices) if weights is None else weights.chunk(len(matrices))
    found = []
    for number, (matrix, part) in enumerate(zip(matrices, parts, strict=True)):
        own = Metric(padded.input_rows, padded.ridge, part)
        start = [core[number] if weight.per_gate else core for core in plain.cores]
        found.append(decompose(matrix, calibrated_ring(weight), metric=own, warm_start=start, **options).cores)
    if not weight.per_gate:
        return tuple(found[0])
    return tuple(torch.stack(cores) for cores in zip(*found, strict=True))


def _padded(metric: Metric, weight: WeightPlan) -> Metric:
    """The metric for a matrix whose hidden units are padded: the rows that are added weigh as the least gate."""
    extra = weight.padded_hidden - weight.matrix.gate_rows
    weights = metric.output_diagonal
    if weights is None or not extra:
        return metric
    values = weights.view(weight.matrix.gates, -1)
    return replace(
        metric, output_weights=torch.nn.functional.pad(values, (0, extra), value=float(values.min())).flatten()
    )


def plain_error(weight: WeightPlan, dense: MatrixSource, cores: Sequence[Tensor]) -> float:
    """||W - W_hat|| / ||W||, padding left out."""
    left, right = weight.factors([core.double() for core in cores])
    squared = 0.0
    for first, block in dense.cast_blocks(torch.float64):
        squared += float(torch.addmm(block, left[first : first + len(block)], right, alpha=-1).square().sum())
    return (squared / dense.squared_norm) ** 0.5 if dense.squared_norm else 0.0
