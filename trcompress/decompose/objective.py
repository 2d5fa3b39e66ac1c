"""The error of a ring against W, seen from either half: every pass over W is here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from trcompress.decompose.half import HalfProblem, pull_back
from trcompress.decompose.source import BLOCK_VALUES, MatrixSource
from trcompress.formats import TensorRing
from trcompress.formats.chain import join, merge

LARGE_VALUES = 1 << 24
"""Values of W above which products start in float32: float64 is for the last digits."""
FLOAT32_FLOOR = 1e-3
"""Relative error below which large matrices, too, are multiplied in float64."""
HUGE_FACTOR = 1 << 25
"""Values of A (I x K) above which it is kept in float32 throughout, to spare memory."""


class Objective:
    """||W - W_hat||^2 for one matrix and one ring.

    Args:
        source: W, already padded to the ring's modes.
        ring: modes and ranks.
    """

    def __init__(self, source: MatrixSource, ring: TensorRing) -> None:
        self.source = source
        self.ring = ring
        self.squared_norm = source.squared_norm
        self.passes = 0

    def split(self, cores: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The input cores and the output cores."""
        n = len(self.ring.in_modes)
        return cores[:n], cores[n:]

    def input_half(self, cores: Sequence[Tensor], dtype: torch.dtype = torch.float64) -> HalfProblem:
        """What the input cores minimise while the output cores stand still: one pass, W B'."""
        ring = self.ring
        r0, rn = ring.ranks[0], ring.ranks[len(ring.in_modes)]
        factor = ring.output_factor(cores)  # (K, O)
        self.passes += 1
        target = torch.empty(r0, self.source.shape[0], rn, dtype=dtype, device=factor.device)
        right = factor.t().to(dtype).contiguous()
        for first, block in self.source.cast_blocks(dtype):
            product = (block @ right).view(-1, r0, rn)
            target[:, first : first + len(block)] = product.transpose(0, 1)
        gram = (factor @ factor.t()).view(r0, rn, r0, rn)
        return HalfProblem(target, gram)

    def output_half(self, cores: Sequence[Tensor], dtype: torch.dtype = torch.float64) -> HalfProblem:
        """What the output cores minimise while the input cores stand still: one pass, A' W."""
        ring = self.ring
        r0, rn = ring.ranks[0], ring.ranks[len(ring.in_modes)]
        self.passes += 1
        device = cores[0].device
        product = torch.zeros(self.source.shape[1], r0 * rn, dtype=dtype, device=device)
        gram = torch.zeros(r0 * rn, r0 * rn, dtype=torch.float64, device=device)
        for block, rows in self._with_rows(cores, dtype):
            product.addmm_(block.t(), rows.to(dtype))
            gram.addmm_(rows.t(), rows)
        target = product.view(-1, r0, rn).permute(2, 0, 1).contiguous()  # (rn, O, r0)
        return HalfProblem(target, gram.view(r0, rn, r0, rn).permute(1, 0, 3, 2).contiguous())

    def squared_error(self, cores: Sequence[Tensor]) -> float:
        """||W - W_hat||^2 from the residual itself: exact even where the quadratic's terms cancel."""
        right = self.ring.output_factor(cores)
        total = 0.0
        self.passes += 1
        for block, rows in self._with_rows(cores, torch.float64):
            total += float(torch.addmm(block, rows, right, alpha=-1).square().sum())
        return total

    def gradients(self, cores: Sequence[Tensor]) -> tuple[float, Tensor]:
        """The squared error, and half its negative gradient with respect to all cores (P,): one pass."""
        ring = self.ring
        r0, rn = ring.ranks[0], ring.ranks[len(ring.in_modes)]
        right = ring.output_factor(cores)  # (K, O)
        total, self.passes = 0.0, self.passes + 1
        for_inputs = right.new_empty(r0, self.source.shape[0], rn)
        for_outputs = right.new_zeros(self.source.shape[1], r0 * rn)
        first = 0
        for block, rows in self._with_rows(cores, torch.float64):
            residual = torch.addmm(block, rows, right, alpha=-1)
            total += float(residual.square().sum())
            for_inputs[:, first : first + len(rows)] = (residual @ right.t()).view(-1, r0, rn).transpose(0, 1)
            for_outputs.addmm_(residual.t(), rows)
            first += len(rows)
        inputs, outputs = self.split(cores)
        backward = for_outputs.view(-1, r0, rn).permute(2, 0, 1)  # (rn, O, r0)
        parts = [*pull_back(for_inputs, inputs), *pull_back(backward, outputs)]
        return total, torch.cat([part.flatten() for part in parts])

    def relative(self, squared: float) -> float:
        """Relative error from a squared one; 0 for a zero matrix that is met exactly."""
        if self.squared_norm == 0:
            return 0.0 if squared <= 0 else float("inf")
        return (max(squared, 0.0) / self.squared_norm) ** 0.5

    def pass_dtype(self, squared: float) -> torch.dtype:
        """Precision of the next product with W, from the squared error reached so far."""
        huge = self.source.shape[0] * self.ring.bottleneck > HUGE_FACTOR
        large = self.source.shape[0] * self.source.shape[1] > LARGE_VALUES
        rough = self.relative(squared) > FLOAT32_FLOOR and self.source.dtype != torch.float64
        return torch.float32 if huge or (large and rough) else torch.float64

    def _with_rows(self, cores: Sequence[Tensor], dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of W with the rows of A that meet them, (rows, O) and (rows, K) float64."""
        rows_of = InputRows(self.ring, cores)
        for first, block in self.source.cast_blocks(dtype):
            yield block, rows_of(first, first + len(block))


class InputRows:
    """Rows of A = merge(input cores), made when they are asked for: A whole may be larger than memory allows."""

    def __init__(self, ring: TensorRing, cores: Sequence[Tensor], keep: int = 1 << 20) -> None:
        inputs = list(cores[: len(ring.in_modes)])
        split = len(inputs) - 1
        while (
            split > 0 and inputs[split - 1].shape[0] * ring.ranks[len(inputs)] * _rows(inputs[split - 1 :]) <= keep
        ):
            split -= 1
        self._left = merge(inputs[:split]) if split else None
        self._right = merge(inputs[split:])  # (r, Q, rn)

    def __call__(self, start: int, stop: int) -> Tensor:
        """Rows start..stop of A, (stop - start, K), columns ordered (r0, rn)."""
        if self._left is None:
            chain = self._right[:, start:stop]
        else:
            size = self._right.shape[1]
            first, last = start // size, -(-stop // size)
            chain = join(self._left[:, first:last], self._right)
            chain = chain[:, start - first * size : stop - first * size]
        return chain.transpose(0, 1).reshape(stop - start, -1)


def input_gram(ring: TensorRing, cores: Sequence[Tensor]) -> Tensor:
    """A' A (K, K), in row blocks."""
    rows_of, k = InputRows(ring, cores), ring.bottleneck
    size, total = max(1, BLOCK_VALUES // k), _rows(cores[: len(ring.in_modes)])
    gram = cores[0].new_zeros(k, k)
    for first in range(0, total, size):
        rows = rows_of(first, min(first + size, total))
        gram.addmm_(rows.t(), rows)
    return gram


def _rows(cores: Sequence[Tensor]) -> int:
    size = 1
    for core in cores:
        size *= core.shape[1]
    return size
