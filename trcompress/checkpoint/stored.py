"""A tensor as it lies in a file: shape and dtype known, data read only when asked for, never more than is there.

Bytes -> RawStorage -> StoredTensor. A folded weight (weight_norm, pruning) is a `DerivedTensor` of stored ones.
"""

from __future__ import annotations

import mmap
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from operator import mul
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from trcompress.checkpoint.limits import DamageError
from trcompress.errors import InputFileError

MAX_DIMS = 64
_MAP_FROM_BYTES = 1 << 20  # smaller tensors are copied: a process may hold only some 65,000 mappings
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class FileBytes:
    """Bytes that lie as they are in a file."""

    path: Path
    offset: int
    nbytes: int
    big_endian: bool = False

    def elements(self, dtype: torch.dtype, first: int, count: int) -> Tensor:
        """Return `count` elements from element `first`, mapped where possible, else copied."""
        start, nbytes = self.offset + first * dtype.itemsize, count * dtype.itemsize
        if nbytes >= _MAP_FROM_BYTES and start % dtype.itemsize == 0 and not self.big_endian:
            return self._mapped(dtype, start, count)
        flat = torch.empty(count, dtype=dtype)
        with self.path.open("rb") as stream:
            stream.seek(start)
            fill(flat, stream, self.path)
        return _swapped(flat) if self.big_endian else flat

    def _mapped(self, dtype: torch.dtype, start: int, count: int) -> Tensor:
        page = start - start % mmap.ALLOCATIONGRANULARITY
        length = start - page + count * dtype.itemsize
        with self.path.open("rb") as stream:
            _expect_size(self.path, start + count * dtype.itemsize)
            pages = mmap.mmap(stream.fileno(), length, access=mmap.ACCESS_COPY, offset=page)
        return torch.frombuffer(pages, dtype=dtype, count=count, offset=start - page)


@dataclass(frozen=True)
class ZipBytes:
    """Bytes inside a compressed entry of a zip archive, after its first `skip` bytes."""

    path: Path
    entry: str
    skip: int
    nbytes: int
    big_endian: bool = False

    def elements(self, dtype: torch.dtype, first: int, count: int) -> Tensor:
        """Return `count` elements from element `first`, decompressed."""
        flat = torch.empty(count, dtype=dtype)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.entry) as stream:
                stream.seek(self.skip + first * dtype.itemsize)
                fill(flat, stream, self.path)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise InputFileError(
                f"{self.path} is damaged: entry {self.entry!r} does not unpack ({error})"
            ) from error
        return _swapped(flat) if self.big_endian else flat


@dataclass(frozen=True, eq=False)
class MemoryBytes:
    """Bytes that came with the pickle itself: arrays that NumPy pickled."""

    data: bytes
    big_endian: bool = False

    @property
    def nbytes(self) -> int:
        """Size."""
        return len(self.data)

    def elements(self, dtype: torch.dtype, first: int, count: int) -> Tensor:
        """Return a copy of `count` elements from element `first`."""
        flat = torch.frombuffer(bytearray(self.data), dtype=dtype, count=count, offset=first * dtype.itemsize)
        return _swapped(flat) if self.big_endian else flat


@dataclass(eq=False)
class RawStorage:
    """One storage of a torch file; its place is found later in the legacy format."""

    dtype: torch.dtype
    numel: int
    source: FileBytes | ZipBytes | MemoryBytes | None = None

    @property
    def nbytes(self) -> int:
        """Declared size."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """One tensor of the file: a strided view of a storage, checked to lie inside it."""

    storage: RawStorage
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    def __post_init__(self) -> None:
        numbers = (*self.shape, *self.stride, self.offset)
        if len(self.shape) != len(self.stride) or len(self.shape) > MAX_DIMS:
            raise DamageError(f"a tensor declares {len(self.shape)} dimensions and {len(self.stride)} strides")
        if any(type(number) is not int or not 0 <= number < 2**62 for number in numbers):
            raise DamageError(f"a tensor declares sizes that are not whole numbers of 0 or more: {numbers[:8]}")
        if (self.offset + self._span) * self.dtype.itemsize > self.storage.nbytes:
            raise DamageError(
                f"a tensor declares the shape {self.shape} at offset {self.offset}, "
                f"but its storage holds {self.storage.numel:,} values"
            )
        if self.numel > max(self.storage.numel, 1 << 20):
            raise DamageError(f"a tensor expands {self.storage.numel:,} stored values to {self.numel:,}")

    @property
    def numel(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def expanded(self) -> bool:
        """True where it shows more values than are stored."""
        return self.numel > self.storage.numel

    @property
    def _span(self) -> int:
        if not self.numel:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    @property
    def contiguous(self) -> bool:
        """True where the values lie row-major without gaps."""
        return all(
            size == 1 or step == dense
            for size, step, dense in zip(self.shape, self.stride, contiguous_stride(self.shape), strict=True)
        )

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for tensors that are the same view of the same bytes."""
        return self.storage.source, self.dtype, self.shape, self.stride, self.offset

    @property
    def region(self) -> tuple[Path, int, tuple[int, ...], torch.dtype] | None:
        """Where the raw little-endian values lie, if they lie in one piece in the file itself."""
        source = self.storage.source
        if not isinstance(source, FileBytes) or source.big_endian or not self.contiguous:
            return None
        return source.path, source.offset + self.offset * self.dtype.itemsize, self.shape, self.dtype

    def load(self) -> Tensor:
        """Read the values, on the CPU, in their own dtype; large ones are mapped, not copied."""
        if self.storage.source is None or not self.numel:
            return torch.empty(self.shape, dtype=self.dtype)
        flat = self.storage.source.elements(self.dtype, self.offset, self._span)
        return flat.as_strided(self.shape, self.stride)


@dataclass(frozen=True, eq=False)
class DerivedTensor:
    """A weight computed from stored ones, at the moment it is asked for."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    compute: Callable[[], Tensor]

    @property
    def numel(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def identity(self) -> tuple[object, ...]:
        """A folded weight shares its bytes with nothing."""
        return (id(self),)

    region = None

    def load(self) -> Tensor:
        """Compute the values."""
        return self.compute()


@dataclass(frozen=True, eq=False)
class UnreadableTensor:
    """A tensor that has no plain strided values: quantized, sparse, on the meta device."""

    reason: str


AnyTensor = StoredTensor | DerivedTensor


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a row-major array.

    Example:
        >>> contiguous_stride((2, 3, 4))
        (12, 4, 1)
    """
    inner = accumulate(reversed(shape[1:]), mul, initial=1)
    return tuple(inner)[::-1] if shape else ()


def _expect_size(path: Path, end: int) -> None:
    if path.stat().st_size < end:
        raise InputFileError(f"{path} is truncated: {end:,} bytes expected, {path.stat().st_size:,} there")


def fill(flat: Tensor, stream: IO[bytes], path: Path) -> None:
    """Read exactly as many bytes as the tensor holds."""
    room = memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]
    while len(room):
        got = stream.readinto(room[:_CHUNK_BYTES])  # type: ignore[attr-defined]
        if not got:
            raise InputFileError(f"{path} is truncated: {len(room):,} bytes of a tensor are missing")
        room = room[got:]


def _swapped(flat: Tensor) -> Tensor:
    """Reverse the bytes of each number (of each half of a complex one)."""
    width = flat.dtype.itemsize // (2 if flat.dtype.is_complex else 1)
    return flat.view(torch.uint8).reshape(-1, width).flip(1).contiguous().reshape(-1).view(flat.dtype)
