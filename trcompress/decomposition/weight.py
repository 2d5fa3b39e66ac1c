"""One dense weight, wherever it lies, to the cores that stand for it: one ring, or one per gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor

from trcompress.checkpoint import Checkpoint, check_finite
from trcompress.decomposition import FileMatrix, InMemoryMatrix, MatrixSource, decompose
from trcompress.errors import InputFileError, one_of
from trcompress.formats import as_ring
from trcompress.model.matrix import Matrix
from trcompress.model.tied import Distinct, distinct
from trcompress.model.weight_plan import WeightPlan

STREAM_FROM_BYTES = 2**26
"""Weights from this size on are streamed from the file: pages that are mapped would count as memory."""


@dataclass(frozen=True)
class CompressedWeight:
    """One weight after decomposition.

    Args:
        plan: its structure.
        cores: as the layer keeps them; with a leading gate dimension where each gate has its own ring.
        error: ||W - W_hat|| / ||W||, Frobenius.
        bound: no structure of these ranks has a smaller error.
        init: the algorithm.
        notes: what was padded or clamped, and where the bound comes from, in words.
        candidates: what calibration compared, a plain row each; empty without calibration.
    """

    plan: WeightPlan
    cores: tuple[Tensor, ...]
    error: float
    bound: float
    init: str
    notes: tuple[str, ...]
    candidates: tuple[dict[str, Any], ...] = ()


def weight_source(checkpoint: Checkpoint, matrix: Matrix) -> MatrixSource:
    """Open a matrix of a checkpoint as W: in memory, or left in the file to be streamed where it is large.

    Raises:
        InputFileError: the checkpoint lacks it, or it holds NaN or Inf (of a streamed one: when it is read).
    """
    region = checkpoint.file_region(matrix.key)
    if region is not None and matrix.parameters * region[3].itemsize >= STREAM_FROM_BYTES:
        path, offset, _, dtype = region
        return FileMatrix(path, offset, (matrix.rows, matrix.columns), dtype)
    return tensor_source(checkpoint.tensor(matrix.key), matrix.key)


def tensor_source(weight: Tensor, key: str) -> MatrixSource:
    """Take a weight (O, I) in memory as W.

    Raises:
        InputFileError: it holds NaN or Inf; the message names `key`.
    """
    check_finite(weight, key)
    return InMemoryMatrix(weight)


def gate_sources(weight: WeightPlan, source: MatrixSource) -> list[MatrixSource]:
    """List the matrices to decompose: all gates stacked, or one per gate; units padded where the modes ask."""
    return source.pad_gates(weight.matrix.gates, weight.padded_hidden).split(weight.copies)


def decompose_weight(weight: WeightPlan, source: MatrixSource, **options: Any) -> CompressedWeight:
    """Find the cores of one weight: one ring, or one per gate.

    Args:
        weight: its structure.
        source: W (I, G*H), in memory or in a file.
        options: of `trcompress.decomposition.decompose`.

    Raises:
        ShapeError: the plan gives the weight another format than a tensor ring.
        InputFileError: the weight holds NaN or Inf.
    """
    ring = as_ring(weight.structure, f"{weight.name}: only tensor rings are decomposed")
    matrices = gate_sources(weight, source)
    parts = [decompose(matrix, ring, **options) for matrix in matrices]
    scales = [matrix.squared_norm for matrix in matrices]
    stacked = tuple(torch.stack(cores) for cores in zip(*(part.cores for part in parts), strict=True))
    notes = (*weight.notes, *(note for part in parts for note in part.notes))
    return CompressedWeight(
        plan=weight,
        cores=stacked if weight.per_gate else tuple(parts[0].cores),
        error=joint_error([part.error for part in parts], scales),
        bound=joint_error([part.bound for part in parts], scales),
        init=parts[0].init,
        notes=tuple(dict.fromkeys(notes)),
    )


def joint_error(errors: Sequence[float], scales: Sequence[float]) -> float:
    """Relative error of stacked matrices from the relative errors of each."""
    whole = sum(scales)
    return (
        sqrt(sum(error**2 * scale for error, scale in zip(errors, scales, strict=True)) / whole) if whole else 0.0
    )


RECURRENT_ROLES = ("ih", "hh", "hr")
"""Roles of the matrices of recurrent layers, all of which may be rings."""


def distinct_matrices(checkpoint: Checkpoint, roles: Sequence[str] = ("ih",)) -> Distinct:
    """List matrices of the recurrent layers of a checkpoint, tied ones once.

    Args:
        checkpoint: the dense checkpoint.
        roles: of `RECURRENT_ROLES`.

    Raises:
        UsageError: another role.
    """
    chosen = {one_of("matrices", role, RECURRENT_ROLES) for role in roles}
    every = [matrix for layer in checkpoint.layers for matrix in layer.matrices if matrix.role in chosen]
    return distinct(every, checkpoint.shared)


def measured_error(weight: WeightPlan, source: MatrixSource, cores: Sequence[Tensor]) -> float:
    """Return ||W - W_hat|| / ||W||, Frobenius, padding left out; ||W_hat|| where W is zero.

    Args:
        weight: the structure, a ring.
        source: W (I, G*H), in memory or in a file.
        cores: in the dtype that they are kept in; the sum itself runs in float64.

    Raises:
        InputFileError: the cores hold NaN or Inf, or are too large to multiply.
    """
    left, right = weight.factors([core.detach().to("cpu", torch.float64) for core in cores])
    squared = 0.0
    for first, block in source.cast_blocks(torch.float64):
        squared += float(torch.addmm(block.cpu(), left[first : first + len(block)], right, alpha=-1).square().sum())
    error = (squared / source.squared_norm) ** 0.5 if source.squared_norm else squared**0.5
    if not isfinite(error) or not all(torch.isfinite(core).all() for core in cores):
        dtype = str(cores[0].dtype).removeprefix("torch.")
        raise InputFileError(
            f"the cores of {weight.name} are not finite in {dtype}: its values are too large for that "
            f"(||W|| = {source.squared_norm**0.5:.3g}); scale the weight, or choose another `dtype`"
        )
    return error
