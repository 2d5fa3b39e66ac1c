"""A recurrent module's call, taken apart: what every layer and direction was given at every step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from trcompress.layers.resolve import recurrent_kind
from trcompress.layers.stack import RingStack

State = tuple[Tensor, ...]


@dataclass(frozen=True)
class LayerInputs:
    """What one layer in one direction was given, padded steps included.

    Args:
        suffix: of its parameters' names: "_l0", "_l1_reverse", or "" in a cell.
        inputs: (B, T, I).
        states: (B, T, H) the state before each step.
        valid: (B, T) which steps are real.
        unprojected: (B, T, H) states before the projection, where there is one.
    """

    suffix: str
    inputs: Tensor
    states: Tensor
    valid: Tensor
    unprojected: Tensor | None = None

    def rows(self) -> dict[str, Tensor]:
        """The vectors that each matrix of the layer multiplies at real steps, (N, n), by role."""
        found = {"weight_ih": self.inputs, "weight_hh": self.states}
        if self.unprojected is not None:
            found["weight_hr"] = self.unprojected
        return {role: values[self.valid] for role, values in found.items()}


def layer_inputs(module: nn.Module, input: Any, hx: Any = None) -> Iterator[LayerInputs]:
    """Run a recurrent module's layers one by one on the arguments of one call.

    Args:
        module: torch.nn.LSTM, GRU, RNN, one of their cells, or a ring layer; in eval mode.
        input: as the module takes it: padded, packed, unbatched.
        hx: as the module takes it.
    """
    if not hasattr(module, "num_layers"):
        yield _cell_inputs(module, input, hx)
        return
    plain: Any = module
    inputs, lengths = _padded(plain, input)
    states = _initial(plain, hx, inputs)
    valid = torch.arange(inputs.shape[1], device=inputs.device) < lengths.unsqueeze(1)  # (B, T)
    directions = 2 if plain.bidirectional else 1
    for layer in range(plain.num_layers):
        own = tuple(one[layer * directions : (layer + 1) * directions] for one in states)
        alone, fed = _single(plain, layer, inputs)
        outputs = _run(alone, fed, lengths, own)
        for number, direction in enumerate(outputs.chunk(directions, dim=-1)):
            suffix = f"_l{layer}" + ("_reverse" if number else "")
            before = _shifted(direction, own[0][number], lengths, backward=bool(number))
            cells = own[1][number] if plain.proj_size else None
            inner = None if cells is None else _unprojected(alone, number, fed, before, cells, valid)
            yield LayerInputs(suffix, inputs, before, valid, inner)
        inputs = outputs


def _cell_inputs(cell: Any, input: Tensor, hx: Any) -> LayerInputs:
    given = input if input.dim() > 1 else input.unsqueeze(0)
    hidden = hx[0] if isinstance(hx, tuple) else hx
    if hidden is None:
        hidden = given.new_zeros(len(given), cell.hidden_size)
    hidden = hidden.reshape(len(given), -1)
    valid = torch.ones(len(given), 1, dtype=torch.bool, device=given.device)
    return LayerInputs("", given.unsqueeze(1), hidden.unsqueeze(1), valid)


def _padded(module: Any, input: Any) -> tuple[Tensor, Tensor]:
    """(B, T, I) inputs and (B,) lengths."""
    if isinstance(input, PackedSequence):
        padded, lengths = pad_packed_sequence(input, batch_first=True)
        return padded, lengths.to(padded.device)
    if input.dim() == 2:
        input = input.unsqueeze(0)
    elif not module.batch_first:
        input = input.transpose(0, 1)
    return input, torch.full((len(input),), input.shape[1], device=input.device)


def _initial(module: Any, hx: Any, inputs: Tensor) -> State:
    """The initial states, (layers * directions, B, H) each: hidden, and cells of an LSTM."""
    if hx is not None:
        given = hx if isinstance(hx, tuple) else (hx,)
        return tuple(one if one.dim() == 3 else one.unsqueeze(1) for one in given)
    count = module.num_layers * (2 if module.bidirectional else 1)
    hidden = inputs.new_zeros(count, len(inputs), module.proj_size or module.hidden_size)
    if recurrent_kind(module).states == 1:
        return (hidden,)
    return hidden, inputs.new_zeros(count, len(inputs), module.hidden_size)


def _single(module: Any, layer: int, inputs: Tensor) -> tuple[nn.RNNBase, Tensor]:
    """One layer, both directions, sharing the module's parameters; and what it reads: a bottleneck's values."""
    options: dict[str, Any] = {"proj_size": module.proj_size} if module.proj_size else {}
    if hasattr(module, "nonlinearity"):
        options["nonlinearity"] = module.nonlinearity
    if isinstance(module, RingStack):
        fed, weights = module.kernel_inputs(layer, inputs)
    else:
        directions = 2 if module.bidirectional else 1
        own = module.all_weights[layer * directions : (layer + 1) * directions]
        fed, weights = inputs, [weight for group in own for weight in group]
    kind = recurrent_kind(module).module
    alone: nn.RNNBase = getattr(nn, kind)(
        fed.shape[-1],
        module.hidden_size,
        bias=module.bias,
        batch_first=True,
        bidirectional=module.bidirectional,
        device="meta",
        **options,
    )
    names = [name for group in alone._all_weights for name in group]
    alone.load_state_dict(dict(zip(names, weights, strict=True)), assign=True)
    return alone.eval(), fed


def _run(alone: nn.RNNBase, inputs: Tensor, lengths: Tensor, states: State) -> Tensor:
    """(B, T, directions * H); zero after a sequence's end."""
    full = bool((lengths == inputs.shape[1]).all())
    given = inputs if full else pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    contiguous = tuple(one.contiguous() for one in states)
    outputs, _ = alone(given, contiguous if isinstance(alone, nn.LSTM) else contiguous[0])
    return outputs if full else pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])[0]


def _shifted(outputs: Tensor, first: Tensor, lengths: Tensor, *, backward: bool) -> Tensor:
    """The state before each step, (B, T, H)."""
    if not backward:
        return torch.cat((first.unsqueeze(1), outputs[:, :-1]), 1)
    before = torch.cat((outputs[:, 1:], first.unsqueeze(1)), 1)
    before[torch.arange(len(outputs), device=outputs.device), lengths - 1] = first
    return before


def _unprojected(
    alone: nn.RNNBase, number: int, inputs: Tensor, before: Tensor, cells: Tensor, valid: Tensor
) -> Tensor:
    """o * tanh(c) of an LSTM with projections, (B, T, H), from its states: only the cells need a loop."""
    tail = "_l0" + ("_reverse" if number else "")
    gates = inputs @ getattr(alone, f"weight_ih{tail}").T + before @ getattr(alone, f"weight_hh{tail}").T
    if alone.bias:
        gates = gates + getattr(alone, f"bias_ih{tail}") + getattr(alone, f"bias_hh{tail}")
    i, f, g, o = gates.chunk(4, -1)
    entered, kept, found = i.sigmoid() * g.tanh(), f.sigmoid(), torch.empty_like(o)
    times = range(inputs.shape[1])
    for t in reversed(times) if number else times:
        moved = kept[:, t] * cells + entered[:, t]
        cells = torch.where(valid[:, t].unsqueeze(1), moved, cells)
        found[:, t] = cells
    return o.sigmoid() * found.tanh()
