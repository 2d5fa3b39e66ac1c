"""One layer in one direction as one node of the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trcompress.layers.recurrence.cell import Cell, Passed
from trcompress.layers.recurrence.elman import Relu, Tanh
from trcompress.layers.recurrence.gru import GRU
from trcompress.layers.recurrence.held import Held
from trcompress.layers.recurrence.lstm import LSTM
from trcompress.layers.recurrence.order import FORWARD, REVERSE, Order

CELLS: dict[str, type[Cell]] = {"LSTM": LSTM, "GRU": GRU, "RNN_TANH": Tanh, "RNN_RELU": Relu}
STEP: dict[str, Callable[..., Any]] = {
    "LSTM": torch.lstm_cell,
    "GRU": torch.gru_cell,
    "RNN_TANH": torch.rnn_tanh_cell,
    "RNN_RELU": torch.rnn_relu_cell,
}


def layer(
    mode: str, reverse: bool, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Run one layer in one direction.

    Args:
        mode: a key of CELLS.
        reverse: whether it visits the last time step first.
        x: (T, B, K).
        states: initial ones, (B, H) each; none for zeros.
        weights: weight_ih (G*H, K), weight_hh (G*H, H) and, if there are any, the two biases.

    Returns:
        The output (T, B, H) and the final states, (B, H) each.
    """
    biases = weights[2:] or (None, None)
    return _ThroughTime.apply(mode, REVERSE if reverse else FORWARD, x, *weights[:2], *biases, *states)


class _ThroughTime(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        mode: str,
        order: Order,
        x: Tensor,
        V: Tensor,
        W: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        *states: Tensor,
    ) -> tuple[Tensor, ...]:
        cell = CELLS[mode]
        a = _pre_activations(x, V, cell.bias(b_ih, b_hh))
        passed = cell.forward(a, W, b_hh, [state.t().contiguous() for state in states], order)
        ctx.set_materialize_grads(False)
        inputs = (x, V, W, b_ih, b_hh, *states)
        ctx.inputs = Held(*inputs)
        ctx.save_for_backward(*Held.computed(*inputs), passed.hidden, *passed.kept)
        ctx.about = mode, order
        output = _turned(passed.hidden)
        return output, output[order.last].clone(), *map(_turned, passed.cells)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        mode, order = ctx.about
        inputs, (hidden, *kept) = ctx.inputs.restore(ctx.saved_tensors)
        if torch.is_grad_enabled():
            return None, None, *_second_order(mode, order, inputs, grads)
        x, V, W, _, _, *rows = inputs
        states = [state.t().contiguous() for state in rows]
        d_hidden, d_cell = _of_hidden(hidden, grads, order), grads[2] if mode == "LSTM" else None
        d_cell = None if d_cell is None else d_cell.t()
        back = CELLS[mode].backward(Passed(hidden, kept, []), W, states, d_hidden, d_cell, order)
        wanted = ctx.needs_input_grad[2:]
        D = _flat(back.inputs)  # (G*H, T * B)
        D_h = D if back.hidden is back.inputs else _flat(back.hidden)
        found = [
            (D.t() @ V).view(x.shape) if wanted[0] else None,
            D @ x.reshape(-1, x.shape[-1]) if wanted[1] else None,
            _of_recurrent(D_h, hidden, rows, order) if wanted[2] else None,
            D.sum(1) if wanted[3] else None,
            D_h.sum(1) if wanted[4] else None,
        ]
        return None, None, *found, *(before.t() for before in back.states)


def _pre_activations(x: Tensor, V: Tensor, bias: Tensor | None) -> Tensor:
    """Return V x + bias for all steps, as columns (T, G*H, B)."""
    T, B, K = x.shape
    flat = x.reshape(-1, K)
    if B == 1:
        return torch.nn.functional.linear(flat, V, bias).view(T, -1, 1)
    all_steps = V @ flat.t() if bias is None else torch.addmm(bias.unsqueeze(1), V, flat.t())  # (G*H, T * B)
    return all_steps.view(-1, T, B).transpose(0, 1).contiguous()


def _turned(states: Tensor) -> Tensor:
    """Copy columns (..., H, B) to rows (..., B, H), or back."""
    return states.mT.clone(memory_format=torch.contiguous_format)


def _flat(D: Tensor) -> Tensor:
    """(T, G*H, B) to (G*H, T * B)."""
    return D.transpose(0, 1).reshape(D.shape[1], -1)


def _of_hidden(hidden: Tensor, grads: Sequence[Tensor | None], order: Order) -> Tensor:
    """Gradients of the hidden states (T, H, B), in memory of their own."""
    output, final = grads[:2]
    found = torch.zeros_like(hidden) if output is None else _turned(output)
    if final is not None:
        found[order.last].add_(final.t())
    return found


def _of_recurrent(D: Tensor, hidden: Tensor, states: Sequence[Tensor], order: Order) -> Tensor:
    """Gradient of W_hh: what reached each step times the state before it."""
    T, H, B = hidden.shape
    steps = D.view(-1, T, B)
    before = hidden[order.earlier].transpose(0, 1).reshape(H, -1)  # (H, (T - 1) * B)
    found = steps[:, order.later].reshape(D.shape[0], -1) @ before.t()  # zero where T is 1
    return torch.addmm(found, steps[:, order.first], states[0]) if states else found


def plain(mode: str, order: Order, inputs: Sequence[Any]) -> tuple[Tensor, ...]:
    """Return what the node does with these inputs, in operations that can be differentiated again."""
    x, V, W, b_ih, b_hh, *states = inputs
    zero = x.new_zeros(x.shape[1], W.shape[1])
    state: Any = states or [zero] * (2 if mode == "LSTM" else 1)
    outputs = []
    for x_t in order.steps(x):
        new = STEP[mode](x_t, state if mode == "LSTM" else state[0], V, W, b_ih, b_hh)
        state = list(new) if mode == "LSTM" else [new]
        outputs.append(state[0])
    return torch.stack(outputs if order is FORWARD else outputs[::-1]), *state


def _second_order(
    mode: str, order: Order, inputs: Sequence[Tensor | None], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The same gradients, differentiable once more."""
    outputs = plain(mode, order, inputs)
    given = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if grad is not None]
    wanted = [one for one in inputs if one is not None and one.requires_grad]
    targets, weights = zip(*given, strict=True)
    found = iter(torch.autograd.grad(targets, wanted, weights, create_graph=True, allow_unused=True))
    return [next(found) if one is not None and one.requires_grad else None for one in inputs]
