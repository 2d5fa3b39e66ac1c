"""What TRLSTM, TRGRU and TRRNN share: torch.nn's parameters, with cores in place of some input weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from trcompress.layers import arguments, kernels
from trcompress.layers.core_weight import CoreWeight
from trcompress.layers.resolve import module_slots, resolve
from trcompress.plan import WeightPlan


class RingStack(nn.Module):
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
        self._flat_names = [name for names in template._all_weights for name in names]
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
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        batch_first = self.batch_first and batched
        x = x.transpose(0, 1) if batch_first else x
        hx = arguments.initial_state(self, x, x.size(1), hx, batched)
        output, states = self._stack(x, None, hx)
        if not batched:
            return output.squeeze(1), arguments.each(states, lambda state: state.squeeze(1))
        return output.transpose(0, 1) if batch_first else output, states

    def _packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        data, batch_sizes, order, back = packed
        arguments.check_input(self, data, batched_dims=2)
        hx = arguments.initial_state(self, data, int(batch_sizes[0]), hx, True)
        if order is not None:
            hx = arguments.each(hx, lambda state: state.index_select(1, order))
        output, states = self._stack(data, batch_sizes, hx)
        if back is not None:
            states = arguments.each(states, lambda state: state.index_select(1, back))
        return PackedSequence(output, batch_sizes, order, back), states

    def _stack(self, x: Tensor, batch_sizes: Tensor | None, hx: Any) -> tuple[Tensor, Any]:
        """Run the layers in groups; a group is one kernel call and begins where a bottleneck feeds it."""
        directions = 2 if self.bidirectional else 1
        starts = [layer for layer in range(self.num_layers) if layer == 0 or self._has_cores(layer)]
        parts = []
        for start, stop in pairwise([*starts, self.num_layers]):
            if start and self.dropout:
                x = nn.functional.dropout(x, self.dropout, self.training)
            z, flat = self._enter(x, start, stop)
            rows = slice(start * directions, stop * directions)
            state = arguments.each(hx, itemgetter(rows))
            settings = (self.bias, stop - start, self.dropout, self.training, self.bidirectional)
            x, *final = kernels.run(self.mode, z, batch_sizes, state, flat, settings)
            parts.append(final)
        joined = [states[0] if len(states) == 1 else torch.cat(states) for states in zip(*parts, strict=True)]
        return x, tuple(joined) if self.mode == "LSTM" else joined[0]

    def _has_cores(self, layer: int) -> bool:
        return any(isinstance(self._weight(name), CoreWeight) for name in self._names(layer, "weight_ih"))

    def _names(self, layer: int, kind: str) -> list[str]:
        return [f"{kind}_l{layer}{suffix}" for suffix in ("", "_reverse")[: 2 if self.bidirectional else 1]]

    def _weight(self, name: str) -> Any:
        return getattr(self, name)

    def _enter(self, x: Tensor, start: int, stop: int) -> tuple[Tensor, list[Tensor]]:
        flat = []
        names = [name for name in self._flat_names if start <= _layer_of(name) < stop]
        for name in names:
            weight = self._weight(name)
            flat.append(weight.to_dense() if isinstance(weight, CoreWeight) else weight)
        return x, flat


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


def _layer_of(name: str) -> int:
    return int(name.removesuffix("_reverse").rsplit("_l", 1)[1])
