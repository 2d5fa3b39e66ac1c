"""NumPy arrays inside pickles, made from the bytes that came with them: as data, by a closed table of types."""

from __future__ import annotations

from math import prod
from typing import Any

from trcompress.checkpoint.inert import Global, Instance
from trcompress.checkpoint.limits import DamageError, shown
from trcompress.checkpoint.npz_file import DTYPES
from trcompress.checkpoint.stored import MemoryBytes, RawStorage, StoredTensor, UnreadableTensor, contiguous_stride

_CORES = ("numpy.core", "numpy._core")
_ARRAY = {Global(f"{core}.multiarray", "_reconstruct") for core in _CORES}
_BUFFER = {Global(f"{core}.numeric", "_frombuffer") for core in _CORES}
_DTYPE = Global("numpy", "dtype")


def array_in(node: Any) -> StoredTensor | UnreadableTensor | None:
    """Return the array that a stand-in holds, as a tensor; None where it is none, or one of Python objects.

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
    raw = (
        data.encode("latin1")
        if isinstance(data, str)
        else bytes(data)
        if isinstance(data, bytes | bytearray)
        else b""
    )
    if prod(shape) * known.itemsize != len(raw):
        raise DamageError(f"its pickle declares an array {shape} of {code} but gives {len(raw):,} bytes")
    stride = contiguous_stride(shape[::-1])[::-1] if fortran else contiguous_stride(shape)
    storage = RawStorage(known, len(raw) // known.itemsize, MemoryBytes(raw, big_endian))
    return StoredTensor(storage, known, shape, stride)


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
    if any(type(size) is not int or size < 0 for size in sizes):
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
