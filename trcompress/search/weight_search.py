"""From a budget to a ring for one weight: which modes, in which order, with which ranks.

A two-mode ring is the truncated SVD, so it is always among the candidates and the chosen ring is never worse than
the SVD of the same count. Every other ring that could beat it (its bottleneck must be wider) is tried with a few
ALS sweeps, the best are followed further, and at last single ranks are moved with warm starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from trcompress.decomposition import MatrixSource, beside_bound, lower_bound
from trcompress.errors import UsageError
from trcompress.layers.evaluation import operations_per_step
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Rule
from trcompress.model.weight_plan import WeightPlan
from trcompress.search.effort import EFFORTS
from trcompress.search.explore import explore, try_again
from trcompress.search.trials import Trial, Trials
from trcompress.util.progress import Progress


@dataclass(frozen=True)
class PlanRow:
    """One way to compress one weight.

    Args:
        weight: the structure.
        rule: the same as `decompose` takes it.
        error: ||W - W_hat|| / ||W|| that the search reached.
        bound: no ring of these modes and ranks has a smaller error.
        operations: multiply-adds per time step of the input side.
        is_svd: a two-mode ring, the truncated SVD.
        difference: of the network's outputs on held-out calibration data; None where it was not measured.
    """

    weight: WeightPlan
    rule: Rule
    error: float
    bound: float
    operations: int
    is_svd: bool
    difference: float | None = None

    @property
    def statement(self) -> str:
        """The error beside its bound, in plain words."""
        return beside_bound(self.error, self.bound)

    @property
    def named_rule(self) -> Rule:
        """The rule, naming its weight, so that a plan of several rows gives each to its own."""
        return replace(self.rule, layer=self.weight.name)


@dataclass(frozen=True)
class WeightSearch:
    """What the search found for one weight.

    Args:
        matrix: the weight.
        rows: the Pareto front over parameters, error and operations; most parameters first.
        chosen: the row that serves the budget best.
        cores: of the chosen row, to start `decompose` from; None for an SVD, which needs none.
        tried: how many rings were fitted.
        svd_error: error of the truncated SVD within the same budget.
    """

    matrix: Matrix
    rows: tuple[PlanRow, ...]
    chosen: PlanRow
    cores: tuple[Tensor, ...] | None
    tried: int
    svd_error: float


def search_weight(
    matrix: Matrix,
    dense: MatrixSource,
    *,
    budget: int | None = None,
    max_error: float | None = None,
    seed: int = 0,
    work: float = EFFORTS["normal"].work,
    like: WeightSearch | None = None,
    progress: Progress | None = None,
) -> WeightSearch:
    """Search rings for one weight under a budget of parameters, or for an error that must be reached.

    Args:
        matrix: the weight.
        dense: W (I, G*H), in memory or in a file.
        budget: most parameters the ring may have.
        max_error: largest relative error; the ring with the fewest parameters that reaches it is chosen.
        seed: of the noise in starts.
        work: multiply-adds after which no new ring is tried.
        like: what was found for another weight of the same sizes; only its best rings are tried again.
        progress: called with (what, fraction of the work).

    Returns:
        The Pareto front, the chosen ring, and how the truncated SVD does within the same budget.

    Raises:
        UsageError: neither or both of `budget` and `max_error`, or a budget below the smallest ring.

    Example:
        >>> import torch
        >>> from trcompress.decomposition import InMemoryMatrix
        >>> matrix = Matrix.input_to_hidden("weight_ih_l0", "gru", 12, 8)
        >>> found = search_weight(matrix, InMemoryMatrix(torch.ones(24, 12)), budget=40, work=1e8)
        >>> found.chosen.error < 1e-6
        True
    """
    if (budget is None) == (max_error is None):
        raise UsageError("the planner takes one goal: a number of parameters, or a largest error")
    trials = Trials(matrix, dense, seed, work, progress or (lambda *_: None))
    search = explore if like is None else partial(_try_again, like)
    if budget is not None:
        search(trials, budget, 0.95)
        return _result(trials, budget, chosen=None)
    return _reach(trials, max_error, search)  # type: ignore[arg-type]


def _try_again(like: WeightSearch, trials: Trials, budget: int, until: float) -> None:
    rings = sorted((row for row in like.rows if not row.is_svd), key=lambda row: row.error)
    try_again(trials, [row.rule for row in rings], budget, until)


def _reach(trials: Trials, max_error: float, search: Callable[[Trials, int, float], None]) -> WeightSearch:
    """Lower the budget step by step for as long as the error is still reached."""
    matrix = trials.matrix
    rank = 1
    while trials.svd(rank).error > max_error and rank < min(matrix.columns, matrix.rows):
        rank += 1
    chosen = trials.svd(rank)
    if chosen.parameters > matrix.parameters:
        raise UsageError(
            f"{matrix.key}: no ring below the dense size reaches an error of {max_error:g}: the SVD that does "
            f"keeps {chosen.parameters:,} of {matrix.parameters:,} values; allow a larger error"
        )
    for step in range(8):
        budget = int(chosen.parameters * 0.85)
        search(trials, budget, (step + 1) / 8)
        reached = [trial for trial in trials.found.values() if trial.error <= max_error]
        smallest = min(reached, key=lambda trial: (trial.parameters, trial.error))
        if smallest.parameters > budget or not trials.left():
            chosen = smallest
            break
        chosen = smallest
    return _result(trials, chosen.parameters, chosen)


def _result(trials: Trials, budget: int, chosen: Trial | None) -> WeightSearch:
    within = [trial for trial in trials.found.values() if trial.parameters <= budget]
    if not within:
        matrix = trials.matrix
        raise UsageError(
            f"{matrix.key}: no ring of {matrix.describe()} fits into {budget:,} parameters; allow more"
        )
    chosen = chosen or min(within, key=lambda trial: (trial.error, trial.parameters))
    svds = [trial for trial in within if len(trial.weight.structure.in_modes) == 1 and trial.cores is None]
    best = min(svds, key=lambda trial: trial.error, default=chosen)
    front = _pareto([(trial, operations_per_step(trial.weight)) for trial in within], keep=(chosen, best))
    rows = {trial.rule: _row(trials, trial, operations) for trial, operations in front}
    return WeightSearch(
        matrix=trials.matrix,
        rows=tuple(rows.values()),
        chosen=rows[chosen.rule],
        cores=None if chosen.cores is None else tuple(chosen.cores),
        tried=len(trials.found),
        svd_error=best.error if svds else 1.0,
    )


def _pareto(trials: list[tuple[Trial, int]], keep: tuple[Trial, ...], most: int = 12) -> list[tuple[Trial, int]]:
    """Trials that no other beats in parameters, error and operations together, and always those to keep."""

    def beaten(one: tuple[Trial, int]) -> bool:
        mine = (one[0].parameters, one[0].error, one[1])
        others = ((trial.parameters, trial.error, operations) for trial, operations in trials)
        return any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in others)

    kept = [one for one in trials if any(one[0] is other for other in keep)]
    rest = [one for one in trials if one not in kept and not beaten(one)]
    rest.sort(key=lambda one: one[0].error)
    front = [*kept, *rest[: max(0, most - len(kept))]]
    return sorted(front, key=lambda one: (-one[0].parameters, one[0].error))


def _row(trials: Trials, trial: Trial, operations: int) -> PlanRow:
    source = trials.source(trial.weight)
    ring = trial.weight.structure
    is_svd = len(ring.in_modes) == len(ring.out_modes) == 1
    bound = trial.error if is_svd else min(trial.error, lower_bound(source, ring, work=1e9).value)  # type: ignore[arg-type]
    return PlanRow(trial.weight, trial.rule, trial.error, bound, operations, is_svd)
