"""All values from some: the best affine guess on recorded data, and matrices that read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.errors import UsageError
from trcompress.passes.moments import Moments

RIDGE = 1e-4
"""Added to the kept values' variances, relative to their mean: values that hardly move teach nothing."""


@dataclass(frozen=True)
class Guess:
    """h ~ matrix @ h[kept] + rest.

    Args:
        matrix: (n, k); the rows of kept values are those of the identity.
        rest: (n,), zero where kept; None where there is no bias to take it.
    """

    matrix: Tensor
    rest: Tensor | None


def affine_guess(moments: Moments | None, kept: Tensor, affine: bool) -> Guess:
    """Fit all n values of a vector from k of them by least squares.

    Args:
        moments: of the vectors; not looked at where every value is kept.
        kept: (k,) indices, in the order in which the k values will come.
        affine: fit a constant as well.

    Raises:
        UsageError: values are to be guessed of which nothing was recorded.

    Example:
        >>> seen = Moments.of_size(2)
        >>> seen.add(torch.tensor([[1.0, 2.0], [2.0, 4.0], [4.0, 8.0]]))
        >>> affine_guess(seen, torch.tensor([0]), affine=False).matrix.round(decimals=2).flatten().tolist()
        [1.0, 2.0]
    """
    if moments is not None and len(kept) < moments.size:
        matrix, rest = _fit(moments.about(affine), kept), None
        if affine:
            rest = moments.mean - matrix @ moments.mean[kept]
            rest[kept] = 0
        return Guess(matrix, rest)
    size = len(kept)
    if moments is None and int(kept.max()) >= size:
        raise UsageError("nothing was recorded of the states: run the network on calibration inputs first")
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix[kept, torch.arange(size)] = 1
    return Guess(matrix, torch.zeros(size, dtype=torch.float64) if affine else None)


def repair(module: Any, weight: str, bias: str, guess: Guess) -> None:
    """Let a matrix of a module read the kept values in place of all: W R, and W r into its bias."""
    old = getattr(module, weight).detach()
    wide = old.double().cpu()
    if guess.rest is not None:
        with torch.no_grad():
            getattr(module, bias).add_((wide @ guess.rest).to(old))
    setattr(module, weight, nn.Parameter((wide @ guess.matrix).to(old)))


def has(module: Any, name: str) -> bool:
    """Return True where a module has a tensor of this name."""
    return isinstance(getattr(module, name, None), Tensor)


def _fit(second: Tensor | None, kept: Tensor) -> Tensor:
    if second is None:
        raise UsageError("too many values to guess some from others: no second moments were kept of them")
    inner = second[kept][:, kept]
    ridge = RIDGE * inner.diagonal().mean().clamp_min(1e-30)
    matrix = torch.linalg.solve(inner + ridge * torch.eye(len(kept), dtype=inner.dtype), second[kept]).T
    matrix = matrix.contiguous()
    matrix[kept] = torch.eye(len(kept), dtype=matrix.dtype)
    return matrix
