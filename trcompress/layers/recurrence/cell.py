"""What one kind of recurrent cell has to say: its steps forward, and the way back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from trcompress.layers.recurrence.order import Order


class Passed(NamedTuple):
    """A cell's way forward: the hidden states (T, H, B), what else backward needs, the LSTM's last cell (H, B)."""

    hidden: Tensor
    kept: list[Tensor]
    cells: list[Tensor]


class Returned(NamedTuple):
    """Gradients: of the pre-activations (T, G*H, B), of W_hh's product with the state before, of initial states."""

    inputs: Tensor
    hidden: Tensor
    states: list[Tensor]


class Cell(ABC):
    """One kind of recurrent cell. States are columns (H, B); nothing here is part of a graph.

    `W` is weight_hh (G*H, H); `states` are the initial ones, an empty list where they were omitted: zeros, with
    which nothing is multiplied.
    """

    @staticmethod
    def bias(b_ih: Tensor | None, b_hh: Tensor | None) -> Tensor | None:
        """Return the biases that can be added to all steps at once."""
        return None if b_ih is None or b_hh is None else b_ih + b_hh

    @staticmethod
    @abstractmethod
    def forward(a: Tensor, W: Tensor, b_hh: Tensor | None, states: list[Tensor], order: Order) -> Passed:
        """Run over the pre-activations a (T, G*H, B), which are overwritten."""

    @staticmethod
    @abstractmethod
    def backward(
        passed: Passed, W: Tensor, states: list[Tensor], grads: Tensor, d_cell: Tensor | None, order: Order
    ) -> Returned:
        """Carry gradients back through time.

        Args:
            passed: what `forward` returned, the last cell left out.
            W: weight_hh.
            states: the initial states.
            grads: of the hidden states (T, H, B); overwritten.
            d_cell: gradient of the LSTM's last cell, if any.
            order: as in `forward`.
        """
