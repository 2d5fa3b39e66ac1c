"""Values that are no numbers: found in blocks, named by their tensor."""

from __future__ import annotations

from math import prod
from pathlib import Path

import torch
from torch import Tensor

from trcompress.checkpoint.stored import fill
from trcompress.errors import InputFileError

_BLOCK = 1 << 20


def check_finite(tensor: Tensor, key: str) -> None:
    """Refuse a weight that holds NaN or Inf, in blocks that need little memory.

    Raises:
        InputFileError: names the weight and counts the values.
    """
    if bad := count_nonfinite(tensor):
        raise InputFileError(
            f"weights must be finite: {key!r} holds {bad:,} NaN or Inf values of {tensor.numel():,}; "
            "the training diverged or the file is damaged: take an earlier checkpoint"
        )


def count_nonfinite(tensor: Tensor) -> int:
    """Count NaN and Inf, in blocks that need little memory; 8-bit floats are looked at as halves."""
    flat = tensor.detach().reshape(-1)
    return sum(_count_bad(block.half() if block.element_size() == 1 else block) for block in flat.split(_BLOCK))


def count_nonfinite_in_file(region: tuple[Path, int, tuple[int, ...], torch.dtype]) -> int:
    """Count NaN and Inf among values that lie in a file, through one small buffer: nothing is mapped.

    Raises:
        InputFileError: the file has become shorter or cannot be read.
    """
    path, offset, shape, dtype = region
    left, bad = prod(shape), 0
    buffer = torch.empty(min(left, _BLOCK), dtype=dtype)
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            while left:
                block = buffer[: min(left, _BLOCK)]
                fill(block, stream, path)
                bad += count_nonfinite(block)
                left -= len(block)
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror or error}") from error
    return bad


def _count_bad(block: Tensor) -> int:
    """How many values are NaN or Inf; the extremes, found in one pass, mostly tell that none is."""
    if not block.numel() or (not block.is_complex() and all(map(torch.isfinite, block.aminmax()))):
        return 0
    return int((~torch.isfinite(block)).sum())
