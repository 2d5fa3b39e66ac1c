"""The search for cores: several short starts, the best one followed to its end, more where that end looks poor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from trcompress.decompose import als, gauss_newton, growth
from trcompress.decompose.als import Fit
from trcompress.decompose.objective import Objective

Start = tuple[str, Callable[[], list[Tensor]]]
EXACT = 1e-10
"""Relative error at which a float64 W counts as met exactly; others to a few units of their own rounding."""
RESTART_STEPS = 60
"""Gauss-Newton steps of a further start: what leads anywhere has led there by then."""
DEAR_STEP = 3e9
"""Multiply-adds of a Gauss-Newton step above which ALS goes first."""


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
        if fits[-1].history[-1] < _exact(objective):
            return fits[-1], _count(fits)
    fits.sort(key=lambda fit: fit.squared)
    best = _finish(objective, fits[0], settings, progress)
    waiting, spent = fits[1:], 0.0
    for attempt in range(settings.restarts):
        if spent > settings.work or not _looks_planted(objective, best):
            break
        progress(f"another start, error so far {best.history[-1]:.2e}", 0.9)
        if waiting and attempt % 3 == 1:
            fit = waiting.pop(0)
        else:
            fit = Fit(growth.grow(objective, generator), float("inf"), [], f"grown {attempt + 1}")
            fits.append(als.run(objective, fit, settings.brief, settings.tolerance, settings.inner))
        gauss_newton.polish(objective, fit, RESTART_STEPS, 5 * settings.tolerance)
        spent += (len(fit.history) + RESTART_STEPS) * gauss_newton.step_work(objective)
        best = min(best, fit, key=lambda one: one.squared)
    return best, _count(fits)


def _begin(objective: Objective, name: str, cores: list[Tensor], settings: Settings) -> Fit:
    fit = Fit(als.balance(cores), float("inf"), [], name)
    return als.run(objective, fit, settings.brief, settings.tolerance, settings.inner)


def _finish(objective: Objective, fit: Fit, settings: Settings, progress: Callable[[str, float], None]) -> Fit:
    """Follow a fit to its end."""

    def watch(fit: Fit) -> None:
        done = len(fit.history) / settings.sweeps
        progress(f"{fit.origin}: error {fit.history[-1]:.4f}", 0.4 + 0.5 * min(1.0, done))

    fit.converged = False
    if not (settings.polish and _looks_planted(objective, fit) and gauss_newton.step_work(objective) < DEAR_STEP):
        als.run(objective, fit, settings.sweeps, settings.tolerance, settings.inner, watch)
    if settings.polish and _looks_planted(objective, fit):
        gauss_newton.polish(objective, fit, settings.sweeps, settings.tolerance, watch)
    return fit


def _looks_planted(objective: Objective, fit: Fit) -> bool:
    """Whether the error is too low for W to be noise, and yet not zero: then an exact ring may exist.

    Measured on Gaussian matrices, a ring of f * N free parameters fits N values to about (1 - f)^1.3; fits of
    planted rings that end in a swamp stay below two thirds of that.
    """
    error, ring = fit.history[-1], objective.ring
    gauge = sum(rank**2 for rank in ring.ranks[1:])
    freedom = (ring.parameters - gauge) / prod(objective.source.shape)
    planted = _exact(objective) < error < 0.65 * max(0.02, 1 - freedom) ** 1.3
    return planted and gauss_newton.is_affordable(objective)


def _exact(objective: Objective) -> float:
    return max(EXACT, 4 * torch.finfo(objective.source.dtype).eps)


def _count(fits: list[Fit]) -> int:
    return sum(len(fit.history) for fit in fits)
