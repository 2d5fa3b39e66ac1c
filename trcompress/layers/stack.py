"""What TRLSTM, TRGRU and TRRNN share: torch.nn's parameters, with cores in place of some input weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from trcompress.layers import arguments
from trcompress.layers.core_weight import CoreWeight
from trcompress.layers.evaluation import Form, Use, in_disguise
from trcompress.layers.evaluation.evaluate import DENSE
from trcompress.layers.feed import bottleneck_forms, dense_of, enter, rounded
from trcompress.layers.group import Group
from trcompress.layers.ready import Ready, prepare
from trcompress.layers.resolve import layers_of, resolve
from trcompress.layers.step import Step, prepare_step
from trcompress.layers.strategy import Evaluated
from trcompress.model.layer import input_matrices
from trcompress.model.plan import WeightPlan


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
    _ready: Ready | Step | None = None

    def __init__(self, template: nn.RNNBase, device: Any, dtype: torch.dtype | None, **ring: Any) -> None:
        super().__init__()
        for name in SETTINGS:
            setattr(self, name, getattr(template, name))
        directions = 2 if self.bidirectional else 1
        keys = [
            template._all_weights[at : at + directions] for at in range(0, len(template._all_weights), directions)
        ]
        self._keys = [([names[0] for names in layer], [names[1:] for names in layer]) for layer in keys]
        self._chosen: dict[tuple[Any, ...], list[Form] | None] = {}
        plans = resolve(input_matrices(layers_of(template)), **ring)
        build_parameters(self, template, plans, device, dtype)
        self.reset_parameters()

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters, and of the input outside autocast."""
        return self._get(self._keys[0][1][0][0]).dtype  # of weight_hh_l0, which is never compressed

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
        if not in_disguise() and self._ready is not None and self._ready.fits(self, input):
            found = self._ready.run(self, input, hx)
            if found is not None:
                return found
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
        """Run the layers in groups; a group is one kernel call and begins where a bottleneck feeds it."""
        rows = x.numel() // x.shape[-1]
        group = Group(self, x, batch_sizes, hx, batch_first)
        used: list[tuple[str, Form]] = []
        for layer, (inputs, others) in enumerate(self._keys):
            weights = [self._get(name) for name in inputs]
            forms = self._forms(layer, weights, rows, x)
            if forms is None:
                entered = [dense_of(weight, self._strategy) for weight in weights]
            else:
                group.flush(layer)
                group.x, entered = enter(group.x, weights, forms, self._strategy)
            used += [
                (name, forms[at] if forms else DENSE)
                for at, name in enumerate(inputs)
                if isinstance(weights[at], CoreWeight)
            ]
            for weight, names in zip(entered, others, strict=True):
                group.weights += [weight, *map(self._get, names)]
        whole = group.weights if group.first else []
        output, states = group.finish()
        if batch_sizes is None and whole and not in_disguise():
            self.__dict__["_ready"] = (prepare_step if self.training else prepare)(self, x, used, whole)
        return output, states

    def _forms(self, layer: int, weights: Sequence[Any], rows: Any, x: Tensor) -> list[Form] | None:
        """Choose the forms of a layer's weights; the choice for like cases is remembered."""
        if in_disguise():
            return bottleneck_forms(weights, Use(1), self._strategy)
        training = self.training and any(isinstance(weight, CoreWeight) and weight.trains for weight in weights)
        input_grad = training and (layer > 0 or x.requires_grad)
        key = (layer, rounded(rows), training, input_grad, x.is_cuda, self._strategy, torch.get_num_threads())
        if key not in self._chosen:
            use = Use(key[1], training, input_grad, self.mode == "LSTM" and not x.is_cuda, x.is_cuda)
            self._chosen[key] = bottleneck_forms(weights, use, self._strategy)
        return self._chosen[key]

    def _get(self, name: str) -> Any:
        found: Any = self._parameters.get(name)
        if found is None:
            found = self._modules.get(name)
        return getattr(self, name) if found is None else found

    def _apply(self, *args: Any, **kwargs: Any) -> RingStack:
        self.__dict__.pop("_ready", None)
        return super()._apply(*args, **kwargs)

    def train(self, mode: bool = True) -> RingStack:
        """Set the mode; a pass prepared in the other mode is dropped."""
        self.__dict__.pop("_ready", None)
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be computed again."""
        return {name: value for name, value in self.__dict__.items() if name != "_ready"} | {"_chosen": {}}


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
