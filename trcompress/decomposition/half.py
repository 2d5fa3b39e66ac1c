"""One half of the ring: an open chain of cores fitted, core by core and exactly, while the other half stands still.

With the other half fixed, the error is a quadratic in the merged chain C (a, N, b), where a and b are the two
bonds that close the ring:

    ||W - W_hat||^2 = ||W||^2 - 2 <C, target> + <C, C x gram>

`target` (a, N, b) is one product with W and `gram` (a, b, a, b) is small, so sweeps over the cores never touch W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trcompress.decomposition.linalg import solve_normal
from trcompress.decomposition.weighted import RowWeight, update_weighted
from trcompress.formats.chain import merge


@dataclass(frozen=True)
class HalfProblem:
    """The quadratic that one half of the ring minimises.

    Args:
        target: (a, N, b), the linear term, already weighed.
        gram: (a, b, a, b), the quadratic term of every row of the chain.
        weight: how the N rows are weighed; None where all weigh the same.
        free: (a, N, b), the linear term before weighing; given with `weight`.
    """

    target: Tensor
    gram: Tensor
    weight: RowWeight | None = None
    free: Tensor | None = None

    def sweep(self, cores: Sequence[Tensor]) -> tuple[list[Tensor], float]:
        """Replace every core, first to last, by the minimiser given all others.

        Returns:
            The cores, and <C, C x gram> - 2 <C, target>: the squared error without its constant.
        """
        if self.weight is not None:
            return self._sweep_weighted(list(cores), self.weight)
        cores, value = list(cores), 0.0
        target, gram = self.target, self.gram  # what lies left of core k is already contracted into both
        for k in range(len(cores)):
            right = merge(cores[k + 1 :]) if k + 1 < len(cores) else None
            cores[k], value = _update(cores[k], target, gram, right)
            if right is not None:
                target, gram = _absorb_target(target, cores[k]), absorb_gram(gram, cores[k])
        return cores, value

    def _sweep_weighted(self, cores: list[Tensor], weight: RowWeight) -> tuple[list[Tensor], float]:
        if len(cores) == 1 and self.free is not None:
            solved, _ = _update(cores[0], self.free, self.gram, None)  # all rows are free: weights do not matter
            image = weight.apply(times_gram(solved, self.gram))
            return [solved], float((solved * (image - 2 * self.target)).sum())
        target, value = self.target, 0.0
        for k, core in enumerate(cores):
            left = merge(cores[:k]) if k else None
            right = merge(cores[k + 1 :]) if k + 1 < len(cores) else None
            linear = _project(target, core.shape[1], right).to(core.dtype)
            cores[k], value = update_weighted(core, linear, self.gram, (left, right), weight)
            target = _absorb_target(target, cores[k])
        return cores, value


def times_gram(chain: Tensor, gram: Tensor) -> Tensor:
    """Multiply every row of a chain (a, N, b) by gram (a, b, a, b)."""
    a, rows, b = chain.shape
    flat = chain.transpose(0, 1).reshape(rows, a * b) @ gram.reshape(a * b, a * b)
    return flat.view(rows, a, b).transpose(0, 1)


def _update(core: Tensor, target: Tensor, gram: Tensor, right: Tensor | None) -> tuple[Tensor, float]:
    """Solve for one core; return it with the value of the quadratic there."""
    r, modes, q = core.shape
    linear = _project(target, modes, right).to(core.dtype).transpose(1, 2).reshape(r * q, modes)
    normal = normal_matrix(gram, right).reshape(r * q, r * q)
    solved = solve_normal(normal, linear, core.transpose(1, 2).reshape(r * q, modes))
    value = float((solved * (normal @ solved - 2 * linear)).sum())
    return solved.view(r, q, modes).transpose(1, 2).contiguous(), value


def pull_back(gradient: Tensor, cores: Sequence[Tensor]) -> list[Tensor]:
    """Turn a gradient with respect to the merged chain (a, N, b) into one with respect to every core."""
    result, left = [], gradient
    for k, core in enumerate(cores):
        right = merge(cores[k + 1 :]) if k + 1 < len(cores) else None
        result.append(_project(left, core.shape[1], right))
        left = _absorb_target(left, core)
    return result


def _project(target: Tensor, modes: int, right: Tensor | None) -> Tensor:
    """Contract (r, n*S, b) with what stands right of the core (q, S, b) into the core's shape (r, n, q)."""
    if right is None:
        return target
    q, rest, b = right.shape
    flat = target.reshape(-1, rest * b) @ right.reshape(q, rest * b).t().to(target.dtype)
    return flat.view(target.shape[0], modes, q)


def _absorb_target(target: Tensor, core: Tensor) -> Tensor:
    """Contract the core (r, n, q) into the target's left end: (r, n*S, b) -> (q, S, b)."""
    r, modes, q = core.shape
    b = target.shape[-1]
    flat = core.reshape(r * modes, q).t().to(target.dtype) @ target.reshape(r * modes, -1)
    return flat.view(q, -1, b)


def absorb_gram(gram: Tensor, core: Tensor) -> Tensor:
    """Contract the core into both sides of the left bond: (r, b, r, b), (r, n, q) -> (q, b, q, b)."""
    r, modes, q = core.shape
    b = gram.shape[1]
    if modes * (r + q) < r * q:
        half = core.reshape(r, modes * q).t() @ gram.reshape(r, b * r * b)  # (n*q, b*r*b)
        half = half.view(modes, q * b, r, b).permute(1, 3, 0, 2).reshape(q * b * b, modes * r)
        both = half @ core.transpose(0, 1).reshape(modes * r, q)  # (q*b*b, q)
        return both.view(q, b, b, q).transpose(2, 3)
    pairs = torch.einsum("rnq,snp->rsqp", core, core).reshape(r * r, q * q)
    sides = gram.permute(0, 2, 1, 3).reshape(r * r, b * b)
    return (pairs.t() @ sides).view(q, q, b, b).permute(0, 2, 1, 3)


def normal_matrix(gram: Tensor, right: Tensor | None) -> Tensor:
    """Return the quadratic term of one core: gram (r, b, r, b) with the right chain (q, S, b) on both sides."""
    if right is None:
        return gram
    r, b = gram.shape[:2]
    q, rest = right.shape[:2]
    if rest * (q + b) * r * r < (rest + r * r) * q * b:
        columns = right.transpose(1, 2).reshape(q, b, rest)  # (q, b, S)
        half = torch.einsum("rbsc,qcx->rbsqx", gram, columns)
        return torch.einsum("rbsqx,pbx->rpsq", half, columns)
    flat = right.transpose(1, 2).reshape(q * b, rest)
    pairs = (flat @ flat.t()).view(q, b, q, b).permute(1, 3, 0, 2).reshape(b * b, q * q)
    sides = gram.permute(0, 2, 1, 3).reshape(r * r, b * b)
    return (sides @ pairs).view(r, r, q, q).permute(0, 2, 1, 3)
