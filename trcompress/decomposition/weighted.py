"""One core of a half whose rows do not all weigh the same: bigger normal equations, or none at all.

Weights couple the modes, so the small matrix shared by all slices of a core no longer exists. Where the full one
is affordable it is formed; elsewhere conjugate gradients need only products.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trcompress.decomposition.linalg import solve_normal
from trcompress.decomposition.metric import DiagonalWeight, MomentWeight
from trcompress.formats.chain import join

RowWeight = DiagonalWeight | MomentWeight

MAX_VALUES = 1 << 24
"""Values of an intermediate tensor up to which normal equations are formed."""
MAX_WORK = 1e10
"""Multiply-adds up to which they are formed."""
STEPS = 40
"""Conjugate gradient steps for one core at most."""


def update_weighted(
    core: Tensor, linear: Tensor, gram: Tensor, sides: tuple[Tensor | None, Tensor | None], weight: RowWeight
) -> tuple[Tensor, float]:
    """Minimise over one core; return it with the value of the quadratic there.

    Args:
        core: (r, n, q).
        linear: (r, n, q), the target contracted with all other cores of the half.
        gram: (a, b, a, b) of the whole half.
        sides: merged cores left (a, P, r) and right (q, S, b) of this one, None where there are none.
        weight: of the rows.
    """
    left, right = _ends(sides, core, gram)

    def apply(x: Tensor) -> Tensor:
        return _apply(x, left, right, gram, weight)

    plain = _plain_normal(left, right, gram)
    if isinstance(weight, DiagonalWeight):
        solved = _solve_slices(core, linear, left, right, gram, weight)
    else:
        solved = _solve_moment(core, linear, left, right, gram, weight, plain)
    if solved is None:
        solved = _conjugate_gradients(core, linear, apply, _preconditioner(plain, core, weight.average))
    return solved, float((solved * (apply(solved) - 2 * linear)).sum())


def _ends(sides: tuple[Tensor | None, Tensor | None], core: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    left, right = sides
    eye = torch.eye(gram.shape[0] if left is None else gram.shape[1], dtype=core.dtype, device=core.device)
    if left is None:
        left = eye.unsqueeze(1)  # (a, 1, a)
    if right is None:
        right = torch.eye(gram.shape[1], dtype=core.dtype, device=core.device).unsqueeze(1)
    return left, right


def _apply(x: Tensor, left: Tensor, right: Tensor, gram: Tensor, weight: RowWeight) -> Tensor:
    """The quadratic's matrix times a core."""
    chain = join(join(left, x), right)  # (a, N, b)
    a, size, b = chain.shape
    flat = chain.transpose(0, 1).reshape(size, a * b) @ gram.reshape(a * b, a * b)
    weighed = weight.apply(flat.view(size, a, b).transpose(0, 1))
    inner = left.reshape(-1, left.shape[2]).t() @ weighed.reshape(a * left.shape[1], -1)  # (r, n*S*b)
    back = inner.reshape(-1, right.shape[1] * b) @ right.reshape(right.shape[0], -1).t()
    return back.view(x.shape)


def _pairs(side: Tensor) -> Tensor:
    """(a, P, r) -> sum over P of side x side: (a, a', r, r')."""
    return torch.einsum("apr,bps->abrs", side, side)


def _plain_normal(left: Tensor, right: Tensor, gram: Tensor) -> Tensor:
    """The normal matrix with all rows alike, (r*q, r*q)."""
    half = torch.einsum("acrs,abcd->rsbd", _pairs(left), gram)
    whole = torch.einsum("rsbd,qbpd->rqsp", half, torch.einsum("qxb,pxd->qbpd", right, right))
    r, q = left.shape[2], right.shape[0]
    return whole.reshape(r * q, r * q)


def _solve_slices(
    core: Tensor, linear: Tensor, left: Tensor, right: Tensor, gram: Tensor, weight: DiagonalWeight
) -> Tensor | None:
    """One system per index of the mode: each slice of the core meets its own rows."""
    (r, n, q), places = core.shape, left.shape[1] * right.shape[1]
    if places * (r * q) ** 2 > MAX_VALUES or places * (r * q) ** 2 * gram.shape[0] * gram.shape[1] > MAX_WORK:
        return None
    design = torch.einsum("apr,qsb->psabrq", left, right).reshape(places, -1, r * q)
    each = design.transpose(1, 2) @ (gram.reshape(design.shape[1], -1) @ design)  # (places, rq, rq)
    values = weight.values.view(left.shape[1], n, right.shape[1]).transpose(0, 1).reshape(n, places)
    normal = (values @ each.reshape(places, -1)).view(n, r * q, r * q)
    right_side = linear.transpose(0, 1).reshape(n, r * q, 1)
    solved = solve_normal(normal, right_side, core.transpose(0, 1).reshape(n, r * q, 1))
    return solved.view(n, r, q).transpose(0, 1).contiguous()


def _solve_moment(
    core: Tensor,
    linear: Tensor,
    left: Tensor,
    right: Tensor,
    gram: Tensor,
    weight: MomentWeight,
    plain: Tensor,
) -> Tensor | None:
    """One system for the whole core."""
    (r, n, q), k, samples = core.shape, gram.shape[0] * gram.shape[1], weight.rows.shape[0]
    size = core.numel()
    if samples * k * size > MAX_VALUES or samples * k * size**2 > MAX_WORK:
        return None
    rows = weight.rows.view(samples, left.shape[1], n, right.shape[1])
    design = torch.einsum("xpns,apr->xnsar", rows, left)
    design = torch.einsum("xnsar,qsb->xabrnq", design, right).reshape(samples, k, size)
    weighed = gram.reshape(k, k) @ design
    normal = design.reshape(-1, size).t() @ weighed.reshape(-1, size)
    if weight.ridge:
        eye = torch.eye(n, dtype=core.dtype, device=core.device)
        own = torch.einsum("rqsp,nm->rnqsmp", plain.view(r, q, r, q), eye)
        normal = normal + weight.ridge * own.reshape(size, size)
    return solve_normal(normal, linear.reshape(size, 1), core.reshape(size, 1)).view(r, n, q)


def _preconditioner(plain: Tensor, core: Tensor, average: float) -> Callable[[Tensor], Tensor]:
    """The plain normal equations, scaled to the average weight."""
    r, n, q = core.shape

    def solve(x: Tensor) -> Tensor:
        columns = x.transpose(1, 2).reshape(r * q, n)
        solved = solve_normal(plain * average, columns, torch.zeros_like(columns))
        return solved.view(r, q, n).transpose(1, 2)

    return solve


def _conjugate_gradients(
    start: Tensor, linear: Tensor, apply: Callable[[Tensor], Tensor], precondition: Callable[[Tensor], Tensor]
) -> Tensor:
    """Minimise from where the core is: every step lowers the quadratic, so stopping early is safe."""
    x = start.clone()
    residual = linear - apply(x)
    direction = image = precondition(residual)
    size = first = float((residual * image).sum())
    for _ in range(STEPS):
        if size <= 1e-16 * first or size <= 0:
            break
        product = apply(direction)
        curvature = float((direction * product).sum())
        if curvature <= 0:
            break
        x = x + (size / curvature) * direction
        residual = residual - (size / curvature) * product
        image = precondition(residual)
        size, before = float((residual * image).sum()), size
        direction = image + (size / before) * direction
    return x
