"""`decompose`: a dense matrix becomes the cores of a ring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from trcompress.decomposition import als
from trcompress.decomposition.als import Fit
from trcompress.decomposition.bound import lower_bound
from trcompress.decomposition.metric import Metric
from trcompress.decomposition.objective import Objective
from trcompress.decomposition.result import Decomposition
from trcompress.decomposition.search import Settings, Start, search
from trcompress.decomposition.source import InMemoryMatrix, MatrixSource
from trcompress.decomposition.starts import MORE_NOISE, adapted, random_cores, with_noise
from trcompress.decomposition.threads import fitting_threads
from trcompress.decomposition.tr_svd import clamp_notes, is_lossless, tr_svd
from trcompress.errors import UsageError, nearest
from trcompress.formats import TensorRing

Progress = Callable[[str, float], None]
Found = tuple[list[Tensor], str, int, tuple[float, ...], tuple[str, ...]]
"""Cores, name of the start, sweeps taken, history, notes."""


def init_tr_svd(
    objective: Objective, settings: Settings, generator: torch.Generator, warm: Any, progress: Progress
) -> Found:
    """Singular value decompositions alone."""
    progress("singular values", 0.1)
    cores, notes = tr_svd(objective)
    return cores, "svd", 0, (), notes


def init_random(
    objective: Objective, settings: Settings, generator: torch.Generator, warm: Any, progress: Progress
) -> Found:
    """Gaussian cores with the norm of W: what training from scratch begins with."""
    return random_cores(objective, generator), "random", 0, (), clamp_notes(objective.ring)


def init_tr_als(
    objective: Objective,
    settings: Settings,
    generator: torch.Generator,
    warm: Sequence[Tensor] | None,
    progress: Progress,
) -> Found:
    """Alternating least squares from several starts, then Gauss-Newton steps where the ring is small."""
    progress("singular values", 0.0)
    svd_cores, notes = tr_svd(objective)
    if is_lossless(objective.ring):
        return svd_cores, "svd", 0, (objective.relative(objective.squared_error(svd_cores)),), notes
    fit, sweeps = search(objective, _starts(objective, svd_cores, generator, warm), generator, settings, progress)
    if objective.squared_error(svd_cores) < fit.squared:
        fit = als.run(objective, Fit(svd_cores, float("inf"), [], "svd"), settings.sweeps, settings.tolerance)
    return fit.cores, fit.origin, sweeps, tuple(fit.history), notes


INITS: dict[str, Callable[..., Found]] = {
    "tr-als": init_tr_als,
    "tr-svd": init_tr_svd,
    "random": init_random,
}


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
        init: "tr-als", "tr-svd" or "random": a key of `INITS`.
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
        ShapeError: the modes are too small for W.
        InputFileError: W holds NaN or Inf.

    Example:
        >>> ring = TensorRing((4, 3), (4, 2), (2, 2, 2, 2, 2))
        >>> found = decompose(torch.ones(8, 12), ring)
        >>> found.error < 1e-6, [tuple(core.shape) for core in found.cores]
        (True, [(2, 4, 2), (2, 3, 2), (2, 4, 2), (2, 2, 2)])
    """
    chosen = _settings(init, settings)
    tell = progress or (lambda *_: None)
    inner = InMemoryMatrix(source, device) if isinstance(source, Tensor) else source
    with fitting_threads(inner):
        objective = Objective(inner, ring, metric)
        generator = torch.Generator().manual_seed(seed)
        cores, start, sweeps, history, notes = INITS[init](objective, chosen, generator, warm_start, tell)
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
        sweeps=sweeps,
        start=start,
        history=history,
        notes=(*_padding_notes(inner.shape, objective.source.shape), *notes),
        metric_error=metric_error,
    )


def _starts(
    objective: Objective,
    svd_cores: Sequence[Tensor],
    generator: torch.Generator,
    warm: Sequence[Tensor] | None,
) -> Iterator[Start]:
    """Ways to begin, without end: first what W itself suggests, then by turns at random and near the SVD."""
    if warm is not None:
        yield "warm start", lambda: adapted(warm, objective.ring, generator)
    yield "svd with noise", lambda: with_noise(svd_cores, generator)
    number = 0
    while True:
        number += 1
        yield f"random {number}", lambda: random_cores(objective, generator)
        yield f"svd with more noise {number}", lambda: with_noise(svd_cores, generator, MORE_NOISE)


def _settings(init: str, given: dict[str, Any]) -> Settings:
    if init not in INITS:
        raise UsageError(f"init must be one of {', '.join(INITS)}: got {init!r}{nearest(init, list(INITS))}")
    known = [field.name for field in fields(Settings)]
    unknown = [f"{name!r}{nearest(name, known)}" for name in given if name not in known]
    if unknown:
        raise UsageError(f"unknown settings {', '.join(unknown)}; there are {', '.join(known)}")
    return Settings(**given)


def _padding_notes(shape: tuple[int, int], padded: tuple[int, int]) -> tuple[str, ...]:
    pairs = zip(("inputs", "outputs"), shape, padded, strict=True)
    return tuple(f"{what} zero-padded from {size:,} to {more:,}" for what, size, more in pairs if size != more)
