"""NumPy arrays inside pickles, made from the bytes that came with them: as data, by a closed table of types."""

from __future__ import annotations

from math import prod
from typing import Any

from trcompress.checkpoint.inert import Global, Instance
from trcompress.checkpoint.limits import DamageError, shown
from trcompress.checkpoint.npz_file import DTYPES
from trcompress.checkpoint.stored import (
    MAX_DIMS,
    MemoryBytes,
    RawStorage,
    StoredTensor,
    UnreadableTensor,
    contiguous_stride,
)

_CORES = ("numpy.core", "numpy._core")
_ARRAY = {Global(f"{core}.multiarray", "_reconstruct") for core in _CORES}
_BUFFER = {Global(f"{core}.numeric", "_frombuffer") for core in _CORES}
_DTYPE = Global("numpy", "dtype")
Storages = dict[tuple[int, str, bool], RawStorage]
"""The storage that was made of some bytes, by their `id`, type and order: a pickle may give them to many arrays."""


def array_in(node: Any, storages: Storages) -> StoredTensor | UnreadableTensor | None:
    """Return the array that a stand-in holds, as a tensor; None where it is none, or one of Python objects.

    Args:
        node: any part of a pickle, which must stay in memory as long as `storages`.
        storages: those already made of this pickle; changed.

    Raises:
        DamageError: what the pickle says of the array cannot be true.
    """
    found = _described(node)
    if found is None:
        return None
    shape, dtype, fortran, data = found
    code, big_endian = _code(dtype)
    if code == "O":
        return None
    known = DTYPES.get(code)
    if known is None:
        return UnreadableTensor(f"an array of type {code!s:.20}")
    given = len(data) if isinstance(data, str | bytes | bytearray) else 0
    if prod(shape) * known.itemsize != given:
        raise DamageError(f"its pickle declares an array {shape} of {code} but gives {given:,} bytes")
    place = (id(data), code, big_endian)
    if place not in storages:
        storages[place] = RawStorage(known, given // known.itemsize, MemoryBytes(_raw(data), big_endian))
    stride = contiguous_stride(shape[::-1])[::-1] if fortran else contiguous_stride(shape)
    return StoredTensor(storages[place], known, shape, stride)


def _raw(data: Any) -> bytes:
    """The bytes of an array, which Python 2 pickled as text."""
    if isinstance(data, str):
        return data.encode("latin1")
    return bytes(data) if isinstance(data, bytes | bytearray) else b""


def objects_in(node: Any) -> list[Any] | None:
    """Return the elements of an array of Python objects; None for anything else."""
    found = _described(node)
    if found is None or _code(found[1])[0] != "O":
        return None
    return found[3] if isinstance(found[3], list) else []


def _described(node: Any) -> tuple[tuple[int, ...], Any, bool, Any] | None:
    """(shape, dtype, column-major, data) of an array's stand-in."""
    if not isinstance(node, Instance):
        return None
    if node.origin in _ARRAY and isinstance(node.raw_state, tuple) and len(node.raw_state) == 5:
        _, shape, dtype, fortran, data = node.raw_state
    elif node.origin in _BUFFER and len(node.args) >= 3:
        data, dtype, shape = node.args[:3]
        fortran = len(node.args) > 3 and node.args[3] == "F"
    else:
        return None
    sizes = tuple(shape) if isinstance(shape, tuple | list) else ()
    if len(sizes) > MAX_DIMS:
        raise DamageError(f"its pickle gives an array {len(sizes):,} dimensions; at most {MAX_DIMS} are read")
    if any(type(size) is not int or not 0 <= size < 2**62 for size in sizes):
        raise DamageError("its pickle gives an array sizes that are not whole numbers of 0 or more")
    return sizes, dtype, bool(fortran), data


def _code(dtype: Any) -> tuple[str, bool]:
    """`f4` and whether it is big-endian; "O" for objects, "?" where it is no plain type."""
    if not isinstance(dtype, Instance) or dtype.origin != _DTYPE or not dtype.args:
        return "?", False
    code = shown(dtype.args[0], 20)
    state = dtype.raw_state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "<"
    if isinstance(state, tuple) and len(state) > 3 and (state[2] is not None or state[3] is not None):
        return "?", False  # sub-arrays and records
    return ("O" if code.startswith("O") else code), order == ">"
