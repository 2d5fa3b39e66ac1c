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
class CountedCost:
    """What forward and backward took.

    Args:
        forward: multiply-adds of the products in the forward pass.
        backward: those of the backward pass alone.
        forward_bytes: most bytes alive at once in a forward pass that keeps nothing for a backward one, beyond
            inputs and parameters.
        backward_bytes: the same over the backward pass, what the forward pass kept for it included.
    """

    forward: int
    backward: int
    forward_bytes: int
    backward_bytes: int


class PeakMemory(TorchDispatchMode):
    """Adds up the storages that are made inside and still alive; `peak` is the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[int] = set()
        self.alive = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._seen.add(tensor.untyped_storage()._cdata)  # what comes from outside is not counted
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


def cost_of(prepare: Callable[[], Callable[[Tensor], Tensor]], x: Tensor) -> CountedCost:
    """Run a computation and its backward pass under each counter.

    Args:
        prepare: returns a fresh function from (B, I) to (B, O), its parameters made and nothing kept from earlier
            runs; called once per run.
        x: inputs; their gradient is asked for too, as a layer further down would.

    Example:
        >>> weight = torch.ones(3, 5, requires_grad=True)
        >>> cost_of(lambda: lambda x: x @ weight, torch.ones(2, 3)).forward
        30
    """
    forward, both = (_operations(prepare(), _leaf(x), backward) for backward in (False, True))
    compute, memory = prepare(), PeakMemory()
    with torch.no_grad(), memory:
        compute(x)
    return CountedCost(forward, both - forward, memory.peak, _backward_bytes(prepare(), _leaf(x)))


def _backward_bytes(compute: Callable[[Tensor], Tensor], x: Tensor) -> int:
    memory = PeakMemory()
    with memory:
        out = compute(x)
    memory.peak, seed = memory.alive, torch.ones_like(out)
    with memory:
        out.backward(seed)
    return memory.peak


def _leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def _operations(compute: Callable[[Tensor], Tensor], x: Tensor, backward: bool) -> int:
    with FlopCounterMode(display=False) as counter:
        out = compute(x)
        if backward:
            out.backward(torch.ones_like(out))
    return counter.get_total_flops() // 2
