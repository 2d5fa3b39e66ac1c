"""b += (W - W_hat)' mean(x): what a wrong weight adds on average is taken off the bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trcompress.decomposition import MatrixSource
from trcompress.model.weight_plan import WeightPlan


def bias_shift(weight: WeightPlan, dense: MatrixSource, cores: Sequence[Tensor], mean: Tensor) -> Tensor:
    """Return what to add to the input bias so that the average pre-activation is the dense one.

    Args:
        weight: the structure.
        dense: W (I, G*H).
        cores: its cores.
        mean: (I,) of the inputs.

    Returns:
        (G*H,) float64.
    """
    left, right = weight.factors([core.double() for core in cores])
    return _times(dense, mean) - (mean @ left) @ right


def _times(dense: MatrixSource, mean: Tensor) -> Tensor:
    """W' mean(x), (G*H,)."""
    total = torch.zeros(dense.shape[1], dtype=torch.float64)
    for first, block in dense.cast_blocks(torch.float64):
        total += mean[first : first + len(block)] @ block
    return total
