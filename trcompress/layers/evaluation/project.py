"""All time steps through the bottleneck at once: the products that read the inputs."""

from __future__ import annotations

from torch import Tensor


def project(x: Tensor, S: Tensor, Q: Tensor | None = None) -> Tensor:
    """Multiply inputs with the merged input cores, without copying the inputs.

    S is stored with the inputs along its rows: then both x @ S and the gradient x' @ grad are products that BLAS
    runs at full speed; the other orientation costs the gradient up to twice the time.

    Args:
        x: (..., I), contiguous, or (B, T, I) seen as (T, B, I).
        S: (I / p, C).
        Q: (p * C, K), or None where p is 1.

    Returns:
        z (..., K).
    """
    if x.is_contiguous():
        if Q is None:
            return x @ S
    elif x.dim() == 3 and x.transpose(0, 1).is_contiguous():
        return project(x.transpose(0, 1), S, Q).transpose(0, 1)
    z = x.reshape(-1, S.shape[0]) @ S  # (N * p, C)
    if Q is not None:
        z = z.view(-1, Q.shape[0]) @ Q  # (N, K)
    return z.view(*x.shape[:-1], z.shape[-1])
