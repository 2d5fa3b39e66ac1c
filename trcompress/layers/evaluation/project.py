"""All time steps through the bottleneck at once: the products that read the inputs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trcompress.layers.evaluation.form import round_up


def project(x: Tensor, S: Tensor, P: Tensor | None = None, *, bond: int = 1) -> Tensor:
    """Multiply inputs with the merged input cores, without copying the inputs.

    S is stored with the inputs along its rows: then both x @ S and the gradient x' @ grad are products that BLAS
    runs at full speed; the other orientation costs the gradient up to twice the time.

    Args:
        x: (..., I), contiguous, or (B, T, I) seen as (T, B, I).
        S: (I / p, C).
        P: the merged cores left of the cut (copies, r_0, p, r_s), or None where nothing is cut.
        bond: r_n, where P is given.

    Returns:
        z (..., K).
    """
    if x.is_contiguous():
        if P is None:
            return x @ S
    elif x.dim() == 3 and x.transpose(0, 1).is_contiguous():
        return project(x.transpose(0, 1), S, P, bond=bond).transpose(0, 1)
    z = x.reshape(-1, S.shape[0]) @ S  # (N * p, C)
    if P is not None:
        copies, _, prefix, rs = P.shape
        y = z[:, : copies * rs * bond].reshape(-1, prefix, copies, rs, bond)
        z = torch.einsum("npcsk,caps->ncak", y, P).flatten(1)  # (N, copies * r_0 * r_n)
        z = F.pad(z, (0, round_up(z.shape[1]) - z.shape[1]))
    return z.view(*x.shape[:-1], z.shape[-1])
