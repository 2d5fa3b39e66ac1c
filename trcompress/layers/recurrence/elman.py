"""The Elman RNN over time: h = tanh(a + W_hh h'), or relu."""

from __future__ import annotations

import torch
from torch import Tensor

from trcompress.layers.recurrence.cell import Cell, Passed, Returned
from trcompress.layers.recurrence.order import Order


class Tanh(Cell):
    """Keeps nothing but the hidden states."""

    @staticmethod
    def activate_(a: Tensor) -> None:
        """Turn pre-activations into states, in place."""
        a.tanh_()

    @staticmethod
    def derivative(h: Tensor) -> Tensor:
        """Return dh/da, from the state."""
        return 1 - h * h

    @classmethod
    def forward(cls, a: Tensor, W: Tensor, b_hh: Tensor | None, states: list[Tensor], order: Order) -> Passed:
        """Run over the steps; the pre-activations become the states."""
        (h,) = states or (None,)
        for a_t in order.steps(a):
            if h is not None:
                a_t.addmm_(W, h)
            cls.activate_(a_t)
            h = a_t
        return Passed(a, [], [])

    @classmethod
    def backward(
        cls, passed: Passed, W: Tensor, states: list[Tensor], grads: Tensor, d_cell: Tensor | None, order: Order
    ) -> Returned:
        """Carry gradients back through time: per step one product and one operation on (H, B)."""
        D, Wt, before = cls.derivative(passed.hidden), W.t(), None
        for dh, d in zip(order.back(grads), order.back(D), strict=True):
            if before is not None:
                dh.addmm_(Wt, before)
            before = d.mul_(dh)
        return Returned(D, D, [Wt @ before] if states and before is not None else [])


class Relu(Tanh):
    """Keeps nothing but the hidden states."""

    @staticmethod
    def activate_(a: Tensor) -> None:
        """Turn pre-activations into states, in place."""
        a.relu_()

    @staticmethod
    def derivative(h: Tensor) -> Tensor:
        """Return dh/da, from the state."""
        return torch.gt(h, 0).to(h.dtype)
