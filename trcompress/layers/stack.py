"""What TRLSTM, TRGRU and TRRNN share: torch.nn's parameters, with cores in place of some input weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from trcompress.layers import arguments, kernels
from trcompress.layers.core_weight import CoreWeight
from trcompress.layers.feed import bottleneck_forms, dense_of, enter, use_of
from trcompress.layers.resolve import module_slots, resolve
from trcompress.layers.strategy import Evaluated
from trcompress.plan import WeightPlan


class RingStack(Evaluated):
    """A recurrent stack whose input weights may be cores; every other parameter is named as in torch.nn.

    Args:
        template: the torch.nn module it stands for, on the meta device: it has checked the arguments.
        device: where the parameters live.
        dtype: their type.
        ring: `shape` and `ranks` (and `gates`), or `plan`, or `weights`; see `trcompress.layers.resolve`.
    """

    mode: str
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int

    def __init__(self, template: nn.RNNBase, device: Any, dtype: torch.dtype | None, **ring: Any) -> None:
        super().__init__()
        for name in SETTINGS:
            setattr(self, name, getattr(template, name))
        directions = 2 if self.bidirectional else 1
        keys = [
            template._all_weights[at : at + directions] for at in range(0, len(template._all_weights), directions)
        ]
        self._keys = [([names[0] for names in layer], [names[1:] for names in layer]) for layer in keys]
        plans = resolve(module_slots(template), **ring)
        build_parameters(self, template, plans, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from torch.nn's distribution: uniform in +-1/sqrt(H); cores with exactly its variance."""
        reset(self, self.hidden_size)

    def flatten_parameters(self) -> None:
        """Do nothing: kept because programs written for torch.nn call it before each forward pass."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run the layers over a sequence.

        Args:
            input: (T, B, I), (B, T, I) if `batch_first`, (T, I) unbatched, or a PackedSequence.
            hx: initial state as in torch.nn; zeros where omitted.

        Returns:
            (output, h_n) or (output, (h_n, c_n)), shaped as torch.nn's.
        """
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        arguments.check_input(self, input, batched_dims=3)
        if input.dim() == 2:
            hx = arguments.initial_state(self, input, 1, hx, batched=False)
            output, states = self._stack(input.unsqueeze(1), None, hx, False)
            return output.squeeze(1), arguments.each(states, lambda state: state.squeeze(1))
        hx = arguments.initial_state(self, input, input.size(0 if self.batch_first else 1), hx, batched=True)
        output, states = self._stack(input, None, hx, self.batch_first)
        return output.transpose(0, 1) if self.batch_first else output, states

    def _packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        data, batch_sizes, order, back = packed
        arguments.check_input(self, data, batched_dims=2)
        hx = arguments.initial_state(self, data, int(batch_sizes[0]), hx, True)
        if order is not None:
            hx = arguments.each(hx, lambda state: state.index_select(1, order))
        output, states = self._stack(data, batch_sizes, hx, False)
        if back is not None:
            states = arguments.each(states, lambda state: state.index_select(1, back))
        return PackedSequence(output, batch_sizes, order, back), states

    def _stack(self, x: Tensor, batch_sizes: Tensor | None, hx: Any, batch_first: bool) -> tuple[Tensor, Any]:
        """Run the layers in groups; a group is one kernel call and begins where a bottleneck feeds it."""
        rows = x.numel() // x.shape[-1]
        group = _Group(self, x, batch_sizes, hx, batch_first)
        for layer, (inputs, others) in enumerate(self._keys):
            weights = [self._get(name) for name in inputs]
            use = use_of(self, weights, rows, x, first=layer == 0)
            forms = bottleneck_forms(weights, use, self._strategy)
            if forms is None:
                entered = [dense_of(weight, self._strategy) for weight in weights]
            else:
                group.flush(layer)
                group.x, entered = enter(group.x, weights, forms, self._strategy)
            for weight, names in zip(entered, others, strict=True):
                group.weights += [weight, *map(self._get, names)]
        return group.finish()

    def _get(self, name: str) -> Any:
        found = self._parameters.get(name)
        return getattr(self, name) if found is None else found


class _Group:
    """Layers gathered for one kernel call; `flush` runs them."""

    def __init__(self, stack: RingStack, x: Tensor, batch_sizes: Tensor | None, hx: Any, batch_first: bool) -> None:
        self._stack, self._batch_sizes, self._hx, self._batch_first = stack, batch_sizes, hx, batch_first
        self.x = x
        self.weights: list[Tensor] = []
        self._start = 0
        self._finals: list[list[Tensor]] = []

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
        if stop - self._start < stack.num_layers:
            directions = 2 if stack.bidirectional else 1
            hx = arguments.each(hx, itemgetter(slice(self._start * directions, stop * directions)))
        settings = (stack.bias, stop - self._start, stack.dropout, stack.training, stack.bidirectional)
        x = self.x.transpose(0, 1) if self._batch_first else self.x
        self._batch_first = False
        self.x, *finals = kernels.run(stack.mode, x, self._batch_sizes, hx, self.weights, settings)
        self._finals.append(finals)
        self._start, self.weights = stop, []


SETTINGS = (
    "mode",
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "batch_first",
    "dropout",
    "bidirectional",
    "proj_size",
)


def build_parameters(
    layer: nn.Module,
    template: nn.Module,
    plans: Mapping[str, WeightPlan],
    device: Any,
    dtype: torch.dtype | None,
) -> None:
    """Give `layer` the template's parameters, with a CoreWeight for each planned weight."""
    for name, parameter in template.named_parameters():
        if name in plans:
            layer.add_module(name, CoreWeight(plans[name], device, dtype))
        else:
            empty = torch.empty(parameter.shape, device=device, dtype=dtype)
            layer.register_parameter(name, nn.Parameter(empty))


def reset(layer: nn.Module, hidden_size: int) -> None:
    """Start a layer from torch.nn's distribution."""
    bound = 1.0 / math.sqrt(hidden_size)
    for parameter in layer.parameters(recurse=False):
        nn.init.uniform_(parameter, -bound, bound)
    for weight in layer.children():
        if isinstance(weight, CoreWeight):
            weight.reset_parameters(bound**2 / 3)
