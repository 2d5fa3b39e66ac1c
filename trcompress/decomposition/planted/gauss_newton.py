"""Levenberg-Marquardt on all cores at once: where ALS creeps through a swamp, this walks across it.

J'J of a ring is a product of small transfer matrices, so it never sees W; the gradient and the error take one
pass. For rings of a few thousand parameters one step costs little more than an ALS sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trcompress.decomposition.als import Fit, balance
from trcompress.decomposition.objective import Objective

MAX_PARAMETERS = 3000
"""Largest ring whose J'J is formed."""
MAX_TRANSFER = 1 << 18
"""Largest transfer matrix (values) that is formed."""
FIRST_DAMPING = 1e-2
"""Damping of the first step, relative to the curvature."""
LAST_DAMPING = 1e12
"""Damping at which no step lowers the error any more."""


def is_affordable(objective: Objective) -> bool:
    """Return True where J'J of this ring is small enough to form and factorise."""
    ring = objective.ring
    bonds = sorted(ring.ranks[1:])[-2:]
    return objective.is_plain and ring.parameters <= MAX_PARAMETERS and (bonds[0] * bonds[-1]) ** 2 <= MAX_TRANSFER


def step_work(objective: Objective) -> float:
    """Multiply-adds of one step, roughly."""
    rows, columns = objective.source.shape
    return objective.ring.parameters**3 / 3 + 3.0 * rows * columns * objective.ring.bottleneck + 1e8


def polish(
    objective: Objective,
    fit: Fit,
    steps: int,
    tolerance: float,
    watch: Callable[[Fit], None] | None = None,
) -> Fit:
    """Take damped Gauss-Newton steps until the error stops falling, or `steps` times; the error never rises.

    Args:
        objective: W and the ring.
        fit: where to start; changed in place.
        steps: at most so many accepted steps.
        watch: called after every step.
        tolerance: stop when ten steps together reduce the error by less than ten times this, relatively.
    """
    dtype = objective.pass_dtype(fit.squared)
    fit.squared, gradient = objective.gradients(fit.cores, dtype)
    damping, growth = FIRST_DAMPING, 2.0
    history = [objective.relative(fit.squared)]
    for _ in range(steps):
        hessian = normal_matrix(fit.cores)
        scale = _scale(hessian)
        while True:
            change = _solve(hessian, gradient, damping * scale)
            trial = balance(_moved(fit.cores, change))
            squared, trial_gradient = objective.gradients(trial, dtype)
            if squared < fit.squared:
                break
            damping, growth = damping * growth, growth * 2
            if damping > LAST_DAMPING:
                fit.converged = True
                return fit
        promised = float(change @ (damping * scale * change + gradient))
        ratio = (fit.squared - squared) / promised if promised > 0 else 1.0
        damping, growth = damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 2.0
        fit.cores, fit.squared, gradient = trial, squared, trial_gradient
        history.append(objective.relative(squared))
        fit.history.append(history[-1])
        if watch:
            watch(fit)
        if _settled(history, tolerance):
            fit.converged = True
            break
        if dtype != objective.pass_dtype(squared):
            dtype = objective.pass_dtype(squared)
            fit.squared, gradient = objective.gradients(fit.cores, dtype)
    return fit


def _scale(hessian: Tensor) -> Tensor:
    """Marquardt's scaling of the damping: every parameter by its own curvature."""
    diagonal = hessian.diagonal().clone()
    return diagonal.clamp(min=1e-9 * float(diagonal.max()))


def _settled(history: Sequence[float], tolerance: float) -> bool:
    if history[-1] < 1e-12:
        return True
    return len(history) > 20 and history[-10] - history[-1] < 10 * tolerance * history[-1]


def normal_matrix(cores: Sequence[Tensor]) -> Tensor:
    """J'J (P, P) of the ring's dense tensor with respect to all cores, in their order."""
    d = len(cores)
    transfers = [_transfer(core) for core in cores]
    sizes = [core.numel() for core in cores]
    starts = [sum(sizes[:k]) for k in range(d)]
    result = cores[0].new_empty(sum(sizes), sum(sizes))
    around = _spans(transfers)
    for k in range(d):
        r, n, q = cores[k].shape
        rest = around[(k + 1) % d, d - 1].view(q, q, r, r).permute(2, 0, 3, 1)  # (r, q, r, q)
        own = torch.einsum("aqbp,nm->anqbmp", rest, torch.eye(n, dtype=rest.dtype, device=rest.device))
        mine = slice(starts[k], starts[k] + sizes[k])
        result[mine, mine] = own.reshape(sizes[k], sizes[k])
        for other in range(k + 1, d):
            block = _pair_block(cores, around, k, other)
            theirs = slice(starts[other], starts[other] + sizes[other])
            result[mine, theirs] = block
            result[theirs, mine] = block.t()
    return result


def _transfer(core: Tensor) -> Tensor:
    """The core on both sides: ((r, r'), (q, q'))."""
    r, _, q = core.shape
    return torch.einsum("anb,cnd->acbd", core, core).reshape(r * r, q * q)


def _spans(transfers: Sequence[Tensor]) -> dict[tuple[int, int], Tensor]:
    """Products of consecutive transfers around the ring, by (first, count)."""
    d = len(transfers)
    spans: dict[tuple[int, int], Tensor] = {}
    for first in range(d):
        size = transfers[first].shape[0]
        product = torch.eye(size, dtype=transfers[0].dtype, device=transfers[0].device)
        spans[first, 0] = product
        for count in range(1, d):
            product = product @ transfers[(first + count - 1) % d] if count > 1 else transfers[first]
            spans[first, count] = product
    return spans


def _pair_block(cores: Sequence[Tensor], spans: dict[tuple[int, int], Tensor], k: int, other: int) -> Tensor:
    """d2/dG_k dG_other of <W_hat, W_hat> / 2, first copy without core k, second without the other."""
    d = len(cores)
    (r, n, q), (s, m, t) = cores[k].shape, cores[other].shape
    between = spans[k + 1, other - k - 1].view(q, q, s, s)  # first copy, second copy at both ends
    outside = spans[(other + 1) % d, d - 1 - (other - k)].view(t, t, r, r)
    with_k = torch.einsum("efag,gih->efaih", outside, cores[k])  # second copy holds core k
    with_other = torch.einsum("bhcy,cje->bhyje", between, cores[other])  # first copy holds the other
    block = torch.einsum("efaih,bhyje->aibyjf", with_k, with_other)
    return block.reshape(r * n * q, s * m * t)


def _solve(hessian: Tensor, gradient: Tensor, damping: Tensor) -> Tensor:
    while True:
        damped = hessian.clone()
        damped.diagonal().add_(damping)
        factor, info = torch.linalg.cholesky_ex(damped)
        if not bool(info):
            return torch.cholesky_solve(gradient.unsqueeze(1), factor).squeeze(1)
        damping = damping * 10


def _moved(cores: Sequence[Tensor], change: Tensor) -> list[Tensor]:
    parts = change.split([core.numel() for core in cores])
    return [core + part.view(core.shape) for core, part in zip(cores, parts, strict=True)]
