"""`decompose`: a dense matrix becomes the cores of a ring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from trcompress.decomposition.algorithms import ALGORITHMS, Progress
from trcompress.decomposition.bound import lower_bound
from trcompress.decomposition.least_memory import check_memory
from trcompress.decomposition.metric import Metric
from trcompress.decomposition.objective import Objective
from trcompress.decomposition.result import Decomposition
from trcompress.decomposition.settings import Settings
from trcompress.decomposition.source import InMemoryMatrix, MatrixSource
from trcompress.decomposition.threads import fitting_threads
from trcompress.errors import UsageError, nearest, one_of
from trcompress.formats import TensorRing


def decompose(
    source: MatrixSource | Tensor,
    ring: TensorRing,
    *,
    init: str = "tr-als",
    seed: int = 0,
    metric: Metric | None = None,
    warm_start: Sequence[Tensor] | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Decomposition:
    """Find the cores of a ring whose matrix is close to W.

    Args:
        source: W (I, O) as a MatrixSource; or the weight (O, I) as PyTorch stores it, so that W = weight.T.
        ring: modes and ranks; W is zero-padded where the modes multiply to more than its sizes.
        init: "tr-als", "tr-svd" or "random": a key of `ALGORITHMS`.
        seed: of everything random; the same seed gives the same cores.
        metric: the norm in which to be close to W; None is the plain one.
        warm_start: cores of the same modes, of any ranks, to begin from.
        device: where to compute; by default where the weight is.
        progress: called with (what, fraction done).
        settings: of `Settings`: `starts`, `sweeps`, `tolerance`, ...

    Returns:
        The cores in float64, their error, and the lower bound on it.

    Raises:
        UsageError: `init` or a setting does not exist.
        ShapeError: the modes are too small for W, or the ranks so large that a fit has no room in memory.
        InputFileError: W holds NaN or Inf.

    Example:
        >>> ring = TensorRing((4, 3), (4, 2), (2, 2, 2, 2, 2))
        >>> found = decompose(torch.ones(8, 12), ring)
        >>> found.error < 1e-6, [tuple(core.shape) for core in found.cores]
        (True, [(2, 4, 2), (2, 3, 2), (2, 4, 2), (2, 2, 2)])
    """
    chosen = _settings(init, settings)
    if device is None or torch.device(device).type == "cpu":
        check_memory("decompose", ring, init)
    tell = progress or (lambda *_: None)
    inner = InMemoryMatrix(source, device) if isinstance(source, Tensor) else source
    with fitting_threads(inner):
        objective = Objective(inner, ring, metric)
        generator = torch.Generator().manual_seed(seed)
        found = ALGORITHMS[init](objective, chosen, generator, warm_start, tell)
        cores = found.cores
        plain = Objective(inner, ring)
        error = plain.relative(plain.squared_error(cores))
        tell("lower bound", 0.95)
        bound = lower_bound(inner, ring)
        tell("done", 1.0)
        metric_error = error if metric is None else objective.relative(objective.squared_error(cores))
    return Decomposition(
        ring=ring,
        cores=tuple(cores),
        error=error,
        bound=min(bound.value, error),
        bound_at=bound.where,
        init=init,
        sweeps=found.sweeps,
        start=found.start,
        history=found.history,
        notes=(*_padding_notes(inner.shape, objective.source.shape), *found.notes),
        metric_error=metric_error,
    )


def _settings(init: str, given: dict[str, Any]) -> Settings:
    one_of("init", init, ALGORITHMS)
    known = [field.name for field in fields(Settings)]
    unknown = [f"{name!r}{nearest(name, known)}" for name in given if name not in known]
    if unknown:
        raise UsageError(f"unknown settings {', '.join(unknown)}; there are {', '.join(known)}")
    return Settings(**given)


def _padding_notes(shape: tuple[int, int], padded: tuple[int, int]) -> tuple[str, ...]:
    pairs = zip(("inputs", "outputs"), shape, padded, strict=True)
    return tuple(f"{what} zero-padded from {size:,} to {more:,}" for what, size, more in pairs if size != more)
