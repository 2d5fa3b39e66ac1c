"""The matrix W = weight.T to decompose: never copied whole, read in row blocks, float64 where it counts.

A network stores its weight as (outputs, inputs). Rings see W (inputs, outputs), so a block of rows of W is a
block of columns of what is stored. Every pass over W goes through `blocks`; a source whose values live in a
file has the same interface as one in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from trcompress.errors import InputFileError, ShapeError

BLOCK_VALUES = 1 << 21
"""Values of W handled at once: 16 MiB in float64."""
LARGE_VALUES = 1 << 24
"""Values of W above which nothing needs to be better than float32 unless W is met closely."""
ROUGH_VALUES = 1 << 18
"""Values of W above which ALS begins with products in float32: float64 is for the last digits."""

SMALLEST_SQUARES = 1e-250
"""Below this, errors relative to a weight lose digits: float64 ends at 1e-308."""


class MatrixSource(ABC):
    """A matrix W (I, O) that can be read in row blocks, any number of times.

    Args:
        shape: (I, O).
        dtype: of the stored values.
        device: where products are computed and returned.
    """

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        if min(shape) < 1:
            raise ShapeError(f"a matrix to decompose needs at least one row and one column: got {shape}")
        self.shape = shape
        self.dtype = dtype
        self.device = device
        self.gates_padded = False  # zeros among the columns that no ring need meet

    @property
    def working_dtype(self) -> torch.dtype:
        """Precision in which products need not be better: float32 for large W that has no more digits itself."""
        large = self.shape[0] * self.shape[1] > LARGE_VALUES
        return torch.float32 if large and self.dtype != torch.float64 else torch.float64

    @property
    def rough_dtype(self) -> torch.dtype:
        """Precision in which products may be taken while W is not met closely."""
        many = self.shape[0] * self.shape[1] > ROUGH_VALUES
        return torch.float32 if many and self.dtype != torch.float64 else torch.float64

    @abstractmethod
    def blocks(self, multiple: int = 1) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, block (rows, O)) in ascending order, in the stored dtype, on any device.

        Every block but the last has a multiple of `multiple` rows. A block is a view of a buffer that the next
        step overwrites.
        """

    def block_rows(self, multiple: int = 1) -> int:
        """Rows of W in a block."""
        return _aligned(BLOCK_VALUES // self.shape[1], multiple)

    def can_align(self, multiple: int) -> bool:
        """Return True where blocks of a multiple of `multiple` rows stay within memory."""
        return multiple * self.shape[1] <= 2 * BLOCK_VALUES

    def cast_blocks(self, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """Yield the blocks in `dtype` on the source's device, through one scratch buffer."""
        rows = max(1, BLOCK_VALUES // self.shape[1])
        scratch = torch.empty(0, dtype=dtype, device=self.device)
        for start, whole in self.blocks():
            if whole.dtype == dtype and whole.device == self.device:
                yield start, whole
                continue
            for skip in range(0, len(whole), rows):
                block = whole[skip : skip + rows]
                if scratch.numel() < block.numel():
                    scratch = torch.empty(block.numel(), dtype=dtype, device=self.device)
                stored = scratch[: block.numel()].view(block.shape[1], block.shape[0])
                stored.copy_(block.t())
                yield start + skip, stored.t()

    def times(self, right: Tensor) -> Tensor:
        """Return W @ right (I, k), computed in the dtype of `right` (O, k)."""
        result = right.new_empty(self.shape[0], right.shape[1])
        for first, block in self.cast_blocks(right.dtype):
            torch.mm(block, right, out=result[first : first + len(block)])
        return result

    def transpose_times(self, left: Tensor) -> Tensor:
        """Return W.T @ left (O, k), computed in the dtype of `left` (I, k)."""
        result = left.new_zeros(self.shape[1], left.shape[1])
        for first, block in self.cast_blocks(left.dtype):
            result.addmm_(block.t(), left[first : first + len(block)])
        return result

    @cached_property
    def column_squares(self) -> Tensor:
        """Squared norm of every column of W, (O,) float64.

        Raises:
            InputFileError: W holds NaN or Inf, or its values are so small that their squares vanish.
        """
        squares = torch.zeros(self.shape[1], dtype=torch.float64, device=self.device)
        for _, block in self.blocks():
            squares += torch.linalg.vector_norm(block.to(self.device), dim=0, dtype=torch.float64).square()
        if not bool(torch.isfinite(squares).all()):
            bad = int((~torch.isfinite(squares)).sum())
            raise InputFileError(
                f"a weight must be finite to be decomposed: {bad:,} of its {len(squares):,} output rows hold "
                "NaN or Inf (or values whose squares overflow); mend the checkpoint first"
            )
        if float(squares.sum()) < SMALLEST_SQUARES and any(bool(block.any()) for _, block in self.blocks()):
            raise InputFileError(
                "a weight must be zero or hold values whose squares float64 can tell from zero: all of its values "
                f"are below {SMALLEST_SQUARES**0.5:g}; scale it up, or save it as float32"
            )
        return squares

    @cached_property
    def squared_norm(self) -> float:
        """||W||^2, Frobenius."""
        return float(self.column_squares.sum())

    @cached_property
    def gram(self) -> Tensor:
        """W.T W (O, O) or W W.T (I, I), whichever is smaller; float64.

        The products of a large float32 matrix are taken in float32, block by block, and summed in float64.
        """
        if self.shape[0] < self.shape[1]:
            whole = torch.cat([block.clone() for _, block in self.cast_blocks(torch.float64)])
            return whole @ whole.t()
        result = torch.zeros(self.shape[1], self.shape[1], dtype=torch.float64, device=self.device)
        for _, block in self.cast_blocks(self.working_dtype):
            result += block.t() @ block
        return result

    def split(self, parts: int) -> list[MatrixSource]:
        """Cut the outputs into equal parts: one source per gate."""
        return InMemoryMatrix(self.stored(), self.device).split(parts)

    def pad_gates(self, gates: int, rows: int) -> MatrixSource:
        """Give each of the gates that the outputs stack so many outputs, zeros after its own."""
        if gates * rows == self.shape[1]:
            return self
        return InMemoryMatrix(self.stored(), self.device).pad_gates(gates, rows)

    def stored(self) -> Tensor:
        """W whole as PyTorch stores it, (O, I), in the stored dtype."""
        return self.dense(self.dtype).t()

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """W whole: only for matrices known to be small."""
        return torch.cat([block.clone() for _, block in self.cast_blocks(dtype)])


class InMemoryMatrix(MatrixSource):
    """W = weight.T of a tensor that is already in memory; nothing is copied.

    Args:
        weight: (O, I), as PyTorch stores it, any floating dtype.
        device: where products are computed; the weight's own by default.

    Raises:
        ShapeError: the tensor is not a matrix of floating point numbers.

    Example:
        >>> InMemoryMatrix(torch.zeros(8, 12)).shape
        (12, 8)
    """

    def __init__(self, weight: Tensor, device: torch.device | str | None = None) -> None:
        if weight.dim() != 2 or not weight.is_floating_point():
            raise ShapeError(
                f"a weight to decompose must be a floating point matrix (outputs, inputs): "
                f"got {weight.dtype} of shape {tuple(weight.shape)}"
            )
        where = torch.device(device) if device is not None else weight.device
        super().__init__((weight.shape[1], weight.shape[0]), weight.dtype, where)
        self._weight = weight.detach()

    def blocks(self, multiple: int = 1) -> Iterator[tuple[int, Tensor]]:
        """Yield row blocks of W as views."""
        size = self.block_rows(multiple)
        for first in range(0, self.shape[0], size):
            yield first, self._weight[:, first : first + size].t()

    def can_align(self, multiple: int) -> bool:
        """Blocks are views, of any size."""
        return True

    def split(self, parts: int) -> list[MatrixSource]:
        """Cut the outputs into equal parts, as views."""
        if parts == 1:
            return [self]
        found: list[MatrixSource] = [InMemoryMatrix(part, self.device) for part in self._weight.chunk(parts)]
        for one in found:
            one.gates_padded = self.gates_padded
        return found

    def pad_gates(self, gates: int, rows: int) -> MatrixSource:
        """Give each of the gates that the outputs stack so many outputs, zeros after its own."""
        own = self.shape[1] // gates
        if own == rows:
            return self
        stacked = self._weight.reshape(gates, own, -1)
        padded = InMemoryMatrix(torch.nn.functional.pad(stacked, (0, 0, 0, rows - own)).flatten(0, 1), self.device)
        padded.gates_padded = True
        return padded

    def stored(self) -> Tensor:
        """W whole as PyTorch stores it, without copying."""
        return self._weight


class PaddedMatrix(MatrixSource):
    """Another source with zero rows and columns after its own.

    Raises:
        ShapeError: the padded shape is smaller than the source's.
    """

    def __init__(self, source: MatrixSource, shape: tuple[int, int]) -> None:
        if shape[0] < source.shape[0] or shape[1] < source.shape[1]:
            raise ShapeError(
                f"modes must multiply to at least the sizes of W: {shape[0]:,} x {shape[1]:,} "
                f"< {source.shape[0]:,} x {source.shape[1]:,}; raise a mode (the rest is zero-padded)"
            )
        super().__init__(shape, source.dtype, source.device)
        self._source = source

    def blocks(self, multiple: int = 1) -> Iterator[tuple[int, Tensor]]:
        """Yield the source's blocks with zero rows and columns; the last of them filled up to `multiple`."""
        inside, rows = self._source.shape[0], 0
        columns = self.shape[1] - self._source.shape[1]
        for first, block in self._source.blocks(multiple):
            rows = min(self.shape[0], _aligned(first + len(block), multiple, up=True)) - first
            missing = rows - len(block) if first + len(block) == inside else 0
            if columns or missing:
                block = torch.nn.functional.pad(block.t(), (0, missing, 0, columns)).t()
            yield first, block
        size = self.block_rows(multiple)
        for start in range(first + rows, self.shape[0], size):
            count = min(size, self.shape[0] - start)
            yield start, torch.zeros(self.shape[1], count, dtype=self.dtype, device=self.device).t()

    def can_align(self, multiple: int) -> bool:
        """Return True where the source's blocks align and, if padding copies them, stay within memory."""
        same = self.shape == self._source.shape
        return self._source.can_align(multiple) and (same or super().can_align(multiple))


def _aligned(rows: int, multiple: int, *, up: bool = False) -> int:
    """The next multiple below (at least one), or above."""
    return -(-rows // multiple) * multiple if up else max(1, rows // multiple) * multiple
