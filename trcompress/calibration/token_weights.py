"""The two-mode ring of a layer that is fed tokens: every token's gates weigh as much as the outputs answer to them.

    sum over tokens v and directions j of  S[v, j] (T - L R)[v, j]^2        T = (table - mean) W U

U are the eigenvectors of the gates' second moments, S[v, j] = E[(u_j' g)^2; token v]. Where one metric for all
inputs weighs a token's every direction alike, this weighs each by itself: Kronecker factors with corrected
eigenvalues (George et al. 2018, arXiv:1806.03884), solved by alternating least squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NAME = "tokens one by one"
SWEEPS = 30
"""Alternations: each is exact in one factor."""
FLOOR = 1e-2
"""Least weight of an entry, in units of the mean: tokens that are never seen may not become anything."""
RIDGE = 1e-9
BLOCK_ROWS = 1024
"""Gradients that are turned into float64 at once."""
BLOCK_VALUES = 1 << 20
"""Values of the normal equations that are formed at once."""


@dataclass(frozen=True)
class TokenSensitivity:
    """How the outputs answer to one layer's gates, token by token.

    Args:
        table: (V, I) the embedding.
        share: (V,) how often each row is fed; they add up to 1.
        weights: S (V, O) float64.
        basis: U (O, O) float64, orthogonal.
    """

    table: Tensor
    share: Tensor
    weights: Tensor
    basis: Tensor


def token_sensitivity(table: Tensor, places: Tensor, gradients: Tensor) -> TokenSensitivity:
    """Sum up gradients by token.

    Args:
        table: (V, I).
        places: (n,) which row each step was fed.
        gradients: (n, O) of a probe with respect to the gates.
    """
    second = torch.zeros(gradients.shape[1], gradients.shape[1], dtype=torch.float64)
    for block in gradients.split(BLOCK_ROWS):
        second.addmm_(block.double().t(), block.double())
    basis = torch.linalg.eigh(second)[1]
    weights = second.new_zeros(len(table), gradients.shape[1])
    for block, rows in zip(gradients.split(BLOCK_ROWS), places.split(BLOCK_ROWS), strict=True):
        weights.index_add_(0, rows, (block.double() @ basis).square())
    counts = torch.bincount(places, minlength=len(table)).double()
    return TokenSensitivity(table.double(), counts / counts.sum(), weights, basis)


def token_factors(dense: Tensor, rank: int, seen: TokenSensitivity) -> tuple[Tensor, Tensor]:
    """Find A (I, K) and B (K, O) with A B close to W where tokens and gates matter.

    Args:
        dense: W (I, O) float64.
        rank: K.
        seen: what matters.
    """
    centred = seen.table - seen.share @ seen.table
    weights = seen.weights + FLOOR * seen.weights.mean()
    left, right = weighted_factors(centred @ dense @ seen.basis, weights, rank)
    return torch.linalg.pinv(centred) @ left, right @ seen.basis.t()


def weighted_factors(target: Tensor, weights: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Minimise sum weights * (target - L R)^2 over L (V, K) and R (K, O), from a scaled SVD.

    Args:
        target: (V, O) float64.
        weights: (V, O), positive.
        rank: K.
    """
    rows = weights.mean(1, keepdim=True).sqrt()
    columns = (weights.mean(0, keepdim=True) / weights.mean()).sqrt()
    u, s, vh = torch.linalg.svd(target * rows * columns, full_matrices=False)
    left, right = u[:, :rank] * s[:rank] / rows, vh[:rank] / columns
    for _ in range(SWEEPS):
        right = _solved(left, target.t(), weights.t()).t()
        left = _solved(right.t(), target, weights)
    return left, right


def _solved(fixed: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """For every row of target (n, m): the x (K,) with least weighted distance of fixed (m, K) @ x."""
    rank = fixed.shape[1]
    found = []
    for mine, weight in zip(
        *(one.split(max(1, BLOCK_VALUES // rank**2)) for one in (target, weights)), strict=True
    ):
        pairs = (fixed.unsqueeze(2) * fixed.unsqueeze(1)).reshape(len(fixed), rank * rank)
        normal = (weight @ pairs).view(-1, rank, rank)
        scale = normal.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-300)
        eye = torch.eye(rank, dtype=fixed.dtype)
        found.append(torch.linalg.solve(normal + RIDGE * scale[:, None, None] * eye, (weight * mine) @ fixed))
    return torch.cat(found)
