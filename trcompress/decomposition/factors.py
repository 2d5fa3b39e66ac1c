"""The best factorisation W ~ A B of rank k, in the metric that is asked for: where every ring search begins.

With C = L W D and V the leading right singular vectors of C, the minimiser of ||L (W - W_hat) D|| of rank k is
W D V V' D^-1: a projection from the right, so L is never inverted and need not have full rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trcompress.decomposition.linalg import eigh, svd
from trcompress.decomposition.metric import Metric
from trcompress.decomposition.objective import Objective
from trcompress.decomposition.source import MatrixSource
from trcompress.decomposition.spectrum import EXACT_WORK, is_small, spectrum


def leading_factors(objective: Objective, rank: int) -> tuple[Tensor, Tensor]:
    """Return A (I, k) and B (k, O), A @ B the best approximation of W of rank k = min(rank, I, O).

    Columns of A and rows of B come in the order of their singular values.
    """
    source = objective.source
    if objective.is_plain:
        found = spectrum(objective.inner)
        if found.left is not None:
            left = _padded(_signed(found.left[:, :rank]), source.shape[0])
            return left, source.transpose_times(left).t()
        right = _padded(found.right[:, :rank], source.shape[1])  # type: ignore[index]
    else:
        right = _metric_vectors(objective)[:, :rank]
    if source.dtype == torch.float64 and not is_small(source) and rank < min(source.shape):
        right = _refined(objective, right)
    right = _signed(right)
    if objective.scales is None:
        return source.times(right), right.t()
    scales = objective.scales.unsqueeze(1)
    return source.times(right * scales), (right / scales).t()


def metric_factors(source: MatrixSource, rank: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """Return the best A (I, k) and B (k, O) in a metric whose D may be a whole root: see the module's theorem.

    Where `leading_factors` works on padded W of any size with a diagonal D, this one takes W as it is.

    Args:
        source: W (I, O).
        rank: K.
        metric: its rows (R, I), and D as (O,) or (O, O).

    Returns:
        A (I, k) and B (k, O), k <= K: fewer where fewer are exact.
    """
    directions = _leading_vectors(source, rank, metric)
    return source.times(_weighed(directions.t(), metric).t()), _unweighed(directions, metric).t()


def _metric_vectors(objective: Objective) -> Tensor:
    """Right singular vectors of L W D (O, k), in descending order."""
    source, scales = objective.source, objective.scales
    scales = torch.ones((), dtype=torch.float64, device=source.device) if scales is None else scales
    plain = objective.moment.ridge if objective.moment is not None else 1.0
    rows = [] if objective.moment is None else [objective.image * scales]
    exact = is_small(source) and sum(source.shape) * min(source.shape) * source.shape[1] <= 4 * EXACT_WORK
    if exact and plain:
        rows.append(plain**0.5 * source.dense() * scales)
    if exact or not plain:
        return svd(torch.cat(rows))[2].t()
    gram = torch.zeros(source.shape[1], source.shape[1], dtype=torch.float64, device=source.device)
    for _, block in source.cast_blocks(torch.float64):
        gram.addmm_(block.t(), block, alpha=plain)
    gram = gram * scales * scales.view(-1, *[1] * scales.dim())
    gram = gram + sum(row.t() @ row for row in rows)
    return eigh(gram)[1].flip(-1)


def _refined(objective: Objective, right: Tensor) -> Tensor:
    """One subspace iteration with (L W D)'(L W D): gives back the digits that a Gram matrix lost."""
    q, _ = torch.linalg.qr(_normal_times(objective, right))
    _, turn = eigh(q.t() @ _normal_times(objective, q))
    return q @ turn.flip(-1)


def _normal_times(objective: Objective, right: Tensor) -> Tensor:
    """(L W D)' (L W D) times vectors (O, k): two passes over W."""
    scales = 1.0 if objective.scales is None else objective.scales.unsqueeze(1)
    image = objective.source.times(scales * right)
    if objective.moment is not None:
        image = objective.moment.apply(image.unsqueeze(0)).squeeze(0)
    return scales * objective.source.transpose_times(image)


def _signed(vectors: Tensor) -> Tensor:
    """Turn each column so that its largest entry is positive.

    Where bonds truncate, a fold of the columns is not indifferent to their signs, and a library's SVD leaves
    them to chance: without a rule, another machine would find another ring.
    """
    if vectors.shape[0] == 0:
        return vectors
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors)


def _padded(vectors: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(vectors, (0, 0, 0, size - vectors.shape[0]))


def _leading_vectors(source: MatrixSource, rank: int, metric: Metric) -> Tensor:
    """Return the leading right singular vectors of L W D, (O, k)."""
    inputs, outputs = source.shape
    exact = metric.input_rows is not None and not metric.ridge
    if inputs > outputs and not exact:
        return _leading_of_gram(source, rank, metric)
    seen = _weighed(source.transpose_times(_root(metric, inputs).t()).t(), metric)
    values, vectors = torch.linalg.svd(seen, full_matrices=False)[1:]
    kept = int((values > 1e-12 * values[0]).sum()) if len(values) else 0
    return vectors[: min(rank, kept)].t()


def _leading_of_gram(source: MatrixSource, rank: int, metric: Metric) -> Tensor:
    """Return the same where the inputs are many: through D W' L' L W D, (O, O), in one pass over W."""
    outputs = source.shape[1]
    rows = torch.zeros(0, source.shape[0], dtype=torch.float64) if metric.input_rows is None else metric.input_rows
    seen = torch.zeros(len(rows), outputs, dtype=torch.float64)
    gram = torch.zeros(outputs, outputs, dtype=torch.float64)
    for first, block in source.cast_blocks(torch.float64):
        seen += rows[:, first : first + len(block)] @ block
        gram.addmm_(block.t(), block, alpha=1.0 if metric.input_rows is None else metric.ridge)
    gram.addmm_(seen.t(), seen)
    return torch.linalg.eigh(_weighed(_weighed(gram, metric).t(), metric))[1][:, -rank:].flip(1)


def _root(metric: Metric, inputs: int) -> Tensor:
    """Return L with L' L = X'X + ridge I: the rows themselves, or (I, I)."""
    if metric.input_rows is None:
        return torch.eye(inputs, dtype=torch.float64)
    if not metric.ridge:
        return metric.input_rows
    values, vectors = torch.linalg.eigh(metric.input_rows.t() @ metric.input_rows)
    return (values.clamp_min(0) + metric.ridge).sqrt().unsqueeze(1) * vectors.t()


def _weighed(rows: Tensor, metric: Metric) -> Tensor:
    """Return rows D, (R, O)."""
    if metric.output_weights is None:
        return rows
    return rows * metric.output_weights if metric.output_weights.dim() == 1 else rows @ metric.output_weights


def _unweighed(columns: Tensor, metric: Metric) -> Tensor:
    """Return D^-1 columns, (O, k)."""
    if metric.output_weights is None:
        return columns
    if metric.output_weights.dim() == 1:
        return columns / metric.output_weights.unsqueeze(1)
    return torch.linalg.solve(metric.output_weights, columns)
