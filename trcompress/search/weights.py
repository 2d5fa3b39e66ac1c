"""A plan for many weights under one goal: ranks shared first, rings searched within each weight's share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trcompress.calibration import LiveNetwork
from trcompress.calibration.share import Ranks, Shared, cost, share_ranks
from trcompress.decomposition import MatrixSource
from trcompress.model.matrix import Matrix
from trcompress.search.allocation import allocate, equal_ranks, first_layer_warnings
from trcompress.search.effort import Effort, effort_of
from trcompress.search.goal import Goal
from trcompress.search.network_search import NetworkSearch
from trcompress.search.outputs import MeasuredRows, choose_rows, measure_rows
from trcompress.search.weight_search import WeightSearch, search_weight
from trcompress.util.progress import Progress, part_of

Weights = Sequence[tuple[Matrix, MatrixSource]]


@dataclass(frozen=True)
class _Division:
    """The budget of each weight; None where its goal is an error. Weights that are not in it stay dense."""

    budgets: Mapping[str, int | None]
    dense: tuple[Matrix, ...] = ()
    notes: tuple[str, ...] = ()


def search_weights(
    weights: Weights,
    goal: Goal,
    *,
    effort: str = "normal",
    seed: int = 0,
    live: LiveNetwork | None = None,
    progress: Progress | None = None,
) -> NetworkSearch:
    """Search rings for weights under one goal.

    Args:
        weights: those to plan for, with their values.
        goal: what must be reached.
        effort: a key of `EFFORTS`.
        seed: of the noise in starts.
        live: the network on calibration data: what counts is then the distance of its outputs.
        progress: called with (what, fraction done).

    Raises:
        UsageError: the goal cannot be reached.
    """
    work = effort_of(effort)
    parts = 1 if live is None else 2
    division = _divide(weights, goal, live, work, part_of(progress, "one budget", 0, parts))
    kept = [(matrix, source) for matrix, source in weights if matrix.key in division.budgets]
    tasks = {
        matrix.key: (matrix.rows, matrix.columns, matrix.gates, division.budgets[matrix.key]) for matrix, _ in kept
    }
    first, again = work.shares(len(kept), len(set(tasks.values())), live is not None)
    found, searched = [], dict[tuple[int | None, ...], WeightSearch]()
    for done, (matrix, source) in enumerate(kept):
        tell = part_of(progress, matrix.key, (parts - 1) * len(kept) + done, parts * len(kept))
        like = searched.get(tasks[matrix.key]) if again < first else None
        one = search_weight(
            matrix,
            source,
            budget=division.budgets[matrix.key],
            max_error=goal.max_error,
            seed=seed,
            work=again if like else first,
            like=like,
            progress=tell,
        )
        searched.setdefault(tasks[matrix.key], one)
        found.append(_measured(live, one, source, work, goal, tell))
    searches = _chosen_jointly(live, found)
    measure = "" if live is None else live.recording.outputs.measure
    return NetworkSearch(Path(), 0, searches, division.notes, division.dense, measure, live)


def _measured(
    live: LiveNetwork | None,
    one: WeightSearch,
    source: MatrixSource,
    effort: Effort,
    goal: Goal,
    progress: Progress | None,
) -> WeightSearch | MeasuredRows:
    if live is None or not live.feeds(one.matrix.key):
        return one
    keep = goal.max_error is not None
    return measure_rows(live, one, source, effort.rings, keep_choice=keep, progress=progress)


def _chosen_jointly(
    live: LiveNetwork | None, found: Sequence[WeightSearch | MeasuredRows]
) -> tuple[WeightSearch, ...]:
    measured = [one for one in found if isinstance(one, MeasuredRows)]
    if live is None or not measured:
        return tuple(one for one in found if isinstance(one, WeightSearch))
    after = {one.matrix.key: one for one in choose_rows(live, measured)}
    return tuple(one if isinstance(one, WeightSearch) else after[one.search.matrix.key] for one in found)


def _divide(
    weights: Weights, goal: Goal, live: LiveNetwork | None, effort: Effort, progress: Progress | None
) -> _Division:
    """Give every weight its budget."""
    matrices = [matrix for matrix, _ in weights]
    if goal.budget is None:
        return _Division(dict.fromkeys((matrix.key for matrix in matrices), None))
    if goal.per_weight:
        ratio = sum(matrix.parameters for matrix in matrices) / goal.budget
        return _Division({matrix.key: int(matrix.parameters / ratio) for matrix in matrices})
    ranks: Ranks = allocate(weights, goal.budget)
    notes: tuple[str, ...]
    if live is None:
        notes = tuple(first_layer_warnings(matrices, ranks))
    else:
        ranks, notes = _by_outputs(weights, ranks, goal.budget, live, effort, progress)
    dense = tuple(matrix for matrix in matrices if ranks[matrix.key] is None)
    if dense:
        notes += (
            f"dense: {', '.join(one.key for one in dense)} (two factors would be no smaller, or cost too much)",
        )
    return _Division({one.key: cost(one, ranks[one.key]) for one in matrices if one not in dense}, dense, notes)


def _by_outputs(
    weights: Weights,
    rule: Ranks,
    budget: int,
    live: LiveNetwork,
    effort: Effort,
    progress: Progress | None,
) -> tuple[Ranks, tuple[str, ...]]:
    """Share ranks by the outputs between the weights that the data feeds; the others keep those of the rule."""
    fed = [(matrix, source) for matrix, source in weights if live.feeds(matrix.key)]
    if not fed:
        return rule, ("ranks are not shared by the outputs: the data feeds none of these weights",)
    left = budget - sum(cost(matrix, rule[matrix.key]) for matrix, _ in weights if not live.feeds(matrix.key))
    starts: dict[str, Ranks] = {
        "equal ranks": equal_ranks([matrix for matrix, _ in fed], left),
        "least sum of errors": {matrix.key: rule[matrix.key] for matrix, _ in fed},
    }
    shared = share_ranks(live, fed, left, starts, passes=effort.passes, progress=progress)
    return {**rule, **shared.ranks}, (_statement(shared, live),)


def _statement(shared: Shared, live: LiveNetwork) -> str:
    ranks = ", ".join(f"{key} {'dense' if rank is None else rank}" for key, rank in shared.ranks.items())
    tried = ", ".join(f"{name} {distance:.4g}" for name, distance in shared.tried.items())
    return (
        f"ranks shared out by what each weight costs at the outputs: {ranks}; "
        f"{live.recording.outputs.measure} {shared.distance:.4g} ({tried})"
    )
