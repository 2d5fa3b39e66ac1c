"""Matrices kept between calls without gradients, each beside a copy of the core values it was computed from."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trcompress.layers.evaluation.form import Form

FEW = 1024
"""Values below which a tensor operation compares as fast as a call into the C library."""

_memcmp = (ctypes.cdll.msvcrt if os.name == "nt" else ctypes.CDLL(None)).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class KeptMatrices:
    """The matrices of one weight by form, for as long as its cores hold the values they were computed from.

    Values are compared at each call: fused optimizers, shared memory, flat parameter views and NumPy views change
    cores without any trace that PyTorch could show.
    """

    def __init__(self) -> None:
        self._values: list[Tensor] = []
        self._found: dict[Form, tuple[Tensor, ...]] = {}

    def get(
        self, form: Form, cores: Sequence[Tensor], compute: Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """Return what `compute` gives for these cores.

        Args:
            form: under which it is kept.
            cores: as they are now.
            compute: called with a copy of the cores, so that what is kept belongs to the copy also where another
                process writes into the cores meanwhile.
        """
        values, found = self._values, self._found
        if not _same_values(values, cores):
            values, found = [core.detach().clone() for core in cores], {}
        if form not in found:
            found[form] = compute(values)
            if all(type(matrix) is Tensor for matrix in found[form]):  # no stand-ins of a dispatch mode
                self._values, self._found = values, found
        return found[form]

    @property
    def nbytes(self) -> int:
        """Bytes of the matrices and of the copied cores."""
        kept = [*self._values, *(matrix for found in self._found.values() for matrix in found)]
        return sum(tensor.nbytes for tensor in kept)

    def clear(self) -> None:
        """Drop everything."""
        self._values, self._found = [], {}


def can_be_kept(cores: Sequence[Tensor]) -> bool:
    """Return whether cores can be compared by value at no cost to speak of: plain parameters in main memory.

    On other devices the comparison would make the program wait for the device at each call.
    """
    return all(type(core) is nn.Parameter and core.device.type == "cpu" for core in cores)


def _same_values(values: Sequence[Tensor], cores: Sequence[Tensor]) -> bool:
    return len(values) == len(cores) and all(map(_same, values, cores))


def _same(value: Tensor, core: Tensor) -> bool:
    """Compare a copy with its core: the memory where it is plain, which takes a fifth of the time of torch.equal.

    Equal bits give equal matrices. Bits that differ in equal values, as of 0.0 and -0.0, cost a computation.
    """
    if value.dtype != core.dtype or value.shape != core.shape:
        return False
    if value.numel() < FEW or not (value.is_contiguous() and core.is_contiguous()) or core.is_neg():
        return torch.equal(value, core)
    return bool(_memcmp(value.data_ptr(), core.data_ptr(), value.nbytes) == 0)
