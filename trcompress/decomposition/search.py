"""The search for cores: several short starts, the best one followed to its end, more where a ring may be hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trcompress.decomposition import als, gauss_newton
from trcompress.decomposition.als import Fit
from trcompress.decomposition.hidden import exact_error, find_hidden, looks_hidden
from trcompress.decomposition.objective import Objective

Start = tuple[str, Callable[[], list[Tensor]]]
DEAR_STEP = 3e9
"""Multiply-adds of a Gauss-Newton step above which ALS goes first, and further starts come last."""


@dataclass(frozen=True)
class Settings:
    """How hard to search.

    Args:
        starts: how many starts are tried before the best is followed.
        sweeps: at most so many ALS sweeps of one start.
        brief: ALS sweeps before starts are compared.
        tolerance: relative change of the error per sweep at which a fit has settled.
        inner: sweeps over each half's cores for one product with W.
        polish: follow ALS by Gauss-Newton steps where the ring is small enough for them.
        restarts: at most so many further starts where W looks as if a ring like this one had made it.
        work: multiply-adds that the further starts may cost.
    """

    starts: int = 3
    sweeps: int = 300
    brief: int = 6
    tolerance: float = 1e-4
    inner: int = 2
    polish: bool = True
    restarts: int = 40
    work: float = 3e11


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
    best, steps = min(fits, key=lambda fit: fit.squared), _count(fits)
    cheap = gauss_newton.step_work(objective) < DEAR_STEP
    if not cheap:
        steps += _finish(objective, best, settings, progress)
    if settings.polish and looks_hidden(objective, best):
        best, more = find_hidden(objective, best, generator, settings.restarts, settings.work, progress)
        steps += more
    if cheap:
        steps += _finish(objective, best, settings, progress)
    return best, steps


def _begin(objective: Objective, name: str, cores: list[Tensor], settings: Settings) -> Fit:
    fit = Fit(als.balance(cores), float("inf"), [], name)
    return als.run(objective, fit, settings.brief, settings.tolerance, settings.inner)


def _finish(objective: Objective, fit: Fit, settings: Settings, progress: Callable[[str, float], None]) -> int:
    """Follow a fit to its end, unless it is there; return the sweeps and steps it took."""
    before = len(fit.history)
    if fit.history[-1] < exact_error(objective):
        return 0

    def watch(fit: Fit) -> None:
        done = len(fit.history) / settings.sweeps
        progress(f"{fit.origin}: error {fit.history[-1]:.4f}", 0.4 + 0.5 * min(1.0, done))

    fit.converged = False
    if not (settings.polish and looks_hidden(objective, fit) and gauss_newton.step_work(objective) < DEAR_STEP):
        als.run(objective, fit, settings.sweeps, settings.tolerance, settings.inner, watch)
    if settings.polish and looks_hidden(objective, fit):
        gauss_newton.polish(objective, fit, settings.sweeps, settings.tolerance, watch)
    return len(fit.history) - before


def _count(fits: list[Fit]) -> int:
    return sum(len(fit.history) for fit in fits)
