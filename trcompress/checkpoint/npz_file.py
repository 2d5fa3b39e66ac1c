"""NumPy `.npz` archives of arrays under torch key names. Object arrays are pickles and never opened."""

from __future__ import annotations

import io
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy

from trcompress.checkpoint.archive import Archive
from trcompress.checkpoint.limits import DamageError, in_short
from trcompress.checkpoint.stored import RawStorage, StoredTensor, UnreadableTensor, contiguous_stride

_SUFFIX = ".npy"
_MAX_HEADER_BYTES = 10_000
DTYPES = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "c8": torch.complex64,
    "c16": torch.complex128,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "u2": torch.uint16,
    "u4": torch.uint32,
    "u8": torch.uint64,
    "b1": torch.bool,
}
OBJECT_ARRAY = "an array of Python objects (a pickle), never opened"


def is_npz(archive: Archive) -> bool:
    """Return True where the archive holds NumPy arrays."""
    return any(name.endswith(_SUFFIX) for name in archive.entries)


def read_npz(archive: Archive) -> dict[str, Any]:
    """Read the names, shapes and places of all arrays.

    Raises:
        DamageError: what an array's header says cannot be true.
    """
    names = [name for name in archive.entries if name.endswith(_SUFFIX)]
    return {name.removesuffix(_SUFFIX): _array(archive, name) for name in names}


def skip_object_header(stream: IO[bytes]) -> bool:
    """Go behind the header of a `.npy` file; tell whether a pickle of Python objects follows."""
    head = io.BytesIO(stream.read(_MAX_HEADER_BYTES + 12))
    try:
        _, _, dtype = array_header("the file", head)
    except DamageError:
        return False
    stream.seek(head.tell())
    return dtype.hasobject


def _array(archive: Archive, name: str) -> StoredTensor | UnreadableTensor:
    whole = archive.entries[name].file_size
    head = io.BytesIO(archive.head(name, min(whole, _MAX_HEADER_BYTES + 12)))
    shape, fortran, dtype = array_header(name, head)
    known = DTYPES.get(f"{dtype.kind}{dtype.itemsize}")
    if dtype.hasobject:
        return UnreadableTensor(OBJECT_ARRAY)
    if known is None or dtype.subdtype:
        return UnreadableTensor(f"an array of type {dtype!s:.40}")
    big_endian = dtype.byteorder == ">"
    source = archive.bytes_of(name, head.tell(), big_endian=big_endian)
    stride = contiguous_stride(shape)
    if fortran:
        stride = contiguous_stride(shape[::-1])[::-1]
    return StoredTensor(RawStorage(known, source.nbytes // known.itemsize, source), known, shape, stride)


def array_header(name: str, head: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an .npy array: its shape, whether it is stored by columns, and its type.

    Raises:
        DamageError: it is none of version 1 or 2, or not valid.
    """
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        version = npy.read_magic(head)
        if version not in readers:
            raise ValueError(f"format version {version}")
        return readers[version](head, max_header_size=_MAX_HEADER_BYTES)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, TokenError) as error:
        raise DamageError(f"its array {name!r:.100} has no valid header ({in_short(error)})") from error
