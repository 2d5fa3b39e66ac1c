"""Integers kept in memory as a file stores them, and expanded at every call: weight-only quantization."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.artifact.storage import STORAGE, Integers, Stored
from trcompress.layers.cells import RingCell
from trcompress.layers.core_weight import CoreWeight
from trcompress.layers.stack import RingStack


class QuantizedTensor(nn.Module):
    """One tensor as codes and scales, in buffers that are named as the file's: `<name>.int8`, `<name>.scale`.

    It is no parameter: nothing trains it. `.to(device)` moves it, `.half()` changes what it expands to.

    Args:
        stored: int8 or int4.

    Example:
        >>> kept = QuantizedTensor(Stored.of(torch.eye(2), "int8"))
        >>> sorted(kept.state_dict()), kept.to_dense().tolist()
        (['int8', 'scale'], [[1.0, 0.0], [0.0, 1.0]])
    """

    def __init__(self, stored: Stored) -> None:
        super().__init__()
        self.kind, self.dtype = stored.kind, stored.dtype
        self.shape = torch.Size(stored.shape)
        for suffix, part in stored.parts.items():
            self.register_buffer(suffix, part.clone())

    requires_grad = False
    is_meta = False

    @property
    def device(self) -> torch.device:
        """Where the codes lie."""
        return next(self.buffers()).device

    def to_dense(self) -> Tensor:
        """Expand: a new tensor at every call."""
        return STORAGE[self.kind].decode(dict(self.named_buffers()), tuple(self.shape), self.dtype)

    def stored(self) -> Stored:
        """Return the codes and scales as a file holds them."""
        return Stored(self.kind, dict(self.named_buffers()), tuple(self.shape), self.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedTensor:
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.device)).dtype
        own = {name: one.dtype for name, one in self.named_buffers()}
        super()._apply(fn, recurse)
        for name, one in own.items():
            self._buffers[name] = self.get_buffer(name).to(one)
        return self

    def extra_repr(self) -> str:
        """Show what `print(model)` shows."""
        return f"{tuple(self.shape)}, {self.kind}"


class QuantizedLinear(nn.Linear):
    """A linear layer whose weight is expanded at every call."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return nn.functional.linear(input, value_of(self.weight), value_of(self.bias))


class QuantizedEmbedding(nn.Embedding):
    """An embedding whose table is expanded at every call."""

    def forward(self, input: Tensor) -> Tensor:
        """(...) indices to (..., width)."""
        return nn.functional.embedding(input, value_of(self.weight), self.padding_idx)


QUANTIZED: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Linear: QuantizedLinear,
    nn.Embedding: QuantizedEmbedding,
}
"""Modules of torch.nn that can hold integers, beside ring layers."""


def value_of(weight: Any) -> Any:
    """Return a tensor, expanded where it is kept as integers; None stays None."""
    return weight.to_dense() if isinstance(weight, QuantizedTensor) else weight


def keep_integers_(model: nn.Module, stored: Mapping[str, Stored]) -> None:
    """Replace parameters by the integers that a file stores them in, in place, where their module can expand them.

    Args:
        model: it holds the expanded values; other modules than ring layers, nn.Linear and nn.Embedding keep them.
        stored: by name in its state; a parameter under several names stays one tensor.
    """
    kept: dict[int, QuantizedTensor] = {}
    places = [
        (module, leaf, f"{name}.{leaf}" if name else leaf)
        for name, module in model.named_modules(remove_duplicate=False)
        for leaf in [*module._parameters]
    ]
    able = {id(one) for one in _able(model)}
    for module, leaf, key in places:
        parameter = module._parameters.get(leaf)
        if parameter is None or id(module) not in able:
            continue
        if id(parameter) not in kept and key in stored and is_integers(stored[key]):
            kept[id(parameter)] = QuantizedTensor(stored[key]).to(parameter.device)
    for module, leaf, _ in places:
        parameter = module._parameters.get(leaf)
        if id(parameter) in kept and id(module) in able:
            del module._parameters[leaf]
            module.add_module(leaf, kept[id(parameter)])
            module.__class__ = QUANTIZED.get(type(module), type(module))


def dequantized(model: nn.Module) -> nn.Module:
    """Copy a model with ordinary parameters in place of integers."""
    found = deepcopy(model)
    plain = {quantized: kind for kind, quantized in QUANTIZED.items()}
    values: dict[int, nn.Parameter] = {}
    for module in list(found.modules()):
        for leaf, child in list(module._modules.items()):
            if isinstance(child, QuantizedTensor):
                del module._modules[leaf]
                value = values.setdefault(id(child), nn.Parameter(child.to_dense()))
                module.register_parameter(leaf, value)
                module.__class__ = plain.get(type(module), type(module))
    return found


def is_integers(stored: Stored) -> bool:
    """Return True for matrices and cores in int8 and int4."""
    return len(stored.shape) > 1 and isinstance(STORAGE[stored.kind], Integers)


def _able(model: nn.Module) -> list[nn.Module]:
    """Modules that expand what they hold: cores lie in a list of their weight."""
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, RingStack | RingCell) or type(module) in QUANTIZED:
            found.append(module)
        elif isinstance(module, CoreWeight):
            found.append(module.core)
    return found
