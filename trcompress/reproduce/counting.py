"""Counting what a computation costs: multiply-adds, and the most memory alive at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """What forward and backward took.

    Args:
        forward: multiply-adds of the products in the forward pass.
        backward: those of the backward pass alone.
        forward_bytes: most bytes alive at once in the forward pass, beyond inputs and parameters.
        backward_bytes: the same over the backward pass, what the forward pass saved for it included.
    """

    forward: int
    backward: int
    forward_bytes: int
    backward_bytes: int


class PeakMemory(TorchDispatchMode):
    """Adds up the storages that are made inside and still alive; `peak` is the most there ever were."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}
        self.alive = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._meet(tensor.untyped_storage())
        return out

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._part, key, size)

    def _part(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.alive -= size


def cost_of(compute: Callable[..., Tensor], x: Tensor, parameters: list[Tensor]) -> Cost:
    """Run `compute(x, *parameters)` and its backward pass under both counters.

    Args:
        compute: from the inputs (B, I) and the parameters to (B, O).
        x: inputs; their gradient is asked for too, as a layer further down would.
        parameters: all learned values.

    Example:
        >>> cost_of(lambda x, w: x @ w, torch.ones(2, 3), [torch.ones(3, 5)]).forward
        30
    """
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, *parameters)]
    operations = [_operations(compute, leaves, backward) for backward in (False, True)]
    memory = PeakMemory(leaves)
    with memory:
        out = compute(*leaves)
    forward_bytes, memory.peak = memory.peak, memory.alive
    seed = torch.ones_like(out)
    with memory:
        out.backward(seed)
    return Cost(operations[0], operations[1] - operations[0], forward_bytes, memory.peak)


def _operations(compute: Callable[..., Tensor], leaves: list[Tensor], backward: bool) -> int:
    for leaf in leaves:
        leaf.grad = None
    with FlopCounterMode(display=False) as counter:
        out = compute(*leaves)
        if backward:
            out.backward(torch.ones_like(out))
    for leaf in leaves:
        leaf.grad = None
    return counter.get_total_flops() // 2
