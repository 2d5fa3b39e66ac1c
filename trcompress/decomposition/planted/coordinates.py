"""W in coordinates in which every mode has orthogonal slices of equal norm: a ring that made W is easy to find.

A ring stays a ring of the same ranks when a mode is multiplied by a matrix. So every mode may be brought to
coordinates in which its slices are orthogonal and of equal norm. Where all values share one dominant direction
(positive cores make such matrices), that direction then no longer drowns the others, and Gauss-Newton steps that
crept through a swamp walk straight. A mode that holds less than its size is cut to what it holds. Cores found
there are carried back exactly.

Source: operator scaling (Gurvits 2004), mode by mode; the cut is that of the higher-order SVD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from trcompress.decomposition.linalg import svd
from trcompress.decomposition.objective import Objective
from trcompress.decomposition.source import InMemoryMatrix
from trcompress.formats import TensorRing

MAX_VALUES = 1 << 22
"""Largest W that is brought to other coordinates, in memory and whole."""
SWEEPS = 10
"""Rounds over the modes: each upsets the others a little."""


@dataclass(frozen=True)
class EqualModes:
    """W in other coordinates.

    Args:
        objective: W there and a ring of the same ranks; modes may be smaller.
        maps: (n_k, n'_k) for every mode, from there to the modes of W.
    """

    objective: Objective
    maps: tuple[Tensor, ...]

    def carry_back(self, cores: Sequence[Tensor]) -> list[Tensor]:
        """Cores of W from cores found here."""
        return [torch.einsum("rnq,mn->rmq", core, back) for core, back in zip(cores, self.maps, strict=True)]


def equal_modes(objective: Objective) -> EqualModes | None:
    """Bring W to coordinates in which no mode has a dominant direction.

    Args:
        objective: W in the plain norm, and the ring.

    Returns:
        The same problem there; None where W is too large for it, or zero.
    """
    ring, source = objective.ring, objective.source
    if prod(source.shape) > MAX_VALUES or not objective.is_plain or objective.squared_norm == 0.0:
        return None
    norm = objective.squared_norm**0.5
    tensor = source.dense().reshape(ring.modes) / norm
    maps = [torch.eye(size, dtype=tensor.dtype, device=tensor.device) for size in ring.modes]
    maps[0] = norm * maps[0]
    smallest = 4 * torch.finfo(source.dtype).eps
    for sweep in range(SWEEPS):
        for k in range(len(ring.modes)):
            most = ring.ranks[k] * ring.ranks[k + 1] if sweep == 0 else tensor.shape[k]
            tensor, back = _equal_mode(tensor, k, most, smallest)
            maps[k] = maps[k] @ back
    n = len(ring.in_modes)
    ring_there = TensorRing(tuple(tensor.shape[:n]), tuple(tensor.shape[n:]), ring.ranks)
    dense = tensor.reshape(prod(ring_there.in_modes), prod(ring_there.out_modes))
    return EqualModes(Objective(InMemoryMatrix(dense.t().contiguous()), ring_there), tuple(maps))


def _equal_mode(tensor: Tensor, k: int, most: int, smallest: float) -> tuple[Tensor, Tensor]:
    """Give mode k orthogonal slices of equal norm; return the tensor of norm 1, and the way back (n, n')."""
    rest = [*tensor.shape[:k], *tensor.shape[k + 1 :]]
    unfolded = tensor.movedim(k, 0).reshape(tensor.shape[k], -1)
    u, s, vh = svd(unfolded)
    size = max(1, min(most, int((s > smallest * s[0]).sum())))
    equal = (vh[:size] / size**0.5).reshape(size, *rest).movedim(0, k)
    return equal.contiguous(), u[:, :size] * s[:size] * size**0.5
