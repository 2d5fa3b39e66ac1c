"""Where a search for cores begins: at random, at the SVD, or at cores found before."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from trcompress.decomposition.linalg import svd
from trcompress.decomposition.objective import Objective, input_gram
from trcompress.decomposition.tt_svd import pad_core
from trcompress.errors import ShapeError
from trcompress.formats import TensorRing

MORE_NOISE = 0.3
NOISE = 0.03
"""Noise added to a start that has zeros, relative to the core's own size: zeros are stationary points of ALS."""


def random_cores(objective: Objective, generator: torch.Generator) -> list[Tensor]:
    """Gaussian cores whose ring has exactly the norm of W.

    sigma = (v / prod(R_k))^(1/2d) gives W_hat the variance v of W on average; the rest is a rescaling, because
    a product of many Gaussian cores scatters widely about its average.
    """
    ring, source = objective.ring, objective.source
    variance = objective.squared_norm / prod(source.shape)
    sigma = (variance / prod(ring.ranks[1:])) ** (1 / (2 * len(ring.modes)))
    cores = [
        (torch.randn(shape, generator=generator, dtype=torch.float64) * sigma).to(source.device)
        for shape in ring.core_shapes
    ]
    return rescaled(objective, cores)


def rescaled(objective: Objective, cores: Sequence[Tensor]) -> list[Tensor]:
    """Scale all cores alike so that ||W_hat|| = ||W||."""
    squared = ring_squared_norm(objective.ring, cores)
    if squared == 0.0:
        return list(cores)
    factor = (objective.squared_norm / squared) ** (1 / (2 * len(cores)))
    return [core * factor for core in cores]


def ring_squared_norm(ring: TensorRing, cores: Sequence[Tensor]) -> float:
    """||W_hat||^2 = <A'A, BB'>, without W_hat."""
    right = ring.output_factor(cores)
    return float((input_gram(ring, cores) * (right @ right.t())).sum())


def with_noise(cores: Sequence[Tensor], generator: torch.Generator, amount: float = NOISE) -> list[Tensor]:
    """Add Gaussian noise to every core, relative to its root mean square."""
    result = []
    for core in cores:
        noise = torch.randn(core.shape, generator=generator, dtype=core.dtype).to(core.device)
        size = core.norm() / core.numel() ** 0.5
        result.append(core + amount * (size if float(size) else 1.0) * noise)
    return result


def adapted(cores: Sequence[Tensor], ring: TensorRing, generator: torch.Generator) -> list[Tensor]:
    """Bring cores of the same modes to other ranks: bonds are cut by SVD, or widened with a little noise.

    Raises:
        ShapeError: the modes differ.
    """
    cores = [core.detach().to(torch.float64) for core in cores]
    if len(cores) != len(ring.modes) or any(core.dim() != 3 for core in cores):
        raise ShapeError(f"a warm start must have one core (r, n, r') per mode: got {len(cores)} for {ring.modes}")
    modes = tuple(core.shape[1] for core in cores)
    if modes != ring.modes:
        raise ShapeError(f"a warm start must have the ring's modes: got {modes}, {ring.modes} expected")
    for k in range(len(cores)):
        _cut_bond(cores, k, ring.ranks[k])
    return widened(cores, ring, generator, NOISE)


def widened(cores: Sequence[Tensor], ring: TensorRing, generator: torch.Generator, noise: float) -> list[Tensor]:
    """Bring cores up to the ring's ranks; new entries are noise, relative to each core's root mean square."""
    result = []
    for core, (left, _, right) in zip(cores, ring.core_shapes, strict=True):
        size = float(core.norm()) / core.numel() ** 0.5 or 1.0
        wide = pad_core(core, left, right)
        random = torch.randn(wide.shape, generator=generator, dtype=core.dtype).to(core.device)
        added = pad_core(torch.ones_like(core), left, right) == 0
        result.append(torch.where(added, noise * size * random, wide))
    return result


def _cut_bond(cores: list[Tensor], k: int, rank: int) -> None:
    """Lower the bond left of core k to `rank` or less by an SVD of the two cores that share it, in place."""
    left, right = cores[k - 1], cores[k]
    size = right.shape[0]
    if size <= rank:
        return
    q1, r1 = torch.linalg.qr(left.reshape(-1, size))
    q2, r2 = torch.linalg.qr(right.reshape(size, -1).t())
    u, s, vh = svd(r1 @ r2.t())  # of a small core fewer than `rank`: a bond may be wider than it can fill
    root = s[:rank].sqrt()
    cores[k - 1] = (q1 @ (u[:, :rank] * root)).reshape(*left.shape[:2], -1)
    cores[k] = (q2 @ (vh[:rank].t() * root)).t().reshape(-1, *right.shape[1:])
