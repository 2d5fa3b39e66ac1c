"""Merge several open chains of cores at once: few operations, no allocation, an explicit backward pass.

A training step merges the same cores again after each update. A `Forest` keeps the buffers and all views of them
between steps, so that a merge is one product per join and nothing else; products of the same level of the trees
go out as one call where PyTorch has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trcompress.formats.chain import merge_order

SMALL = 2**14
"""Products with no more values than this are sent in groups."""

GROUP = 5
"""Fewer products than this are sent one by one: a grouped call has to copy its results."""

_GROUPED: Callable[..., list[Tensor]] | None = getattr(torch, "_foreach_mm", None)

Triple = tuple[Tensor, Tensor, Tensor]


class Products:
    """Products out = left @ right to be computed again and again.

    Args:
        triples: (left, right, out) of each; none reads what another writes.
    """

    def __init__(self, triples: Sequence[Triple]) -> None:
        small = [triple for triple in triples if triple[2].dim() == 2 and triple[2].numel() <= SMALL]
        if _GROUPED is None or len(small) < GROUP or small[0][2].device.type != "cpu":
            small = []
        self._group = [list(tensors) for tensors in zip(*small, strict=True)]
        rest = triples if not small else [triple for triple in triples if triple[2].numel() > SMALL]
        self._single = [(torch.mm if triple[2].dim() == 2 else torch.bmm, *triple) for triple in rest]

    def run(self) -> None:
        """Compute all of them."""
        if self._group and _GROUPED is not None:
            lefts, rights, outs = self._group
            torch._foreach_copy_(outs, _GROUPED(lefts, rights))
        for product, left, right, out in self._single:
            product(left, right, out=out)


class _Node:
    """A core or a merged core, (..., a, n, b), and the gradient of the same shape where it is needed."""

    def __init__(self, value: Tensor, level: int) -> None:
        self.value, self.level = value, level
        self.grad: Tensor | None = None

    def grad_buffer(self) -> Tensor:
        if self.grad is None:
            self.grad = torch.zeros_like(self.value)
        return self.grad


class _Join:
    """One contraction: left (..., a, p, b) with right (..., b, q, c)."""

    def __init__(self, left: _Node, right: _Node) -> None:
        *lead, a, p, b = left.value.shape
        q, c = right.value.shape[-2:]
        self.left, self.right = left, right
        self.out = _Node(left.value.new_empty(*lead, a, p * q, c), 1 + max(left.level, right.level))
        self._shapes = (*lead, a * p, b), (*lead, b, q * c), (*lead, a * p, q * c)

    def forward(self) -> Triple:
        left, right, out = self._shapes
        return self.left.value.view(left), self.right.value.view(right), self.out.value.view(out)

    def backward(self) -> list[Triple]:
        left, right, out = self._shapes
        grad = self.out.grad_buffer().view(out)
        return [
            (grad, self.right.value.view(right).mT, self.left.grad_buffer().view(left)),
            (self.left.value.view(left).mT, grad, self.right.grad_buffer().view(right)),
        ]


class Forest:
    """Chains of cores, each to be merged into one core.

    Args:
        chains: the cores of each chain, `(..., r, n, r')`, contiguous; they are read again at each `run`.
    """

    def __init__(self, chains: Sequence[Sequence[Tensor]]) -> None:
        self._leaves: list[_Node] = []
        self._joins: list[_Join] = []
        self._roots = [self._grow([self._leaf(core) for core in chain]) for chain in chains]
        levels = range(1, 1 + max((join.out.level for join in self._joins), default=0))
        self._by_level = [[join for join in self._joins if join.out.level == level] for level in levels]
        self._forward = [Products([join.forward() for join in joins]) for joins in self._by_level]
        self._backward: list[Products] | None = None

    @property
    def roots(self) -> list[Tensor]:
        """The merged cores, one a chain: buffers that `run` fills."""
        return [root.value for root in self._roots]

    def run(self) -> None:
        """Merge the chains as their cores are now."""
        for products in self._forward:
            products.run()

    def root_gradients(self) -> list[Tensor]:
        """Buffers to fill before `backward`, one a chain, zero at first."""
        return [root.grad_buffer() for root in self._roots]

    def backward(self) -> list[Tensor]:
        """Carry the root gradients to the cores.

        Returns:
            The gradient of each core, in the order of the chains: buffers that the next call overwrites.
        """
        if self._backward is None:
            levels = reversed(self._by_level)
            self._backward = [
                Products([triple for join in joins for triple in join.backward()]) for joins in levels
            ]
        for products in self._backward:
            products.run()
        return [leaf.grad_buffer() for leaf in self._leaves]

    def _leaf(self, core: Tensor) -> _Node:
        self._leaves.append(_Node(core, 0))
        return self._leaves[-1]

    def _grow(self, nodes: list[_Node]) -> _Node:
        if len(nodes) == 1:
            return nodes[0]
        split = merge_order([tuple(node.value.shape[-3:]) for node in nodes])[1]  # type: ignore[misc]
        join = _Join(self._grow(nodes[:split]), self._grow(nodes[split:]))
        self._joins.append(join)
        return join.out
