"""Layers and directions of a recurrent stack, each a node; and the cases in which this way is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trcompress.layers.evaluation import in_disguise
from trcompress.layers.evaluation.matrices import EXACT
from trcompress.layers.recurrence.node import layer
from trcompress.layers.recurrence.single import single

MOST_VALUES = 1_800_000
"""Hidden states of all steps, beyond which the arrays of a pass no longer fit the caches."""


def suits(mode: str, x: Tensor, hx: Any, weights: Sequence[Tensor], proj_size: int) -> bool:
    """Whether `through_time` can take this case, and is not the slower way.

    Args:
        mode: "LSTM", "GRU", "RNN_TANH" or "RNN_RELU".
        x: (T, B, K).
        hx: initial states, or None.
        weights: flat list in torch.nn's order.
        proj_size: of the LSTM's projection; 0 for none.
    """
    if in_disguise():
        return False
    steps, batch = x.shape[0], x.shape[1]
    if (steps > 1 or hx is not None) and not pays(mode, steps, batch, weights[1].shape[1]):
        return False
    if not torch.is_grad_enabled() or torch._C._is_any_autocast_enabled():
        return False
    if x.device.type != "cpu" or x.dtype not in EXACT or proj_size or not x.numel():
        return False
    return all(weight.dtype == x.dtype for weight in weights) and any(one.requires_grad for one in (x, *weights))


def pays(mode: str, steps: int, batch: int, hidden: int) -> bool:
    """Whether a training step is expected to be no slower than PyTorch's; measured on x86-64, 2 threads.

    Derivatives are taken for all steps at once, which is a loss where these no longer fit the caches. Elsewhere
    PyTorch's GRU and RNN only win by one step of a small layer. Its LSTM wins by many steps: it pays once for
    rearranging the weights, which for a large layer is the greater part of its time.

    Example:
        >>> pays("LSTM", 6, 16, 256), pays("LSTM", 100, 16, 256), pays("GRU", 100, 16, 256)
        (True, False, True)
    """
    if steps * batch * hidden > MOST_VALUES:
        return False
    if steps == 1 and mode != "LSTM":
        return batch * hidden**2 >= 2**20
    return mode != "LSTM" or steps <= min(hidden**2 // 10**4, 4 + hidden // 128)


def through_time(
    mode: str, x: Tensor, hx: Any, weights: Sequence[Tensor], settings: tuple[bool, int, float, bool, bool]
) -> tuple[Tensor, ...]:
    """Run one or more stacked layers over all time steps; arguments and results as of `layers.kernels.run`."""
    bias, layers, dropout, training, bidirectional = settings
    size, directions = 4 if bias else 2, 2 if bidirectional else 1
    states = () if hx is None else tuple(hx) if mode == "LSTM" else (hx,)
    finals = []
    for at in range(layers):
        outputs = []
        for one in range(at * directions, (at + 1) * directions):
            mine = weights[one * size : (one + 1) * size]
            if x.shape[0] == 1 and not states:
                output, *final = single(mode, x, *mine)
            else:
                output, *final = layer(mode, one % directions == 1, x, [state[one] for state in states], mine)
            outputs.append(output)
            finals.append(final)
        x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        if dropout and at + 1 < layers:
            x = F.dropout(x, dropout, training)
    return x, *(
        parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts) for parts in zip(*finals, strict=True)
    )
