"""Round the tensors of a network to few bits so that what they compute on real inputs changes least.

Columns are rounded one after another, and what each leaves over is made up for by those to come, in the metric of
the vectors that the matrix multiplies (for weight_hh: the states that the network visits).
Source: Frantar et al. 2023, arXiv:2210.17323; differs: the mean of the inputs goes into the bias, and integers and
scales are improved afterwards, one coordinate at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trcompress.artifact.storage import Integers, Stored, as_rows, storage, stored_scale
from trcompress.decomposition.linalg import eigh
from trcompress.passes.moments import Moments

BLOCK = 64
"""Columns rounded before the rest of the matrix hears of it."""

DAMPING = 0.01
"""Share of the mean energy that is added to every input's, so that unseen inputs are not free."""


@dataclass(frozen=True)
class Rounded:
    """A matrix in few bits.

    Args:
        stored: codes and scales.
        shift: what to add to the layer's bias, (rows,), or None where nothing is known of the inputs' mean.
    """

    stored: Stored
    shift: Tensor | None = None


def round_matrix(
    weight: Tensor,
    kind: str,
    moments: Moments | None = None,
    step: float | None = None,
    *,
    centred: bool = True,
) -> Rounded:
    """Round one matrix.

    Minimises E|(W - V)(x - mean)|^2 over stored V, the mean's part being exact in the bias; or E|(W - V) x|^2.

    Args:
        weight: (rows, n), or any tensor whose first index selects a row.
        kind: a key of `STORAGE`.
        moments: of the vectors x (n,) that it multiplies; without them every value counts alike.
        step: distance between the levels of every row relative to the row's root mean square; None: the scale with
            the least error. Coarse steps are for files that are entropy-coded.
        centred: whether a bias takes the mean of what is lost.

    Returns:
        The stored matrix, and the correction of the bias.

    Example:
        >>> round_matrix(torch.tensor([[1.0, -1.0]]), "int8").stored.expand().tolist()
        [[1.0, -1.0]]
    """
    grid = storage(kind)
    if not isinstance(grid, Integers):
        stored = Stored.of(weight, kind)
        return Rounded(stored, _shift(weight, stored, moments) if centred else None)
    values = as_rows(weight.detach()).double()
    second = None if moments is None else moments.about(centred)
    if second is None:
        scale = grid.scales(values) if step is None else grid.stepped(values, step)
        codes = grid.codes(values, scale)
    else:
        codes, scale = compensated(values, grid, _damped(second), step)
    stored = Stored(kind, grid.pack(codes, scale, tuple(weight.shape)), tuple(weight.shape), weight.dtype)
    return Rounded(stored, _shift(weight, stored, moments) if centred else None)


def compensated(values: Tensor, grid: Integers, metric: Tensor, step: float | None = None) -> tuple[Tensor, Tensor]:
    """Round (rows, n) values in a metric (n, n): codes (rows, n) and scales (rows,).

    Never worse in the metric than rounding each value to its nearest at the same scales.
    """
    energy = metric.diagonal()
    scale = grid.scales(values, energy) if step is None else grid.stepped(values, step)
    plain = grid.codes(values, scale)
    codes = _one_by_one(values, scale, grid, metric)
    codes = _descend(values, codes, scale, grid, metric)
    if step is None:
        refitted = _refit(values, codes, grid, metric, scale)
        moved = _descend(values, codes, refitted, grid, metric)
        better = _errors(values, moved, refitted, grid, metric) < _errors(values, codes, scale, grid, metric)
        codes, scale = torch.where(better[:, None], moved, codes), torch.where(better, refitted, scale)
    first = grid.scales(values, energy) if step is None else scale
    worse = _errors(values, codes, scale, grid, metric) > _errors(values, plain, first, grid, metric)
    return torch.where(worse[:, None], plain, codes), torch.where(worse, first, scale)


def _one_by_one(values: Tensor, scale: Tensor, grid: Integers, metric: Tensor) -> Tensor:
    """Round columns in the order of their energy, each making up for those before."""
    order = metric.diagonal().argsort(descending=True)
    left, metric = values[:, order].clone(), metric[order][:, order]
    inverse = torch.linalg.cholesky(torch.linalg.inv(metric), upper=True)
    codes = torch.empty_like(left)
    for start in range(0, left.shape[1], BLOCK):
        stop = min(start + BLOCK, left.shape[1])
        wrong = torch.empty_like(left[:, start:stop])
        for j in range(start, stop):
            column = left[:, j]
            codes[:, j] = grid.codes(column[:, None], scale)[:, 0]
            wrong[:, j - start] = (column - grid.values(codes[:, j, None], scale)[:, 0]) / inverse[j, j]
            left[:, j + 1 : stop] -= torch.outer(wrong[:, j - start], inverse[j, j + 1 : stop])
        left[:, stop:] -= wrong @ inverse[start:stop, stop:]
    back = torch.empty_like(codes)
    back[:, order] = codes
    return back


def _descend(
    values: Tensor, codes: Tensor, scale: Tensor, grid: Integers, metric: Tensor, sweeps: int = 2
) -> Tensor:
    """Set one column after another to its best codes given all others; the error never rises."""
    codes = codes.clone()
    for _ in range(sweeps):
        slope = (grid.values(codes, scale) - values) @ metric  # (rows, n)
        for start in range(0, values.shape[1], BLOCK):
            stop = min(start + BLOCK, values.shape[1])
            moves = torch.empty_like(values[:, start:stop])
            for j in range(start, stop):
                now = grid.values(codes[:, j, None], scale)[:, 0]
                codes[:, j] = grid.codes((now - slope[:, j] / metric[j, j])[:, None], scale)[:, 0]
                moves[:, j - start] = grid.values(codes[:, j, None], scale)[:, 0] - now
                slope[:, j + 1 : stop] += torch.outer(moves[:, j - start], metric[j, j + 1 : stop])
            slope[:, stop:] += moves @ metric[start:stop, stop:]
    return codes


def _refit(values: Tensor, codes: Tensor, grid: Integers, metric: Tensor, scale: Tensor) -> Tensor:
    """The scale of each row that serves its codes best."""
    levels = codes + grid.offset
    seen = levels @ metric
    best = (seen * values).sum(1) / (seen * levels).sum(1).clamp_min(1e-300)
    return torch.where(best > 0, stored_scale(best), scale)


def _errors(values: Tensor, codes: Tensor, scale: Tensor, grid: Integers, metric: Tensor) -> Tensor:
    wrong = values - grid.values(codes, scale)
    return ((wrong @ metric) * wrong).sum(1)


def _damped(metric: Tensor) -> Tensor:
    """A metric (n, n) that is positive definite, well above its own rounding."""
    eye = torch.eye(len(metric), dtype=metric.dtype, device=metric.device)
    ridge = DAMPING * metric.diagonal().mean().clamp_min(1e-30)
    if torch.linalg.cholesky_ex(metric + ridge / 2 * eye).info:
        # inputs that hardly vary: their covariance is what the subtraction of the mean left over, of either sign
        ridge = ridge + eigh(metric)[0][0].abs() * 100
    return metric + ridge * eye


def _shift(weight: Tensor, stored: Stored, moments: Moments | None) -> Tensor | None:
    if moments is None:
        return None
    return (as_rows(weight.detach()).double() - as_rows(stored.expand()).double()) @ moments.mean.double()
