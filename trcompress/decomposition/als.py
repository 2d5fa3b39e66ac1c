"""TR-ALS: alternate between the two halves of the ring, each solved exactly from one product with W.

Equation: min over core k of ||W - W_hat||^2, all other cores fixed; cyclic over k (Zhao et al. 2016, Alg. 2)
Differs: no unfolding of W and no design matrix. T = W B' (one pass) and G = B B' hold all that the input cores
need, A' W and A' A all that the output cores need. The normal equations are in float64 with a proximal ridge;
the norms of the cores are balanced after each sweep; steps are extrapolated and taken back where that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log

import torch
from torch import Tensor

from trcompress.decomposition.objective import Objective


@dataclass
class Fit:
    """A ring on its way to W.

    Args:
        cores: the best so far.
        squared: its squared error.
        history: relative error after every accepted sweep; never rises.
        previous: the cores one sweep earlier, to extrapolate from.
        momentum: how far the next step extrapolates; 0 is plain ALS.
        origin: which start it came from.
        converged: whether it stopped by itself.
    """

    cores: list[Tensor]
    squared: float
    history: list[float]
    origin: str
    previous: list[Tensor] | None = None
    momentum: float = 0.0
    converged: bool = False


EXACT = 1e-10
"""Relative error at which a float64 W counts as met exactly; others to a few units of their own rounding."""


def exact_error(objective: Objective) -> float:
    """Relative error at which W counts as met exactly."""
    return max(EXACT, 4 * torch.finfo(objective.source.dtype).eps)


def balance(cores: Sequence[Tensor]) -> list[Tensor]:
    """Give all cores the same norm: the ring is unchanged, the least squares are better conditioned."""
    norms = [float(core.norm()) for core in cores]
    if min(norms) == 0.0:
        return list(cores)
    common = exp(sum(log(norm) for norm in norms) / len(norms))
    return [core * (common / norm) for core, norm in zip(cores, norms, strict=True)]


def step(
    objective: Objective, cores: Sequence[Tensor], inner: int, dtype: torch.dtype
) -> tuple[list[Tensor], float]:
    """Do one ALS sweep over all cores: two passes over W.

    Args:
        objective: W and the ring.
        cores: where to start from.
        inner: sweeps over each half's cores for one product with W.
        dtype: of the products with W.

    Returns:
        The new cores and their squared error.
    """
    inputs, outputs = objective.split(cores)
    half = objective.input_half(cores, dtype)
    for _ in range(inner):
        inputs, _ = half.sweep(inputs)
    half = objective.output_half([*inputs, *outputs], dtype)
    value = 0.0
    for _ in range(inner):
        outputs, value = half.sweep(outputs)
    return balance([*inputs, *outputs]), objective.squared_norm + value


def run(
    objective: Objective,
    fit: Fit,
    sweeps: int,
    tolerance: float,
    inner: int = 2,
    watch: Callable[[Fit], None] | None = None,
) -> Fit:
    """Sweep until the error stops falling, or `sweeps` times; the error never rises.

    Args:
        objective: W and the ring.
        fit: where to start; changed in place.
        sweeps: at most so many.
        tolerance: stop when four sweeps together reduce the error by less than four times this, relatively.
        inner: sweeps over each half's cores for one product with W.
        watch: called after every sweep.
    """
    for _ in range(sweeps):
        start = _extrapolated(fit)
        cores, squared = step(objective, start, inner, objective.pass_dtype(fit.squared))
        if squared < 1e-10 * objective.squared_norm:
            squared = objective.squared_error(cores)
        if squared < fit.squared:
            fit.previous, fit.cores, fit.squared = fit.cores, cores, squared
            fit.momentum = min(1.0, fit.momentum * 1.3 + 0.1)
        elif fit.momentum > 0:
            fit.momentum, fit.previous = 0.0, None  # the extrapolation overshot: take a plain step next
        else:
            fit.converged = True
        fit.history.append(objective.relative(fit.squared))
        if watch:
            watch(fit)
        fit.converged = fit.converged or _settled(fit.history, tolerance)
        if fit.converged:
            break
    return fit


def _extrapolated(fit: Fit) -> list[Tensor]:
    if fit.previous is None or fit.momentum == 0.0:
        return fit.cores
    return [now + fit.momentum * (now - old) for now, old in zip(fit.cores, fit.previous, strict=True)]


def _settled(history: Sequence[float], tolerance: float) -> bool:
    if history[-1] < 1e-13:
        return True
    return len(history) > 5 and history[-5] - history[-1] < 4 * tolerance * history[-1]
