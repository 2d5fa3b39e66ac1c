"""The LSTM over time: gates i, f, g, o as in torch.nn.

c = f * c' + i * g,    h = o * tanh(c)
"""

from __future__ import annotations

import torch
from torch import Tensor

from trcompress.layers.recurrence.cell import Cell, Passed, Returned
from trcompress.layers.recurrence.order import Order


class LSTM(Cell):
    """Keeps the gates (T, 4*H, B) and the cells (T, H, B)."""

    @staticmethod
    def forward(a: Tensor, W: Tensor, b_hh: Tensor | None, states: list[Tensor], order: Order) -> Passed:
        """Run over the steps; the pre-activations become the gates."""
        T, H, B = a.shape[0], W.shape[1], a.shape[2]
        hidden, cells, squashed = a.new_empty(T, H, B), a.new_empty(T, H, B), a.new_empty(H, B)
        i, f, g, o = (order.steps(gate) for gate in a.split(H, 1))
        every, i_and_f = order.steps(a), order.steps(a[:, : 2 * H])
        h, c = states or (None, None)
        for t, (h_t, c_t) in enumerate(zip(order.steps(hidden), order.steps(cells), strict=True)):
            if h is not None:
                every[t].addmm_(W, h)
            i_and_f[t].sigmoid_()
            g[t].tanh_()
            o[t].sigmoid_()
            torch.mul(i[t], g[t], out=c_t)
            if c is not None:
                c_t.addcmul_(f[t], c)
            torch.tanh(c_t, out=squashed)
            torch.mul(o[t], squashed, out=h_t)
            h, c = h_t, c_t
        return Passed(hidden, [a, cells], [cells[order.last]])

    @staticmethod
    def backward(
        passed: Passed, W: Tensor, states: list[Tensor], grads: Tensor, d_cell: Tensor | None, order: Order
    ) -> Returned:
        """Carry gradients back through time: per step one product and five operations on (H, B)."""
        H, Wt = W.shape[1], W.t()
        dc = grads.new_zeros(grads.shape[1:]) if d_cell is None else d_cell.clone()
        D, dc_dh = _derivatives(passed, states, order)
        every, rest = order.back(D), order.back(D[:, : 3 * H].unflatten(1, (3, H)))
        f, slope = order.back(passed.kept[0][:, H : 2 * H]), order.back(dc_dh)
        for t, (dh, D_o) in enumerate(zip(order.back(grads), order.back(D[:, 3 * H :]), strict=True)):
            if t:
                dh.addmm_(Wt, every[t - 1])
                dc.mul_(f[t - 1])
            dc.addcmul_(dh, slope[t])
            rest[t].mul_(dc)
            D_o.mul_(dh)
        return Returned(D, D, [Wt @ every[-1], dc * f[-1]] if states else [])


def _derivatives(passed: Passed, states: list[Tensor], order: Order) -> tuple[Tensor, Tensor]:
    """Return, for all steps, what dc (of i, f, g) and dh (of o) are multiplied with, and dc/dh."""
    gates, cells = passed.kept
    i, _, g, o = gates.chunk(4, 1)
    i_and_f, H = gates[:, : 2 * cells.shape[1]], cells.shape[1]
    D, hidden, squashed = torch.empty_like(gates), passed.hidden, cells.tanh()
    torch.addcmul(i_and_f, i_and_f, i_and_f, value=-1, out=D[:, : 2 * H])
    D_i, D_f, D_g, D_o = D.chunk(4, 1)
    D_i.mul_(g)  # i (1 - i) g
    D_f[order.later].mul_(cells[order.earlier])  # f (1 - f) c'
    D_f[order.first].mul_(states[1] if states else 0)
    torch.addcmul(i, i * g, g, value=-1, out=D_g)  # i (1 - g^2)
    torch.addcmul(hidden, hidden, o, value=-1, out=D_o)  # tanh(c) o (1 - o)
    return D, torch.addcmul(o, hidden, squashed, value=-1)  # o (1 - tanh(c)^2)
