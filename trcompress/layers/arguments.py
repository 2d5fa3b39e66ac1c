"""Check and complete what a recurrent layer is called with, as torch.nn does: same rules, same error types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trcompress.model.kinds import TWO_STATES


def each(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply `change` to the state, or to both halves of an LSTM's; an omitted one stays omitted."""
    if state is None:
        return None
    return tuple(map(change, state)) if isinstance(state, (tuple, list)) else change(state)


def check_input(layer: Any, x: Tensor, batched_dims: int) -> None:
    """Refuse an input of another rank, size or type than the layer's.

    Raises:
        ValueError: another number of dimensions, or another dtype outside autocast.
        RuntimeError: another number of features.
    """
    if x.dim() not in (batched_dims, 2):
        raise ValueError(f"the input must be 2-D (unbatched) or 3-D: got shape {tuple(x.shape)}")
    check_features(layer, x)
    dtype = layer.dtype
    if x.dtype != dtype and not torch._C._is_any_autocast_enabled():
        raise ValueError(
            f"the input must have the layer's dtype: got {x.dtype}, the layer has {dtype}; "
            f"use input.to({dtype}) or layer.to({x.dtype})"
        )


def check_features(layer: Any, x: Tensor) -> None:
    """Refuse another number of features.

    Raises:
        RuntimeError: the input's last dimension is not the layer's input size.
    """
    if x.size(-1) != layer.input_size:
        raise RuntimeError(
            f"the input's last dimension must be the input_size {layer.input_size}: got shape {tuple(x.shape)}"
        )


def initial_state(layer: Any, batch: int, hx: Any, batched: bool) -> Any:
    """Return a given initial state, checked and batched; None where it was omitted.

    Raises:
        RuntimeError: another number of dimensions or another size than the layer's states have.
    """
    if hx is None:
        return None
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    sizes = (rows, batch, layer.hidden_size)
    states = tuple(hx) if layer.mode in TWO_STATES else (hx,)
    dims = 3 if batched else 2
    if any(state.dim() != dims for state in states):
        got = ", ".join(f"{state.dim()}-D" for state in states)
        raise RuntimeError(f"for {'' if batched else 'un'}batched input the state must be {dims}-D: got {got}")
    states = states if batched else tuple(state.unsqueeze(1) for state in states)
    wanted = ((rows, batch, layer.proj_size or layer.hidden_size), sizes)
    for state, want in zip(states, wanted, strict=False):
        if state.shape != want:
            raise RuntimeError(f"the initial state must have size {want}: got {tuple(state.shape)}")
    return states if layer.mode in TWO_STATES else states[0]
