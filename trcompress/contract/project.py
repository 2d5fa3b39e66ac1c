"""All time steps through the bottleneck at once: the products that read the inputs, in the fastest form at hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trcompress.contract.cache import in_disguise

LARGE = 2**20
"""Inputs with at least so many values are worth oneDNN's inner product, which does not repack them."""


def project(x: Tensor, S: Tensor, Q: Tensor | None = None, used: int | None = None) -> Tensor:
    """Multiply inputs with the merged input cores, without copying the inputs.

    Args:
        x: (..., I), contiguous, or (B, T, I) seen as (T, B, I).
        S: (C, I / p).
        Q: (p * C, K), or None where p is 1.
        used: rows of S that are not padding; all of them where omitted.

    Returns:
        z (..., K).
    """
    if x.dim() == 3 and not x.is_contiguous() and x.transpose(0, 1).is_contiguous():
        return project(x.transpose(0, 1), S, Q, used).transpose(0, 1)
    z = _thin_product(x.reshape(-1, S.shape[1]), S, used or S.shape[0])  # (N * p, C)
    if Q is not None:
        z = z.view(-1, Q.shape[0]) @ Q  # (N, K)
    return z.view(*x.shape[:-1], z.shape[-1])


def _thin_product(x: Tensor, S: Tensor, used: int) -> Tensor:
    """Compute x @ S' for many inputs and few rows of S."""
    inner = _inner_product(x)
    if inner is None or S.dtype != x.dtype or in_disguise() or torch.is_autocast_enabled(x.device.type):
        return x @ S.T
    if torch.is_grad_enabled() and (x.requires_grad or S.requires_grad):
        return _ThinProduct.apply(x, S, used)
    return inner(x, S, None, "none", [], "")


class _ThinProduct(torch.autograd.Function):
    """x @ S' by oneDNN's inner product, which has no derivative of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, S: Tensor, used: int) -> Tensor:
        ctx.save_for_backward(x, S)
        ctx.used = used
        return _inner_product(x)(x, S, None, "none", [], "")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, S = ctx.saved_tensors
        grad_x = grad @ S if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return grad_x, None, None
        if torch.is_grad_enabled() or ctx.used == S.shape[0]:
            return grad_x, grad.T @ x, None
        grad_s = torch.zeros_like(S)
        torch.mm(grad.T[: ctx.used], x, out=grad_s[: ctx.used])
        return grad_x, grad_s, None


def _inner_product(x: Tensor) -> Any:
    """PyTorch's oneDNN linear operation where it exists and pays."""
    if x.numel() < LARGE or x.device.type != "cpu" or x.dtype != torch.float32:
        return None
    if not torch.backends.mkldnn.is_available() or not torch._C._get_mkldnn_enabled():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)
