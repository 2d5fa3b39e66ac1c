"""W that stays in its file: read by plain `pread`, because mapped pages would count as resident memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from trcompress.decomposition.source import MatrixSource
from trcompress.errors import InputFileError

READ_BYTES = 1 << 25
"""Bytes read into the buffer at once."""


class FileMatrix(MatrixSource):
    """W = weight.T of a matrix whose raw little-endian values lie in a file, row after row.

    Args:
        path: the file (safetensors, or an uncompressed archive).
        offset: byte at which the matrix begins.
        shape: (O, I), as PyTorch stores it.
        dtype: of the stored values.
        device: where products are computed; the CPU by default.
        read_bytes: size of the read buffer.

    Raises:
        InputFileError: the file is missing, or shorter than the matrix.
    """

    def __init__(
        self,
        path: str | Path,
        offset: int,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device | str | None = None,
        read_bytes: int = READ_BYTES,
    ) -> None:
        super().__init__((shape[1], shape[0]), dtype, torch.device(device or "cpu"))
        self._path = Path(path)
        self._offset = offset
        self._read_bytes = read_bytes
        needed = offset + shape[0] * shape[1] * dtype.itemsize
        try:
            found = self._path.stat().st_size
        except OSError as error:
            raise InputFileError(f"cannot read {path}: {error.strerror or error}") from error
        if found < needed:
            raise InputFileError(f"{path} is truncated: {needed:,} bytes expected, {found:,} found")

    def block_rows(self, multiple: int = 1) -> int:
        """Rows of W in a block."""
        fitting = self._read_bytes // (self.shape[1] * self.dtype.itemsize)
        return min(self.shape[0], max(1, fitting // multiple) * multiple)

    def can_align(self, multiple: int) -> bool:
        """Return True where a block of so many rows fits twice the read buffer."""
        return multiple * self.shape[1] * self.dtype.itemsize <= 2 * self._read_bytes

    def split(self, parts: int) -> list[MatrixSource]:
        """Cut the outputs into equal parts: one source per gate."""
        rows = self.shape[1] // parts
        stride = rows * self.shape[0] * self.dtype.itemsize
        return [
            FileMatrix(
                self._path,
                self._offset + part * stride,
                (rows, self.shape[0]),
                self.dtype,
                self.device,
                self._read_bytes,
            )
            for part in range(parts)
        ]

    def blocks(self, multiple: int = 1) -> Iterator[tuple[int, Tensor]]:
        """Yield row blocks of W: one long read per output, into one buffer."""
        inputs, outputs = self.shape
        item, size = self.dtype.itemsize, self.block_rows(multiple)
        buffer = bytearray(size * outputs * item)
        view = memoryview(buffer)
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            for first in range(0, inputs, size):
                rows = min(size, inputs - first)
                runs = outputs if rows < inputs else 1  # whole rows lie side by side: one read
                length = rows * outputs * item // runs
                for o in range(runs):
                    start = self._offset + (o * inputs + first) * item
                    self._read_into(descriptor, view[o * length : (o + 1) * length], start)
                values = torch.frombuffer(buffer, dtype=self.dtype, count=rows * outputs)
                yield first, values.view(outputs, rows).t()
        finally:
            os.close(descriptor)

    def _read_into(self, descriptor: int, target: memoryview, start: int) -> None:
        """Fill `target` from byte `start` of the file."""
        while target:
            count = os.preadv(descriptor, [target], start)
            if count == 0:
                raise InputFileError(f"{self._path} ended while it was read; has it changed?")
            target, start = target[count:], start + count
