"""A second opinion on the planner's rows: what each does to the network's outputs on calibration data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

from trcompress.calibration import Bench, CalibrationData
from trcompress.calibration.select import Candidate, least_gain
from trcompress.calibration.share import Shared, share_ranks, two_mode
from trcompress.checkpoint import Checkpoint
from trcompress.decomposition import MatrixSource
from trcompress.decomposition.weight import decompose_weight, weight_source
from trcompress.layers.evaluation import operations_per_step
from trcompress.model.plan import Rule
from trcompress.search.network_search import NetworkSearch
from trcompress.search.weight_search import PlanRow, WeightSearch
from trcompress.util.progress import Progress, part_of

SWEEPS = 40
"""ALS sweeps for a ring that the search did not follow to the end."""


@dataclass(frozen=True)
class _Ranked:
    """A weight after measuring: its rows, and the candidate behind the best one."""

    search: WeightSearch
    best: Candidate | None


def rank_by_outputs(
    checkpoint: Checkpoint,
    found: NetworkSearch,
    data: str | Path | CalibrationData,
    *,
    budget: int | None = None,
    keep_choice: bool = False,
    seed: int = 0,
    time_budget_s: float = 60.0,
    progress: Progress | None = None,
    **options: Any,
) -> NetworkSearch:
    """Choose among the planner's rows by the network's outputs instead of by the weights.

    With a budget, ranks are first shared out between the weights by what each costs at the outputs. Then rows are
    measured for as long as there is time: truncated SVDs first, other rings in the order of their errors, of every
    weight at least one. The shared ranks are taken if they bring the outputs closer than the best rows together.

    Args:
        checkpoint: the dense network.
        found: what `search_network` found.
        data: inputs of the network; see `trcompress.calibration.read_calibration`.
        budget: most input-to-hidden parameters of all weights together; None leaves every weight its own.
        keep_choice: measure, but choose no other row: for goals that only the chosen rows reach.
        seed: of everything random.
        time_budget_s: of everything here.
        progress: called with (what, fraction done).
        options: of `Bench.of`: `head`, `readout`, `data_options`.

    Returns:
        The same search; rows that were measured come first, the least difference on top. It is chosen if it is a
        truncated SVD, or clearly better than that. A weight that the data does not feed keeps its rows and choice.

    Raises:
        InputFileError: the data cannot be read, or does not fit the network.
    """
    deadline = monotonic() + time_budget_s
    bench = Bench.of(checkpoint, data, seed=seed, **options)
    fed = [one for one in found.weights if bench.network.unit_of(one.matrix.key) is not None]
    shared = None
    if budget is not None and len(fed) > 1 and not keep_choice:
        unfed = sum(one.chosen.weight.parameters for one in found.weights if one not in fed)
        weights = [(one.matrix, weight_source(checkpoint, one.matrix)) for one in fed]
        shared = share_ranks(bench, weights, budget - unfed, deadline=deadline)
    ranked = []
    for done, one in enumerate(fed):
        tell = part_of(progress, one.matrix.key, done, len(fed))
        until = monotonic() + (deadline - monotonic()) / (len(fed) - done)
        ranked.append(_ranked(bench, checkpoint, one, until, seed, keep_choice, tell))
    notes: tuple[str, ...] = ()
    if shared is not None:
        ranked, notes = _divided(bench, checkpoint, ranked, shared)
    after = {one.search.matrix.key: one.search for one in ranked}
    return replace(
        found,
        weights=tuple(after.get(one.matrix.key, one) for one in found.weights),
        notes=(*found.notes, *notes),
    )


def _ranked(
    bench: Bench,
    checkpoint: Checkpoint,
    one: WeightSearch,
    deadline: float,
    seed: int,
    keep_choice: bool,
    tell: Progress | None,
) -> _Ranked:
    """Measure rows of one weight, and order them by what they do at the outputs."""
    dense = weight_source(checkpoint, one.matrix)
    measured: dict[int, PlanRow] = {}
    found: dict[int, Candidate] = {}
    order = sorted(one.rows, key=lambda row: (not row.is_svd, row.error))
    for done, row in enumerate(order):
        if measured and monotonic() > deadline:
            break
        start = {"warm_start": one.cores} if row is one.chosen and one.cores else {}
        plain = decompose_weight(row.weight, dense, seed=seed, starts=1, sweeps=SWEEPS, restarts=0, **start)
        best = bench.choose(plain, dense, quick=True).chosen
        measured[id(row)], found[id(row)] = replace(row, difference=best.score), best
        if tell:
            tell(f"{done + 1} rings measured at the outputs", (done + 1) / len(order))
    rows = _by_difference([measured.get(id(row), row) for row in one.rows])
    if keep_choice:
        chosen = measured.get(id(one.chosen), one.chosen)
        return _Ranked(replace(one, rows=rows, chosen=chosen), found.get(id(one.chosen)))
    chosen = _best_row(rows[: len(measured)], least_gain(bench.network, bench.network.unit(one.matrix.key)))
    kept = one.cores if chosen.rule == one.chosen.rule else None
    best = next(found[key] for key, row in measured.items() if row is chosen)
    return _Ranked(replace(one, rows=rows, chosen=chosen, cores=kept), best)


def _best_row(rows: Sequence[PlanRow], least: float) -> PlanRow:
    """The best row; but to be chosen over the truncated SVD, a ring must do clearly better, as metrics must."""
    svd = next((row for row in rows if row.is_svd), None)
    if svd is None or rows[0].difference <= least * svd.difference:  # type: ignore[operator]
        return rows[0]
    return svd


def _divided(
    bench: Bench, checkpoint: Checkpoint, ranked: Sequence[_Ranked], shared: Shared
) -> tuple[list[_Ranked], tuple[str, ...]]:
    """Take the shared ranks, if they do better than the best row of each weight."""
    single = bench.joint([one.best for one in ranked if one.best is not None], bench.brief_exam)
    if shared.difference >= single:
        return list(ranked), (
            f"ranks shared evenly: no other division brings the outputs closer than {single:.4g}",
        )
    divided = ", ".join(f"{name} {rank}" for name, rank in shared.ranks.items())
    note = (
        f"ranks shared out by what each weight costs at the outputs: {divided}; "
        f"difference {shared.difference:.4g}, shared evenly {single:.4g}"
    )
    found = []
    for one in ranked:
        dense = weight_source(checkpoint, one.search.matrix)
        found.append(replace(one, search=_with_rank(bench, one.search, dense, shared.ranks)))
    return found, (note,)


def _with_rank(bench: Bench, one: WeightSearch, dense: MatrixSource, ranks: Mapping[str, int]) -> WeightSearch:
    """A weight whose chosen row is the two-mode ring of its share."""
    rule = Rule((one.matrix.columns,), (one.matrix.rows,), (1, ranks[one.matrix.key]))
    weight = two_mode(one.matrix, ranks[one.matrix.key])
    plain = decompose_weight(weight, dense, init="tr-svd")
    score = bench.choose(plain, dense, quick=True).chosen.score
    cost = operations_per_step(weight)
    chosen = PlanRow(weight, rule, plain.error, plain.error, cost, is_svd=True, difference=score)
    rows = [chosen, *(row for row in one.rows if row.rule != rule)]
    return replace(one, rows=_by_difference(rows), chosen=chosen, cores=None)


def _by_difference(rows: Sequence[PlanRow]) -> tuple[PlanRow, ...]:
    """Rows that were measured, the best first, then the others."""
    return tuple(sorted(rows, key=lambda row: inf if row.difference is None else row.difference))
