"""The search for a ring that made W: many short attempts, where an ordinary fit would end in a swamp."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

import torch
from torch import Tensor

from trcompress.decomposition import als
from trcompress.decomposition.als import Fit, exact_error
from trcompress.decomposition.bound import lower_bound
from trcompress.decomposition.objective import Objective
from trcompress.decomposition.planted import gauss_newton, growth
from trcompress.decomposition.planted.coordinates import EqualModes, equal_modes
from trcompress.decomposition.starts import MORE_NOISE, random_cores, with_noise
from trcompress.decomposition.tr_svd import tr_svd

NEAR_BOUND = 0.8
"""Share of the error from which on a lower bound says that noise, not a poor start, is what remains."""
STEPS = 60
"""Gauss-Newton steps of an attempt: what leads anywhere has led there by then."""
TOLERANCE = 1e-3
"""Relative change per step at which an attempt is given up."""
BRIEF = 6
"""ALS sweeps before them."""
CLOSE = 1e-2
"""Error in equal-mode coordinates that is worth following in those of W."""
SAME, AGREEING = 1e-3, 4
"""So many attempts whose errors differ by less than this share have found the least error there is."""


def looks_planted(objective: Objective, fit: Fit) -> bool:
    """Return True where the error says that some ring made W: too low for noise, and yet not zero.

    Measured on Gaussian matrices, a ring of f * N free parameters fits N values to about (1 - f)^1.3; fits of
    planted rings that end in a swamp stay below two thirds of that. Where a lower bound is close to the error,
    noise on top of a ring is all that is left.
    """
    error, ring = fit.history[-1], objective.ring
    gauge = sum(rank**2 for rank in ring.ranks[1:])
    freedom = (ring.parameters - gauge) / prod(objective.source.shape)
    planted = exact_error(objective) < error < 0.65 * max(0.02, 1 - freedom) ** 1.3
    if not (planted and gauss_newton.is_affordable(objective)):
        return False
    return lower_bound(objective.inner, ring).value < NEAR_BOUND * error


def find_planted(
    objective: Objective,
    best: Fit,
    generator: torch.Generator,
    attempts: int,
    work: float,
    progress: Callable[[str, float], None],
) -> tuple[Fit, int]:
    """Look for a ring that made W until one is found, nothing speaks for it any more, or the work is spent.

    Args:
        objective: W and the ring.
        best: the best fit so far; it looks as if there were such a ring.
        generator: of the starts.
        attempts: at most so many.
        work: multiply-adds that they may cost.
        progress: called with (what, fraction done).

    Returns:
        The best fit, and how many sweeps and steps were taken.
    """
    equal = equal_modes(objective)
    steps, spent, errors = 0, 0.0, [best.history[-1]]
    for number, (name, make) in zip(range(attempts), _starts(objective, equal, generator), strict=False):
        progress(f"another start, error so far {best.history[-1]:.2e}", 0.4 + 0.5 * number / attempts)
        fit, taken = make()
        fit.origin = f"{name} {number + 1}"
        steps, spent = steps + taken, spent + taken * gauss_newton.step_work(objective)
        errors.append(fit.history[-1])
        best = min(best, fit, key=lambda one: one.squared)
        agreeing = sum(error < (1 + SAME) * best.history[-1] for error in errors)
        if spent > work or agreeing >= AGREEING or not looks_planted(objective, best):
            break
    return best, steps


Attempt = Callable[[], tuple[Fit, int]]


def _starts(
    objective: Objective, equal: EqualModes | None, generator: torch.Generator
) -> Iterator[tuple[str, Attempt]]:
    """Ways to attempt it, without end: in equal-mode coordinates by turns, and now and then in those of W."""
    if equal is None:
        while True:
            yield "grown", lambda: _attempt(objective, growth.grow(objective, generator))
    there = equal.objective
    svd_cores, _ = tr_svd(there)
    while True:
        yield (
            "equal modes svd",
            lambda: _equal_attempt(objective, equal, with_noise(svd_cores, generator, MORE_NOISE)),
        )
        yield "equal modes grown", lambda: _equal_attempt(objective, equal, growth.grow(there, generator))
        yield "equal modes random", lambda: _equal_attempt(objective, equal, random_cores(there, generator))
        yield "equal modes grown", lambda: _equal_attempt(objective, equal, growth.grow(there, generator))
        yield "grown", lambda: _attempt(objective, growth.grow(objective, generator))


def _attempt(objective: Objective, cores: list[Tensor]) -> tuple[Fit, int]:
    """Some ALS sweeps, then Gauss-Newton steps for as long as they lead somewhere."""
    fit = als.run(objective, Fit(als.balance(cores), float("inf"), [], ""), BRIEF, TOLERANCE)
    gauss_newton.polish(objective, fit, STEPS, TOLERANCE)
    return fit, len(fit.history)


def _equal_attempt(objective: Objective, equal: EqualModes, cores: list[Tensor]) -> tuple[Fit, int]:
    """An attempt in equal-mode coordinates, carried back, and followed there if it came close."""
    found, steps = _attempt(equal.objective, cores)
    back = als.balance(equal.carry_back(found.cores))
    squared = objective.squared_error(back)
    fit = Fit(back, squared, [objective.relative(squared)], "")
    if found.history[-1] < CLOSE:
        gauss_newton.polish(objective, fit, STEPS, TOLERANCE)
    return fit, steps + len(fit.history)
