"""What TRLSTM, TRGRU and TRRNN share: torch.nn's parameters, with cores in place of some weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from trcompress.errors import UsageError
from trcompress.layers import arguments, kernels
from trcompress.layers.core_weight import CoreWeight
from trcompress.layers.evaluation import Form, Use
from trcompress.layers.feed import bottleneck_forms, dense_of, project_inputs, rounded
from trcompress.layers.kernels import KernelSettings
from trcompress.layers.resolve import layers_of, refuse_unknown_options, resolve
from trcompress.layers.strategy import Evaluated
from trcompress.layers.variable_length import groups_for, run_groups
from trcompress.model.kinds import TWO_STATES
from trcompress.model.weight_plan import WeightPlan


class RingStack(Evaluated):
    """A recurrent stack whose weights may be cores; every other parameter is named as in torch.nn.

    Input weights are evaluated as bottlenecks where that is faster; others are expanded for PyTorch's kernel.

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
        refuse_unknown_options(type(self), ring)
        super().__init__()
        for name in SETTINGS:
            setattr(self, name, getattr(template, name))
        directions = 2 if self.bidirectional else 1
        keys = [
            template._all_weights[at : at + directions] for at in range(0, len(template._all_weights), directions)
        ]
        self._keys = [([names[0] for names in layer], [names[1:] for names in layer]) for layer in keys]
        plans = resolve(layers_of(template), **ring)
        build_parameters(self, template, plans, device, dtype)
        self.reset_parameters()

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters, and of the input outside autocast."""
        return self._get(self._keys[0][1][0][0]).dtype

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """Weights and biases of each layer and direction as in torch.nn; cores are expanded, differentiably."""
        return [
            [self._dense(name) for name in (first, *rest)]
            for inputs, others in self._keys
            for first, rest in zip(inputs, others, strict=True)
        ]

    @property
    def _flat_weights(self) -> list[Tensor]:
        return [weight for weights in self.all_weights for weight in weights]

    def extra_repr(self) -> str:
        """Show sizes as torch.nn's modules do."""
        return nn.RNNBase.extra_repr(self)  # type: ignore[arg-type]

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
            hx = arguments.initial_state(self, 1, hx, batched=False)
            output, states = self._stack(input.unsqueeze(1), None, hx, False)
            return output.squeeze(1), arguments.each(states, lambda state: state.squeeze(1))
        hx = arguments.initial_state(self, input.size(0 if self.batch_first else 1), hx, batched=True)
        output, states = self._stack(input, None, hx, self.batch_first)
        return output.transpose(0, 1) if self.batch_first else output, states

    def _packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        data, batch_sizes, order, back = packed
        arguments.check_input(self, data, batched_dims=2)
        hx = arguments.initial_state(self, int(batch_sizes[0]), hx, True)
        if order is not None:
            hx = arguments.each(hx, lambda state: state.index_select(1, order))
        output, states = self._stack(data, batch_sizes, hx, False)
        if back is not None:
            states = arguments.each(states, lambda state: state.index_select(1, back))
        return PackedSequence(output, batch_sizes, order, back), states

    def _stack(self, x: Tensor, batch_sizes: Tensor | None, hx: Any, batch_first: bool) -> tuple[Tensor, Any]:
        """Run the layers; one kernel call takes all layers up to the next that a bottleneck feeds."""
        rows = x.numel() // x.shape[-1]
        forms = [self._forms(layer, rows, x) for layer in range(self.num_layers)]
        starts = [0, *(layer for layer in range(1, self.num_layers) if forms[layer])]
        finals = []
        for start, stop in zip(starts, [*starts[1:], self.num_layers], strict=True):
            if start and self.dropout:
                x = nn.functional.dropout(x, self.dropout, self.training)
            x, weights = self._kernel_inputs(x, start, stop, forms[start])
            x = x.transpose(0, 1) if batch_first and start == 0 else x
            x, *states = self._kernel(x, batch_sizes, self._states(hx, start, stop), weights, stop - start)
            finals.append(states)
        states = [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*finals, strict=True)]
        return x, tuple(states) if self.mode in TWO_STATES else states[0]

    def _forms(self, layer: int, rows: Any, x: Tensor) -> list[Form] | None:
        """Choose the forms of a layer's weights, or None where the kernel reads the layer's input as it is."""
        weights = [self._get(name) for name in self._keys[layer][0]]
        if not all(isinstance(weight, CoreWeight) for weight in weights):
            return None
        training = self.training and any(weight.trains for weight in weights)
        input_grad = training and (layer > 0 or x.requires_grad)
        use = Use(rounded(rows), training, input_grad, self.mode in kernels.ONEDNN and not x.is_cuda, x.is_cuda)
        return bottleneck_forms(weights, use, self._strategy)

    def kernel_inputs(self, layer: int, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return what PyTorch's kernel reads for one layer alone.

        Args:
            layer: its index.
            x: (..., I) what the layer is given.

        Returns:
            (..., K) through the bottleneck, or x itself; and the kernel's weights in torch.nn's order.
        """
        return self._kernel_inputs(x, layer, layer + 1, self._forms(layer, x.numel() // x.shape[-1], x))

    def _kernel_inputs(
        self, x: Tensor, start: int, stop: int, forms: list[Form] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return what the kernel reads for layers start..stop-1, and its flat list of weights."""
        weights: list[Tensor] = []
        for layer in range(start, stop):
            names, others = self._keys[layer]
            if layer == start and forms is not None:
                x, inputs = project_inputs(x, [self._get(name) for name in names], forms, self._strategy)
            else:
                inputs = [dense_of(self._get(name), self._strategy) for name in names]
            for weight, rest in zip(inputs, others, strict=True):
                weights += [weight, *(dense_of(self._get(name), self._strategy) for name in rest)]
        return x, weights

    def _kernel(
        self, x: Tensor, batch_sizes: Tensor | None, hx: Any, weights: list[Tensor], layers: int
    ) -> tuple[Tensor, ...]:
        """Run PyTorch's kernel; x (T, B, K), or (values, K) with `batch_sizes`."""
        settings = KernelSettings(self.bias, layers, self.dropout, self.training, self.bidirectional)
        if batch_sizes is not None:
            groups = groups_for(self.mode, x, batch_sizes, self.hidden_size, self.proj_size, self.training)
            if groups is not None:
                return run_groups(x, groups, hx, weights, settings)
        if hx is None:
            batch = x.shape[1] if batch_sizes is None else int(batch_sizes[0])
            sizes = (layers * (2 if self.bidirectional else 1), batch, self.hidden_size)
            hx = kernels.zero_state(self.mode, sizes, self.proj_size, self.dtype, x.device)
        return kernels.run(self.mode, x, batch_sizes, hx, weights, settings)

    def _states(self, hx: Any, start: int, stop: int) -> Any:
        """Return the initial states of layers start..stop-1."""
        if stop - start == self.num_layers:
            return hx
        directions = 2 if self.bidirectional else 1
        return arguments.each(hx, lambda state: state[start * directions : stop * directions])

    def _get(self, name: str) -> Any:
        found: Any = self._parameters.get(name)
        if found is None:
            found = self._modules.get(name)
        return getattr(self, name) if found is None else found

    def _dense(self, name: str) -> Tensor:
        weight = self._get(name)
        return weight if isinstance(weight, Tensor) else weight.to_dense()

    def __prepare_scriptable__(self) -> Any:
        raise UsageError(NOT_SCRIPTABLE)


NOT_SCRIPTABLE = (
    "torch.jit.script can't compile layers whose weights are cores: script trcompress.to_plain(model), "
    "which computes the same with torch.nn's own modules"
)

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
