"""Follow a fit to its end, and look for the ring that made W where the fit says that there is one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from trcompress.decomposition import als
from trcompress.decomposition.als import Fit, exact_error
from trcompress.decomposition.objective import Objective
from trcompress.decomposition.planted import gauss_newton
from trcompress.decomposition.planted.attempts import find_planted, looks_planted
from trcompress.decomposition.settings import Settings

DEAR_STEP = 3e9
"""Multiply-adds of a Gauss-Newton step above which ALS goes first, and further starts come last."""


def finish(
    objective: Objective,
    fit: Fit,
    generator: torch.Generator,
    settings: Settings,
    progress: Callable[[str, float], None],
) -> tuple[Fit, int]:
    """Follow the best start until it settles: by ALS, and by Gauss-Newton steps where W looks planted.

    Args:
        objective: W and the ring.
        fit: the best start.
        generator: of further starts.
        settings: how hard to search; without `polish` ALS is all.
        progress: called with (what, fraction done).

    Returns:
        The best fit, and the number of sweeps and steps taken.
    """
    steps, sought = 0, False
    cheap = gauss_newton.step_work(objective) < DEAR_STEP
    if cheap:
        fit, steps, sought = _seek(objective, fit, generator, settings, progress)
    steps += _follow(objective, fit, settings, progress)
    if not sought:  # few sweeps may not show yet that W looks planted; a settled fit does
        fit, more, sought = _seek(objective, fit, generator, settings, progress)
        steps += more
        if sought and cheap:
            steps += _follow(objective, fit, settings, progress)
    return fit, steps


def _seek(
    objective: Objective,
    fit: Fit,
    generator: torch.Generator,
    settings: Settings,
    progress: Callable[[str, float], None],
) -> tuple[Fit, int, bool]:
    """Look for the ring that made W, if there seems to be one; return the best fit, steps, and whether it was."""
    if not (settings.polish and looks_planted(objective, fit)):
        return fit, 0, False
    return *find_planted(objective, fit, generator, settings.restarts, settings.work, progress), True


def _follow(objective: Objective, fit: Fit, settings: Settings, progress: Callable[[str, float], None]) -> int:
    """Follow a fit to its end, unless it is there; return the sweeps and steps it took."""
    before = len(fit.history)
    if fit.history[-1] < exact_error(objective):
        return 0

    def watch(fit: Fit) -> None:
        done = len(fit.history) / settings.sweeps
        progress(f"{fit.origin}: error {fit.history[-1]:.4f}", 0.4 + 0.5 * min(1.0, done))

    fit.converged = False
    if not (settings.polish and looks_planted(objective, fit) and gauss_newton.step_work(objective) < DEAR_STEP):
        als.run(objective, fit, settings.sweeps, settings.tolerance, settings.inner, watch)
    if settings.polish and looks_planted(objective, fit):
        gauss_newton.polish(objective, fit, settings.sweeps, settings.tolerance, watch)
    return len(fit.history) - before
