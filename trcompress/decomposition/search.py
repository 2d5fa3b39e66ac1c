"""The search for cores: several short starts, the best one followed to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from trcompress.decomposition import als
from trcompress.decomposition.als import Fit, exact_error
from trcompress.decomposition.objective import Objective
from trcompress.decomposition.planted import finish
from trcompress.decomposition.settings import Settings
from trcompress.decomposition.starts import MORE_NOISE, adapted, random_cores, with_noise

Start = tuple[str, Callable[[], list[Tensor]]]


def search(
    objective: Objective,
    starts: Iterator[Start],
    generator: torch.Generator,
    settings: Settings,
    progress: Callable[[str, float], None],
) -> tuple[Fit, int]:
    """Follow the best of several starts until it settles.

    Args:
        objective: W and the ring.
        starts: names and makers of cores, endless; `settings.starts` of them are compared.
        generator: of further starts.
        settings: how hard to search.
        progress: called with (what, fraction done).

    Returns:
        The best fit, and the number of sweeps and steps taken in all.
    """
    fits = []
    for index in range(settings.starts):
        name, make = next(starts)
        progress(f"start {index + 1} of {settings.starts} ({name})", 0.4 * index / settings.starts)
        fits.append(_begin(objective, name, make(), settings))
        if fits[-1].history[-1] < exact_error(objective):
            return fits[-1], _count(fits)
    best = min(fits, key=lambda fit: fit.squared)
    best, steps = finish(objective, best, generator, settings, progress)
    return best, _count(fits) + steps


def _begin(objective: Objective, name: str, cores: list[Tensor], settings: Settings) -> Fit:
    fit = Fit(als.balance(cores), float("inf"), [], name)
    return als.run(objective, fit, settings.brief, settings.tolerance, settings.inner)


def _count(fits: list[Fit]) -> int:
    return sum(len(fit.history) for fit in fits)


def starts_of(
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
