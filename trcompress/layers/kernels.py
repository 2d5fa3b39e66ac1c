"""PyTorch's own fused recurrent kernels behind one signature: oneDNN on CPUs, cuDNN on GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import _VF, Tensor

from trcompress.layers.arguments import each
from trcompress.model.kinds import MODES, TWO_STATES

SEQUENCE: dict[str, Callable[..., Any]] = {mode: getattr(_VF, mode.lower()) for mode in MODES}
CELL: dict[str, Callable[..., Any]] = {mode: getattr(_VF, f"{mode.lower()}_cell") for mode in MODES}
ONEDNN = frozenset(mode for mode, kind in MODES.items() if kind.onednn)
"""Modes that oneDNN runs on CPUs: all steps in one call, which lays out the weights anew."""


class KernelSettings(NamedTuple):
    """What a kernel is told, in the order of its arguments."""

    bias: bool
    layers: int
    dropout: float
    training: bool
    bidirectional: bool


def run(
    mode: str,
    x: Tensor,
    batch_sizes: Tensor | None,
    hx: Any,
    weights: Sequence[Tensor],
    settings: KernelSettings,
) -> tuple[Tensor, ...]:
    """Run one or more stacked layers over all time steps in one call.

    Args:
        mode: a key of SEQUENCE.
        x: (T, B, K), or (values, K) with `batch_sizes`.
        batch_sizes: of a PackedSequence, or None.
        hx: initial state; a pair for the modes of `TWO_STATES`.
        weights: flat list in torch.nn's order.
        settings: of the kernel.

    Returns:
        (output, h_n) and, where there are two states, c_n.
    """
    kernel = SEQUENCE[mode]
    if mode in ONEDNN and torch._C._is_any_autocast_enabled() and _autocast_is_refused(x.device):
        dtype = torch.get_autocast_dtype("cpu")
        x, hx = x.to(dtype), each(hx, lambda state: state.to(dtype))
        weights = [weight.to(dtype) for weight in weights]
        with torch.autocast("cpu", enabled=False):
            return run(mode, x, batch_sizes, hx, weights, settings)
    if batch_sizes is None:
        return kernel(x, hx, weights, *settings, False)
    return kernel(x, batch_sizes, hx, weights, *settings)


def zero_state(
    mode: str, sizes: tuple[int, int, int], proj_size: int, dtype: torch.dtype, device: torch.device
) -> Any:
    """Return zeros for an omitted initial state: (layers * directions, B, H), with the projected size for h."""
    cell = torch.zeros(sizes, dtype=dtype, device=device)
    if mode not in TWO_STATES:
        return cell
    hidden = torch.zeros((*sizes[:2], proj_size), dtype=dtype, device=device) if proj_size else cell
    return hidden, cell


def _autocast_is_refused(device: torch.device) -> bool:
    """Return True where oneDNN's LSTM fails in the type that autocast asks for.

    Some processors lack the type, and no processor's float16 LSTM has a backward pass.
    """
    if device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    asked = torch.get_autocast_dtype("cpu")
    if asked == torch.float16 and torch.is_grad_enabled():
        return True
    narrow = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    supports = getattr(torch.ops.mkldnn, narrow.get(asked, ""), None)
    return supports is not None and not supports()
