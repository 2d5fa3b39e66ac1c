"""A single step from an omitted state: nothing recurs, so a few ordinary operations do."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def single(
    mode: str, x: Tensor, V: Tensor, W: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Run one layer over one step.

    Args:
        mode: a key of `node.CELLS`.
        x: (1, B, K).
        V: weight_ih (G*H, K).
        W: weight_hh (G*H, H), multiplied with zeros: its gradient is zero.
        b_ih: bias of the inputs (G*H,), if any.
        b_hh: bias of the hidden state, if any.

    Returns:
        The output (1, B, H) and the final states, (B, H) each.
    """
    H = W.shape[1]
    if mode == "GRU":
        r_and_z, n = F.linear(x, V, b_ih).split([2 * H, H], -1)
        if b_hh is not None:
            b_rz, b_n = b_hh.split([2 * H, H])
            r_and_z = r_and_z + b_rz
        r, z = r_and_z.sigmoid().chunk(2, -1)
        n = (n if b_hh is None else n + r * b_n).tanh()
        states = [n - z * n]
    else:
        a = F.linear(x, V, None if b_ih is None or b_hh is None else b_ih + b_hh)
        if mode == "LSTM":
            i, _, g, o = a.chunk(4, -1)
            c = i.sigmoid() * g.tanh()
            states = [o.sigmoid() * c.tanh(), c]
        else:
            states = [a.tanh() if mode == "RNN_TANH" else a.relu()]
    states[0] = states[0] + W[:0].sum()  # adds nothing; ties W to the graph, as torch.nn's layers do
    return states[0], *(state[0] for state in states)
