"""A forward pass prepared once and repeated until something it was made from changes.

In eval mode a small layer's time is Python's, not the kernel's: choosing forms, finding parameters, checking
arguments. `Ready` keeps the outcome of all that, and checks only what could have changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trcompress.layers import arguments, kernels
from trcompress.layers.core_weight import CoreWeight, Remembered
from trcompress.layers.evaluation import Form, in_disguise, project
from trcompress.layers.evaluation.evaluate import DENSE
from trcompress.layers.feed import bucket

if TYPE_CHECKING:
    from trcompress.layers.stack import RingStack


class Ready:
    """One kernel call with its weights at hand; see `prepare`.

    Args:
        layer: the stack, in eval mode.
        x: an input it was just run on, (T, B, I) or (B, T, I).
        weights: the flat list that the kernel was given.
        remembered: what the evaluation of each compressed weight left behind.
    """

    def __init__(self, layer: RingStack, x: Tensor, weights: list[Tensor], remembered: list[Remembered]) -> None:
        self._rows = bucket(x.shape[0] * x.shape[1])
        self._kind = (x.dtype, x.device, torch.is_grad_enabled())
        self._given = [*layer._parameters.items()]
        self._modules = [*layer._modules.items()]
        self._stamps = [(one.cores, one.stamp) for one in remembered]
        self._shared = [one.buffers for one in remembered if one.buffers is not None]
        self._entries = [one.entry for one in remembered if one.entry is not None]
        self._weights = kernels.flatten(layer, weights) if x.is_cuda else weights
        self._settings = (layer.bias, layer.num_layers, layer.dropout, False, layer.bidirectional)
        self._kernel = kernels.SEQUENCE[layer.mode]
        self._zeros: tuple[int, Any] | None = None

    def fits(self, layer: RingStack, x: Any) -> bool:
        """Whether this pass is still right, for this input."""
        if x.__class__ is not Tensor or x.dim() != 3 or x.shape[2] != layer.input_size or layer.training:
            return False
        if (x.dtype, x.device, torch.is_grad_enabled()) != self._kind or torch._C._is_any_autocast_enabled():
            return False
        if not self._rows[0] <= x.shape[0] * x.shape[1] < self._rows[1]:
            return False
        for owner, given in ((layer._parameters, self._given), (layer._modules, self._modules)):
            for name, value in given:
                if owner.get(name) is not value:
                    return False
        return all(stamp.holds([*cores.values()]) for cores, stamp in self._stamps)

    def run(self, layer: RingStack, x: Tensor, hx: Any) -> tuple[Tensor, Any]:
        """Run the pass."""
        for buffers in self._shared:
            buffers.share()
        batch_first = layer.batch_first
        batch = x.shape[0 if batch_first else 1]
        hx = self._start(layer, x, batch) if hx is None else arguments.initial_state(layer, batch, hx, True)
        if self._entries:
            zs = [project(x, *entry) for entry in self._entries]
            x = zs[0] if len(zs) == 1 else torch.cat(zs, -1)
        output, *states = self._kernel(x, hx, self._weights, *self._settings, batch_first)
        return output, tuple(states) if len(states) > 1 else states[0]

    def _start(self, layer: RingStack, x: Tensor, batch: int) -> Any:
        if self._zeros is None or self._zeros[0] != batch:
            rows = layer.num_layers * (2 if layer.bidirectional else 1)
            with torch.inference_mode(False):
                zeros = kernels.zero_state(layer.mode, (rows, batch, layer.hidden_size), layer.proj_size, x)
            self._zeros = (batch, zeros)
        return self._zeros[1]


def prepare(layer: RingStack, x: Tensor, used: list[tuple[str, Form]], weights: list[Tensor]) -> Ready | None:
    """Keep a pass that was just run, where everything it was made from can be watched.

    Args:
        layer: the stack.
        x: its input.
        used: the form of each compressed weight, by name; only those of the first layer may be other than dense.
        weights: the flat list that the kernel was given, in one call.

    Returns:
        The prepared pass, or None: in training, where only cores are to be kept, while tracing, with parametrized
        weights, and for formats that are evaluated from their cores each time.
    """
    if layer.training or layer.strategy == "ring" or x.dim() != 3 or torch._C._is_any_autocast_enabled():
        return None
    plain = sum(value is not None for value in layer._parameters.values())
    if plain + len(used) != len(weights) or in_disguise():
        return None
    found = []
    for name, form in used:
        weight = layer._modules[name]
        remembered = weight.remembered(form) if isinstance(weight, CoreWeight) else None
        if remembered is None or (remembered.entry is None) != (form.kind == DENSE.kind):
            return None
        found.append(remembered)
    return Ready(layer, x, weights, found)
