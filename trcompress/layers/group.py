"""Layers gathered for one kernel call."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trcompress.layers import arguments, kernels
from trcompress.layers.recurrence import suits, through_time

if TYPE_CHECKING:
    from trcompress.layers.stack import RingStack


class Group:
    """Gathers the weights of consecutive layers; `flush` runs them as one stacked layer.

    Args:
        stack: the module.
        x: its input, (T, B, I), (B, T, I) or (values, I).
        batch_sizes: of a PackedSequence, or None.
        hx: initial states of all layers, or None.
        batch_first: whether x is (B, T, I).
    """

    def __init__(self, stack: RingStack, x: Tensor, batch_sizes: Tensor | None, hx: Any, batch_first: bool) -> None:
        self._stack, self._batch_sizes, self._hx, self._batch_first = stack, batch_sizes, hx, batch_first
        self.x = self._input = x
        self.weights: list[Tensor] = []
        self._start = 0
        self._finals: list[list[Tensor]] = []

    @property
    def first(self) -> bool:
        """Whether nothing was run before this group."""
        return self._start == 0

    def flush(self, layer: int) -> None:
        """Run what was gathered before this layer."""
        if layer == self._start:
            return
        stack = self._stack
        self._run(layer)
        if stack.dropout and layer < stack.num_layers:
            self.x = nn.functional.dropout(self.x, stack.dropout, stack.training)

    def finish(self) -> tuple[Tensor, Any]:
        """Run the rest; return the output and the final states of all layers."""
        self.flush(self._stack.num_layers)
        if len(self._finals) == 1:
            states = tuple(self._finals[0])
        else:
            states = tuple(torch.cat(parts) for parts in zip(*self._finals, strict=True))
        return self.x, states if self._stack.mode == "LSTM" else states[0]

    def _run(self, stop: int) -> None:
        stack, hx = self._stack, self._hx
        layers, directions = stop - self._start, 2 if stack.bidirectional else 1
        if layers < stack.num_layers:
            hx = arguments.each(hx, itemgetter(slice(self._start * directions, stop * directions)))
        settings = (stack.bias, layers, stack.dropout, stack.training, stack.bidirectional)
        x = self.x.transpose(0, 1) if self._batch_first else self.x
        self._batch_first = False
        by_hand = stack.training and self._batch_sizes is None  # eval: one kernel, with and without gradients
        if by_hand and suits(stack.mode, x, hx, self.weights, stack.proj_size):
            self.x, *finals = through_time(stack.mode, x, hx, self.weights, settings)
        else:
            if hx is None:
                batch = x.shape[1] if self._batch_sizes is None else int(self._batch_sizes[0])
                sizes = (layers * directions, batch, stack.hidden_size)
                hx = kernels.zero_state(stack.mode, sizes, stack.proj_size, self._input)
            self.x, *finals = kernels.run(stack.mode, x, self._batch_sizes, hx, self.weights, settings)
        self._finals.append(finals)
        self._start, self.weights = stop, []
