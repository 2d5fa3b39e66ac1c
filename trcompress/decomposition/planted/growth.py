"""Grow a ring rank by rank: the coarse structure of W is settled before finer bonds join in.

A ring that fits W exactly is far easier to find this way than from cores of full rank, where most searches end in
a swamp; it also copes with rings whose bonds act on very different scales.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trcompress.decomposition import als
from trcompress.decomposition.als import Fit
from trcompress.decomposition.objective import Objective
from trcompress.decomposition.planted import gauss_newton
from trcompress.decomposition.starts import random_cores, widened
from trcompress.formats import TensorRing

NOISE = 0.05
"""Size of a new bond's entries, relative to the core's."""
SWEEPS = 6
"""ALS sweeps at every rank."""
STEPS = 15
"""Gauss-Newton steps at every rank."""


def grow(objective: Objective, generator: torch.Generator) -> list[Tensor]:
    """Fit rings of growing ranks, each from the one before; the last one is left to the caller.

    Args:
        objective: W and the final ring.
        generator: of the first cores and of what widens them.

    Returns:
        Cores of the final ring, where only what the last rank added is still noise.
    """
    levels = rank_levels(objective.ring.ranks)
    stage = objective.with_ring(_limited(objective.ring, levels[0]))
    cores = random_cores(stage, generator)
    for level in levels[1:]:
        fit = als.run(stage, Fit(als.balance(cores), float("inf"), [], ""), SWEEPS, 1e-5)
        if gauss_newton.is_affordable(stage):
            gauss_newton.polish(stage, fit, STEPS, 1e-5)
        stage = objective.with_ring(_limited(objective.ring, level))
        cores = als.balance(widened(fit.cores, stage.ring, generator, NOISE))
    return cores


def rank_levels(ranks: tuple[int, ...]) -> list[int]:
    """Ranks to pass through: every one at first, then by halves again.

    Example:
        >>> rank_levels((10, 5, 10))
        [1, 2, 3, 4, 6, 9, 10]
    """
    levels, top = [1], max(ranks)
    while levels[-1] < top:
        levels.append(min(top, max(levels[-1] + 1, levels[-1] * 3 // 2)))
    return levels


def _limited(ring: TensorRing, level: int) -> TensorRing:
    return TensorRing(ring.in_modes, ring.out_modes, tuple(min(rank, level) for rank in ring.ranks))
