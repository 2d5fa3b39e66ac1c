"""The contractions in the order in which the papers have them, one core after another, input to output.

These are for counting beside `trcompress.layers`, which plans its own order; both compute the same y = x W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from trcompress.formats import BlockTerm, Format, TensorRing, TensorTrain


def apply_in_order(structure: Format, x: Tensor, cores: Sequence[Tensor]) -> Tensor:
    """Multiply (B, I) by the matrix that the cores stand for, left to right.

    Example:
        >>> ring = TensorRing((2, 3), (3, 2), (2, 2, 2, 2, 2))
        >>> cores = [torch.randn(shape, dtype=torch.float64) for shape in ring.core_shapes]
        >>> x = torch.randn(5, 6, dtype=torch.float64)
        >>> bool((apply_in_order(ring, x, cores) - x @ ring.to_dense(cores)).abs().max() < 1e-12)
        True
    """
    return _ORDERS[structure.kind](structure, x, cores)


def _ring(ring: TensorRing, x: Tensor, cores: Sequence[Tensor]) -> Tensor:
    """Contract as Eq. 11: X G1 G2 ... Gn, then the output cores, closing the ring with the last."""
    batch, n = len(x), len(ring.in_modes)
    first = cores[0].transpose(0, 1).flatten(1)  # (I_1, r_0 r_1)
    z = x.reshape(batch, ring.in_modes[0], -1).transpose(1, 2) @ first  # (B, rest, r_0 r_1)
    z = z.reshape(batch, -1, ring.ranks[0], ring.ranks[1]).transpose(1, 2)  # (B, r_0, rest, r_1)
    for k in range(1, n):
        mode, r, r_next = ring.in_modes[k], ring.ranks[k], ring.ranks[k + 1]
        z = z.reshape(batch, ring.ranks[0], mode, -1, r).movedim(3, 2)  # (B, r_0, rest, I_k, r)
        core = cores[k].transpose(0, 1).reshape(mode * r, r_next)
        z = z.reshape(batch, ring.ranks[0], -1, mode * r) @ core  # (B, r_0, rest, r_next)
    z = z.reshape(batch, ring.ranks[0], 1, ring.ranks[n])
    for k in range(n, n + len(ring.out_modes) - 1):
        z = z.reshape(batch, ring.ranks[0], -1, ring.ranks[k]) @ cores[k].flatten(1)  # (B, r_0, done, O_k r)
    last = cores[-1].permute(2, 0, 1).flatten(0, 1)  # (r_0 r, O_m)
    z = z.reshape(batch, ring.ranks[0], -1, ring.ranks[-2]).transpose(1, 2).flatten(2)  # (B, done, r_0 r)
    return (z @ last).reshape(batch, prod(ring.out_modes))


def _train(train: TensorTrain, x: Tensor, cores: Sequence[Tensor]) -> Tensor:
    """Contract core by core; the outputs done so far stay beside the inputs still to come."""
    batch = len(x)
    z = x.reshape(batch, 1, -1, 1)  # (B, outputs done, inputs left, r)
    for k, (mode, out) in enumerate(zip(train.in_modes, train.out_modes, strict=True)):
        r, r_next = train.ranks[k], train.ranks[k + 1]
        done = z.shape[1]
        z = z.reshape(batch, done, mode, -1, r).transpose(2, 3)  # (B, done, left, I_k, r)
        core = cores[k].reshape(r, mode, out, r_next).transpose(0, 1).reshape(mode * r, out * r_next)
        z = z.reshape(batch, done, -1, mode * r) @ core  # (B, done, left, O_k r)
        z = z.reshape(batch, done, -1, out, r_next).transpose(2, 3).flatten(1, 2)
    return z.reshape(batch, prod(train.out_modes))


def _block_term(term: BlockTerm, x: Tensor, cores: Sequence[Tensor]) -> Tensor:
    """Contract the factors one after another, then the Tucker core; blocks are summed."""
    *factors, tucker = cores
    return torch.stack([_tucker(term, x, [one[n] for one in factors], tucker[n]) for n in range(term.blocks)]).sum(
        0
    )


def _tucker(term: BlockTerm, x: Tensor, factors: Sequence[Tensor], tucker: Tensor) -> Tensor:
    batch, rank = len(x), term.rank
    z = x.reshape(batch, 1, -1, 1)  # (B, outputs done, inputs left, ranks)
    for factor, mode, out in zip(factors, term.in_modes, term.out_modes, strict=True):
        done, ranks = z.shape[1], z.shape[3]
        z = z.reshape(batch, done, mode, -1, ranks).movedim(2, 4)  # (B, done, left, ranks, I_k)
        z = z @ factor.reshape(mode, out * rank)  # (B, done, left, ranks, O_k R)
        z = z.reshape(batch, done, -1, ranks, out, rank).permute(0, 1, 4, 2, 3, 5)
        z = z.reshape(batch, done * out, -1, ranks * rank)
    return (z.reshape(batch, prod(term.out_modes), -1) @ tucker.reshape(-1, 1)).reshape(batch, -1)


_ORDERS: dict[str, Callable[[Any, Tensor, Sequence[Tensor]], Tensor]] = {
    TensorRing.kind: _ring,
    TensorTrain.kind: _train,
    BlockTerm.kind: _block_term,
}
"""The formats whose order a paper gives."""
