"""The error of a ring against W, seen from either half: every pass over W is here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from math import prod

import torch
from torch import Tensor

from trcompress.decomposition.half import HalfProblem, pull_back
from trcompress.decomposition.metric import DiagonalWeight, Metric, moment_weight, output_scales
from trcompress.decomposition.source import BLOCK_VALUES, MatrixSource, PaddedMatrix
from trcompress.formats import TensorRing
from trcompress.formats.chain import join, merge

FLOAT32_FLOOR = 1e-3
"""Relative error below which large matrices, too, are multiplied in float64."""
ROUGH_FLOOR = 1e-2
"""Relative error below which the others are."""
HUGE_FACTOR = 1 << 25
"""Values of A (I x K) above which it is kept in float32 throughout, to spare memory."""


class Objective:
    """||L (W - W_hat) D||^2 for one matrix, one ring and one metric (L = D = I without one).

    Args:
        source: W (I, O), not padded.
        ring: modes and ranks; W counts as zero-padded to the product of the modes.
        metric: the norm; None is the plain one.

    Raises:
        ShapeError: the modes are too small for W, or the metric does not fit it.
        InputFileError: W holds NaN or Inf.
    """

    def __init__(self, source: MatrixSource, ring: TensorRing, metric: Metric | None = None) -> None:
        padded = (prod(ring.in_modes), prod(ring.out_modes))
        self.inner = source
        self.source = PaddedMatrix(source, padded) if padded != source.shape else source
        self.ring = ring
        self.metric = metric
        self.moment, self.scales = None, None
        self.image = torch.empty(0, self.source.shape[1], dtype=torch.float64, device=source.device)
        squares = self.source.column_squares
        if metric is not None:
            self.scales = output_scales(metric, source.shape, padded[1], source.device)
            self.moment = moment_weight(metric, source.shape, padded[0], source.device)
        if self.scales is not None:
            squares = squares * self.scales.square()
        self.squared_norm = float(squares.sum())
        if self.moment is not None:
            self.image = self.source.transpose_times(self.moment.rows.t()).t()  # X W (s, O)
            weighed = self.image if self.scales is None else self.image * self.scales
            self.squared_norm = float(weighed.square().sum()) + self.moment.ridge * self.squared_norm

    def with_ring(self, ring: TensorRing) -> Objective:
        """Return the same W and metric with a ring of the same modes and other ranks; nothing is computed again."""
        other = copy(self)
        other.ring = ring
        return other

    @property
    def is_plain(self) -> bool:
        """True where the norm is the plain one."""
        return self.moment is None and self.scales is None

    def split(self, cores: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Divide cores into the input cores and the output cores."""
        n = len(self.ring.in_modes)
        return cores[:n], cores[n:]

    def input_half(self, cores: Sequence[Tensor], dtype: torch.dtype = torch.float64) -> HalfProblem:
        """Return what the input cores minimise while the output cores stand still: one pass, W B'."""
        r0, rn = self._bonds
        factor = self.ring.output_factor(cores)  # (K, O)
        weighed = factor if self.scales is None else factor * self.scales.square()
        target = torch.empty(r0, self.source.shape[0], rn, dtype=dtype, device=factor.device)
        left = weighed.to(dtype)
        for first, block in self.source.cast_blocks(dtype):
            product = (left @ block.t()).view(r0, rn, -1)  # in the layout that W is stored in
            target[:, first : first + len(block)] = product.transpose(1, 2)
        gram = (weighed @ factor.t()).view(r0, rn, r0, rn)
        if self.moment is None:
            return HalfProblem(target, gram)
        return HalfProblem(self.moment.apply(target), gram, self.moment, target)

    def output_half(self, cores: Sequence[Tensor], dtype: torch.dtype = torch.float64) -> HalfProblem:
        """Return what the output cores minimise while the input cores stand still: one pass, A' W."""
        r0, rn = self._bonds
        product, gram = self._input_products(cores, dtype)
        target = product.view(-1, r0, rn).permute(2, 0, 1).contiguous()  # (rn, O, r0)
        gram = gram.view(r0, rn, r0, rn).permute(1, 0, 3, 2).contiguous()
        if self.scales is None:
            return HalfProblem(target, gram)
        weight = DiagonalWeight(self.scales.square())
        return HalfProblem(weight.apply(target), gram, weight, target)

    def _input_products(self, cores: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """W' M A (O, K) and A' M A (K, K), M = L'L."""
        k, device = self.ring.bottleneck, cores[0].device
        product = torch.zeros(self.source.shape[1], k, dtype=dtype, device=device)
        gram = torch.zeros(k, k, dtype=torch.float64, device=device)
        if self.moment is None or self.moment.ridge:
            for block, rows in self._with_rows(cores, dtype):
                product.addmm_(block.t(), rows.to(dtype))
                gram.addmm_(rows.t(), rows)
        if self.moment is None:
            return product, gram
        seen = self.moment.rows @ self.ring.input_factor(cores)  # X A (s, K)
        product = self.moment.ridge * product + (self.image.t() @ seen).to(dtype)
        return product, self.moment.ridge * gram + seen.t() @ seen

    def squared_error(self, cores: Sequence[Tensor]) -> float:
        """||L (W - W_hat) D||^2 from the residual itself: exact even where the quadratic's terms cancel."""
        if self.moment is None:
            return self.plain_squared_error(cores, self.scales)
        seen = self.moment.rows @ self.ring.input_factor(cores)
        residual = self.image - seen @ self.ring.output_factor(cores)
        if self.scales is not None:
            residual = residual * self.scales
        rest = self.moment.ridge * self.plain_squared_error(cores, self.scales) if self.moment.ridge else 0.0
        return float(residual.square().sum()) + rest

    def plain_squared_error(self, cores: Sequence[Tensor], scales: Tensor | None = None) -> float:
        """||(W - W_hat) D||^2."""
        right = self.ring.output_factor(cores)
        dtype = self.source.working_dtype
        total = self._residual(cores, right, scales, dtype)
        if dtype == torch.float32 and total < FLOAT32_FLOOR**2 * self.source.squared_norm:
            total = self._residual(cores, right, scales, torch.float64)
        return total

    def _residual(self, cores: Sequence[Tensor], right: Tensor, scales: Tensor | None, dtype: torch.dtype) -> float:
        total = 0.0
        for block, rows in self._with_rows(cores, dtype):
            residual = torch.addmm(block, rows.to(dtype), right.to(dtype), alpha=-1)
            residual = residual if scales is None else residual * scales.to(dtype)
            total += float(torch.linalg.vector_norm(residual, dtype=torch.float64)) ** 2
        return total

    def gradients(self, cores: Sequence[Tensor], dtype: torch.dtype = torch.float64) -> tuple[float, Tensor]:
        """Return the squared error, and half its negative gradient with respect to all cores (P,): one pass."""
        r0, rn = self._bonds
        right = self.ring.output_factor(cores).to(dtype)  # (K, O)
        total, first = 0.0, 0
        for_inputs = right.new_empty(r0, self.source.shape[0], rn)
        for_outputs = right.new_zeros(self.source.shape[1], r0 * rn)
        for block, rows in self._with_rows(cores, dtype):
            rows = rows.to(dtype)
            residual = torch.addmm(block, rows, right, alpha=-1)
            total += float(torch.linalg.vector_norm(residual, dtype=torch.float64)) ** 2
            for_inputs[:, first : first + len(rows)] = (residual @ right.t()).view(-1, r0, rn).transpose(0, 1)
            for_outputs.addmm_(residual.t(), rows)
            first += len(rows)
        inputs, outputs = self.split(cores)
        backward = for_outputs.view(-1, r0, rn).permute(2, 0, 1)  # (rn, O, r0)
        parts = [*pull_back(for_inputs, inputs), *pull_back(backward, outputs)]
        return total, torch.cat([part.flatten() for part in parts]).to(torch.float64)

    def relative(self, squared: float) -> float:
        """Relative error from a squared one; 0 for a zero matrix that is met exactly."""
        if self.squared_norm == 0:
            return 0.0 if squared <= 0 else float("inf")
        return (max(squared, 0.0) / self.squared_norm) ** 0.5

    def pass_dtype(self, squared: float) -> torch.dtype:
        """Precision of the next product with W, from the squared error reached so far."""
        huge = self.source.shape[0] * self.ring.bottleneck > HUGE_FACTOR
        error = self.relative(squared)
        rough = self.source.rough_dtype if error > ROUGH_FLOOR else torch.float64
        if huge or (error > FLOAT32_FLOOR and self.source.working_dtype == torch.float32):
            return torch.float32
        return rough

    @property
    def _bonds(self) -> tuple[int, int]:
        return self.ring.ranks[0], self.ring.ranks[len(self.ring.in_modes)]

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
    """Return A' A (K, K), computed in row blocks."""
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
