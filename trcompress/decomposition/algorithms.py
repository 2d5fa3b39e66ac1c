"""Every way to find the cores of a ring. A new one is a function of this signature and one entry in `ALGORITHMS`.

Nothing here imports torch before it runs: the command line reads the names for its choices, recipes check them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trcompress.decomposition.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trcompress.decomposition.objective import Objective

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Found:
    """What an algorithm found.

    Args:
        cores: float64, in the shapes of the ring.
        start: which start they come from.
        sweeps: taken in all.
        history: relative error after each sweep of that start.
        notes: what is redundant in the ring, in words.
    """

    cores: Sequence[Tensor]
    start: str
    sweeps: int = 0
    history: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


Algorithm = Callable[["Objective", Settings, "torch.Generator", "Sequence[Tensor] | None", Progress], Found]
"""(W and the ring, how hard to search, generator, cores to start from, progress) -> cores."""


def by_tr_svd(
    objective: Objective,
    settings: Settings,
    generator: torch.Generator,
    warm_start: Sequence[Tensor] | None,
    progress: Progress,
) -> Found:
    """Split W by singular value decompositions alone."""
    from trcompress.decomposition.tr_svd import tr_svd

    progress("singular values", 0.1)
    cores, notes = tr_svd(objective)
    return Found(cores, "svd", notes=notes)


def by_random_draw(
    objective: Objective,
    settings: Settings,
    generator: torch.Generator,
    warm_start: Sequence[Tensor] | None,
    progress: Progress,
) -> Found:
    """Draw Gaussian cores with the norm of W: what training from scratch begins with."""
    from trcompress.decomposition.starts import random_cores
    from trcompress.decomposition.tr_svd import clamp_notes

    return Found(random_cores(objective, generator), "random", notes=clamp_notes(objective.ring))


def by_tr_als(
    objective: Objective,
    settings: Settings,
    generator: torch.Generator,
    warm_start: Sequence[Tensor] | None,
    progress: Progress,
) -> Found:
    """Alternate least squares from several starts, then take Gauss-Newton steps where the ring is small."""
    from trcompress.decomposition import als
    from trcompress.decomposition.search import search, starts_of
    from trcompress.decomposition.tr_svd import is_lossless, tr_svd

    progress("singular values", 0.0)
    svd_cores, notes = tr_svd(objective)
    if is_lossless(objective.ring):
        history = (objective.relative(objective.squared_error(svd_cores)),)
        return Found(svd_cores, "svd", history=history, notes=notes)
    starts = starts_of(objective, svd_cores, generator, warm_start)
    fit, sweeps = search(objective, starts, generator, settings, progress)
    if objective.squared_error(svd_cores) < fit.squared:
        fit = als.run(objective, als.Fit(svd_cores, float("inf"), [], "svd"), settings.sweeps, settings.tolerance)
    return Found(fit.cores, fit.origin, sweeps, tuple(fit.history), notes)


ALGORITHMS: dict[str, Algorithm] = {"tr-als": by_tr_als, "tr-svd": by_tr_svd, "random": by_random_draw}
"""Every algorithm by its name in `init`. `decompose`, the command line, recipes and conformance tests read it."""
