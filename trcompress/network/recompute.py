"""Differentiate a recurrent layer without keeping its inner values: a few sequences at a time, run again backwards.

PyTorch's kernels keep some fifteen values a hidden unit and step for the backward pass. Here only what a layer is
fed and gives stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PIECE_STEPS = 1024
"""Steps of a layer that are differentiated at once, at least one sequence."""


def in_pieces(run: Callable[[Any, Any], Any], input: Any, hx: Any, axis: int) -> Any:
    """Run a layer on some sequences after the others, each piece checkpointed.

    Args:
        run: (input, hx) -> (output, state) as torch.nn's recurrent modules do, or (x, h) -> state as cells do.
        input: (B, T, I) or (T, B, I); all else, as packed sequences and one step of cells, is a single piece.
        hx: None, (L, B, H), or a tuple of two of these.
        axis: of the sequences in `input` and in the output.
    """
    if not isinstance(input, Tensor) or input.dim() != 3:
        return _checkpointed(run, input, hx)
    size = max(1, PIECE_STEPS // max(1, input.shape[1 - axis]))
    if input.shape[axis] <= size:
        return _checkpointed(run, input, hx)
    parts = input.split(size, axis)
    answers = [_checkpointed(run, *one) for one in zip(parts, _split(hx, size, len(parts)), strict=True)]
    outputs, states = zip(*answers, strict=True)
    return torch.cat(outputs, axis), _joined(states)


def _checkpointed(run: Callable[[Any, Any], Any], input: Any, hx: Any) -> Any:
    return checkpoint(run, input, hx, use_reentrant=False, preserve_rng_state=False)


def _split(hx: Any, size: int, count: int) -> list[Any]:
    if hx is None:
        return [None] * count
    if isinstance(hx, tuple):
        return list(zip(*(one.split(size, 1) for one in hx), strict=True))
    return list(hx.split(size, 1))


def _joined(states: Any) -> Any:
    if isinstance(states[0], tuple):
        return tuple(torch.cat(parts, 1) for parts in zip(*states, strict=True))
    return torch.cat(states, 1)
