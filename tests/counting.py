"""What a training step keeps and dispatches, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class Counter(TorchDispatchMode):
    """Lists the operations that PyTorch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note one and run it."""
        self.calls.append(str(func))
        return func(*args, **(kwargs or {}))


def operations(model: nn.Module, x: torch.Tensor) -> list[str]:
    """List the operations of forward and backward after an update."""

    def step() -> None:
        model.zero_grad()
        model(x)[0].sum().backward()

    return _after_an_update(model, step)


def input_side_operations(layer: Any, x: torch.Tensor) -> list[str]:
    """List those of a ring layer's input side: merging, x to the kernel's input, and the way back to the cores."""
    layer(x)  # chooses the forms
    weights = [weight for weight in layer.children() if hasattr(weight, "core")]

    def step() -> None:
        layer.zero_grad()
        for weight in weights:
            z, V = weight.enter(x, weight.last_form)
            torch.autograd.backward([z, V], [torch.ones_like(z), torch.ones_like(V)])

    return _after_an_update(layer, step)


def _after_an_update(model: nn.Module, step: Callable[[], None]) -> list[str]:
    for _ in range(2):
        step()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.0)
    model.zero_grad()
    with Counter() as counter:
        step()
    return counter.calls


def saved_bytes(call: Callable[[], object], beside: Iterable[torch.Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of a call, storages of `beside` not counted."""
    known = {tensor.untyped_storage().data_ptr() for tensor in beside}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = call()
    del result
    return sum(kept.values())
