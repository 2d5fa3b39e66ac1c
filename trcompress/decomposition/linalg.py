"""Factorisations that do not give up: another driver, then a little jitter, then a clear error."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from trcompress.errors import InputFileError

RIDGE = 1e-13
"""Proximal ridge of normal equations, relative to their mean diagonal."""


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin singular value decomposition (U, S, Vh), tried in several ways.

    A very tall or wide matrix is reduced by QR first. Should LAPACK's divide and conquer fail to converge, the
    matrix is tried scaled, transposed, and with a jitter of a few units in the last place.

    Raises:
        InputFileError: the matrix holds NaN or Inf, or no way converges.
    """
    rows, columns = matrix.shape
    if columns > rows:
        u, s, vh = svd(matrix.t())
        return vh.t(), s, u.t()
    if rows > 2 * columns:
        q, r = torch.linalg.qr(matrix)
        u, s, vh = svd(r)
        return q @ u, s, vh
    for attempt in _attempts(matrix):
        try:
            return torch.linalg.svd(attempt, full_matrices=False)
        except torch.linalg.LinAlgError:
            continue
    return _svd_by_eigh(matrix)


def _attempts(matrix: Tensor) -> Iterator[Tensor]:
    """The matrix as it is, then nudged: convergence failures hang on single bits."""
    if not bool(torch.isfinite(matrix).all()):
        raise InputFileError("a matrix must be finite to be decomposed: NaN or Inf found; mend the weights first")
    yield matrix
    noise = torch.Generator(device="cpu").manual_seed(0)
    for size in (4, 256):
        jitter = torch.randn(matrix.shape, generator=noise, dtype=matrix.dtype).to(matrix.device)
        yield matrix + size * torch.finfo(matrix.dtype).eps * matrix.abs().max() * jitter


def _svd_by_eigh(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of a tall matrix through the eigenvectors of its Gram matrix: the last resort."""
    _, v = eigh(matrix.t() @ matrix)
    v = v.flip(-1)
    u, r = torch.linalg.qr(matrix @ v)  # r is nearly diagonal
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(r.dtype)
    return u * signs, r.diagonal().abs(), v.t()


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending) and eigenvectors of a symmetric matrix.

    Raises:
        InputFileError: the matrix holds NaN or Inf, or LAPACK does not converge even with a jitter.
    """
    for attempt in _attempts(matrix):
        try:
            return torch.linalg.eigh((attempt + attempt.t()) / 2)
        except torch.linalg.LinAlgError:
            continue
    raise InputFileError("the eigenvalues of a weight do not converge; are its values of sane size?")


def eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues of a symmetric positive semidefinite matrix, descending, none below zero.

    Raises:
        InputFileError: as `eigh`.
    """
    for attempt in _attempts(matrix):
        try:
            return torch.linalg.eigvalsh(attempt).flip(0).clamp(min=0)
        except torch.linalg.LinAlgError:
            continue
    raise InputFileError("the eigenvalues of a weight do not converge; are its values of sane size?")


def solve_normal(matrix: Tensor, right: Tensor, previous: Tensor) -> Tensor:
    """Minimise x' H x - 2 x' b with a proximal term, so that singular normal equations still have one answer.

    Solves (H + mu) x = b + mu * previous by Cholesky; mu grows until the factorisation exists.

    Args:
        matrix: H (p, p) or (batch, p, p), symmetric and positive semidefinite up to rounding.
        right: b (p, k), or (batch, p, k).
        previous: x to stay close to where H does not decide, same shape as `right`.
    """
    size = matrix.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).unsqueeze(-1)
    size = torch.where(size > 0, size, torch.ones_like(size))
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    relative = RIDGE
    while True:
        ridge = relative * size
        factor, info = torch.linalg.cholesky_ex(matrix + ridge * identity)
        if not bool(info.any()) or relative > 1:
            return torch.cholesky_solve(right + ridge * previous, factor)
        relative *= 100
