"""The GRU over time: gates r, z, n as in torch.nn.

m = W_hn h' + b_hn,    n = tanh(a_n + r * m),    h = n + z * (h' - n)
"""

from __future__ import annotations

import torch
from torch import Tensor

from trcompress.layers.recurrence.cell import Cell, Passed, Returned
from trcompress.layers.recurrence.order import Order


class GRU(Cell):
    """Keeps the gates (T, 3*H, B) and m (T, H, B)."""

    @staticmethod
    def bias(b_ih: Tensor | None, b_hh: Tensor | None) -> Tensor | None:
        """Leave out the hidden bias of n, which r multiplies at each step."""
        if b_ih is None or b_hh is None:
            return None
        H = b_ih.shape[0] // 3
        return torch.cat([b_ih[: 2 * H] + b_hh[: 2 * H], b_ih[2 * H :]])

    @staticmethod
    def forward(a: Tensor, W: Tensor, b_hh: Tensor | None, states: list[Tensor], order: Order) -> Passed:
        """Run over the steps; the pre-activations become the gates."""
        T, H, B = a.shape[0], W.shape[1], a.shape[2]
        hidden, memory = a.new_empty(T, H, B), a.new_empty(T, H, B)
        r, z, n = (order.steps(gate) for gate in a.split(H, 1))
        r_and_z, W_rz, W_n = order.steps(a[:, : 2 * H]), W[: 2 * H], W[2 * H :]
        b_n = a.new_zeros(1, 1) if b_hh is None else b_hh[2 * H :].unsqueeze(1)
        (h,) = states or (None,)
        for t, (h_t, m) in enumerate(zip(order.steps(hidden), order.steps(memory), strict=True)):
            if h is None:
                m.copy_(b_n)
            else:
                r_and_z[t].addmm_(W_rz, h)
                torch.addmm(b_n, W_n, h, out=m)
            r_and_z[t].sigmoid_()
            n[t].addcmul_(r[t], m).tanh_()
            if h is None:
                torch.addcmul(n[t], z[t], n[t], value=-1, out=h_t)
            else:
                torch.lerp(n[t], h, z[t], out=h_t)
            h = h_t
        return Passed(hidden, [a, memory], [])

    @staticmethod
    def backward(
        passed: Passed, W: Tensor, states: list[Tensor], grads: Tensor, d_cell: Tensor | None, order: Order
    ) -> Returned:
        """Carry gradients back through time: per step one product and two operations on (H, B)."""
        (gates, memory), H, Wt = passed.kept, W.shape[1], W.t()
        r, z, n = gates.chunk(3, 1)
        dn_dh = (1 - z).addcmul_(1 - z, n * n, value=-1)  # (1 - z) (1 - n^2)
        D = torch.empty_like(gates)
        D_r, D_z, D_n = D.chunk(3, 1)
        torch.mul(dn_dh, r, out=D_n)
        torch.mul(D_n, memory, out=D_r).mul_(1 - r)
        torch.mul(passed.hidden - n, 1 - z, out=D_z)  # h - n is z (h' - n)
        every, gated, keep = order.back(D), order.back(D.unflatten(1, (3, H))), order.back(z)
        dh = None
        for t, d in enumerate(order.back(grads)):
            if dh is not None:
                d.addmm_(Wt, every[t - 1]).addcmul_(dh, keep[t - 1])
            gated[t].mul_(d)
            dh = d
        before = [torch.addcmul(Wt @ every[-1], dh, keep[-1])] if states and dh is not None else []
        return Returned(torch.cat([D[:, : 2 * H], dn_dh.mul_(grads)], 1), D, before)
