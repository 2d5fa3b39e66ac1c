"""A training pass prepared once and repeated: the counterpart of `ready` for layers whose cores change every step.

A small layer's training step is mostly Python's time. What can be decided once is decided here: which form, which
parameters, whether anything unusual is going on. The cores are merged and met by the inputs in one node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trcompress.formats import TensorRing
from trcompress.layers import arguments
from trcompress.layers.core_weight import CoreWeight
from trcompress.layers.evaluation import Form, in_disguise
from trcompress.layers.evaluation.evaluate import DENSE
from trcompress.layers.evaluation.matrices import EXACT
from trcompress.layers.evaluation.nodes import Enter, Merge
from trcompress.layers.feed import bucket
from trcompress.layers.group import Group

if TYPE_CHECKING:
    from trcompress.layers.stack import RingStack


class Step:
    """One training pass with its parameters at hand; see `prepare_step`.

    Args:
        layer: the stack, in training mode.
        x: an input it was just run on.
        name: of its only compressed weight, which reads the inputs.
        form: how that weight is evaluated.
        others: the kernel's other weights, in its order.
    """

    def __init__(self, layer: RingStack, x: Tensor, name: str, form: Form, others: list[Tensor]) -> None:
        self._rows = bucket(x.shape[0] * x.shape[1])
        self._kind = (x.dtype, x.device, x.requires_grad, torch.get_num_threads())
        self._given = [*layer._parameters.items()]
        self._weight: CoreWeight = layer._modules[name]  # type: ignore[assignment]
        self._name, self._form, self._others = name, form, others
        self._cores = [*self._weight.core._parameters.items()]

    def fits(self, layer: RingStack, x: Any) -> bool:
        """Whether this pass is still right, for this input."""
        if x.__class__ is not Tensor or x.dim() != 3 or x.shape[2] != layer.input_size or not x.is_contiguous():
            return False
        if not torch.is_grad_enabled() or torch._C._is_any_autocast_enabled() or not layer.training:
            return False
        if (x.dtype, x.device, x.requires_grad, torch.get_num_threads()) != self._kind:
            return False
        if not self._rows[0] <= x.shape[0] * x.shape[1] < self._rows[1]:
            return False
        if layer._modules.get(self._name) is not self._weight:
            return False
        owners = ((layer._parameters, self._given), (self._weight.core._parameters, self._cores))
        return all(owner.get(name) is value for owner, given in owners for name, value in given)

    def run(self, layer: RingStack, x: Tensor, hx: Any) -> tuple[Tensor, Any] | None:
        """Run the pass; None where the buffers of the last one can't be used again."""
        matrices = self._weight.filled(self._form)
        if matrices is None:
            return None
        batch_first = layer.batch_first
        hx = arguments.initial_state(layer, x.shape[0 if batch_first else 1], hx, True)
        cores = [core for _, core in self._cores]
        if self._form.kind == DENSE.kind:
            (first,) = Merge.apply(matrices, *cores)
        else:
            x, first = Enter.apply(matrices, x, *cores)
        group = Group(layer, x, None, hx, batch_first)
        group.weights = [first, *self._others]
        output, states = group.finish()
        return output.transpose(0, 1) if batch_first else output, states


def prepare_step(layer: RingStack, x: Tensor, used: list[tuple[str, Form]], weights: list[Tensor]) -> Step | None:
    """Keep a pass that was just run in training, where it is a plain one.

    Args:
        layer: the stack.
        x: its input.
        used: the form of each compressed weight, by name.
        weights: the flat list that the kernel was given, in one call.

    Returns:
        The prepared pass, or None: with more than one compressed weight, where nothing but the cores is to be kept,
        while tracing, under autocast, with parametrized weights, or for formats other than rings.
    """
    if len(used) != 1 or layer.strategy == "ring" or x.dim() != 3 or x.dtype not in EXACT or in_disguise():
        return None
    (name, form), others = used[0], weights[1:]
    weight = layer._modules[name]
    if (
        name != "weight_ih_l0"
        or not isinstance(weight, CoreWeight)
        or not isinstance(weight.plan.structure, TensorRing)
    ):
        return None
    if not torch.is_grad_enabled() or torch._C._is_any_autocast_enabled() or not weight.trains:
        return None
    plain = [value for value in layer._parameters.values() if value is not None]
    if len(plain) != len(others) or not all(any(one is value for value in plain) for one in others):
        return None
    return Step(layer, x, name, form, others) if weight.filled(form) is not None else None
