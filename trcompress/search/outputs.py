"""The planner's rows measured by what each does to the network's outputs, after it was fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from trcompress.calibration import LiveNetwork
from trcompress.calibration.select import Candidate, choose_metric, joint_distance, least_gain
from trcompress.calibration.solve import contains
from trcompress.decomposition import MatrixSource
from trcompress.decomposition.weight import decompose_weight
from trcompress.formats import is_ring
from trcompress.search.weight_search import PlanRow, WeightSearch
from trcompress.util.progress import Progress

PROMISING = 0.9
"""Rings are measured where their weight error is at most this share of the truncated SVD's of the same count: the
SVD is solved exactly in every metric, a ring in none."""
SWEEPS = 100
"""ALS sweeps that a ring is followed for before it is measured."""


@dataclass(frozen=True)
class MeasuredRows:
    """A weight after measuring.

    Args:
        search: rows that were measured first, the least distance on top.
        svd: the candidate behind the truncated SVD of its share.
        best: the candidate behind the chosen row.
    """

    search: WeightSearch
    svd: Candidate | None
    best: Candidate


def measure_rows(
    live: LiveNetwork,
    found: WeightSearch,
    source: MatrixSource,
    rings: int,
    *,
    keep_choice: bool = False,
    progress: Progress | None = None,
) -> MeasuredRows:
    """Order the rows of one weight by the distance of the outputs, all other weights dense.

    Args:
        live: the network on its data.
        found: the rows.
        source: the weight's values.
        rings: how many rows beside truncated SVDs are measured, those of the least error.
        keep_choice: measure, but choose no other row: for goals that only the chosen row reaches.
        progress: called with (what, fraction done).
    """
    measured: dict[int, tuple[PlanRow, Candidate]] = {}
    order = [found.chosen] if keep_choice else _worth_measuring(found, rings)
    for done, row in enumerate(order):
        start = {"warm_start": found.cores} if row is found.chosen and found.cores else {}
        plain = decompose_weight(row.weight, source, seed=live.seed, starts=1, sweeps=SWEEPS, restarts=0, **start)
        best = choose_metric(live, [plain], source, quick=True).chosen
        measured[id(row)] = replace(row, difference=best.score), best
        if progress:
            progress(f"{done + 1} rings measured at the outputs", (done + 1) / len(order))
    known = [(_with_contained(row, one, measured), one) for row, one in measured.values()]
    rest = [row for row in found.rows if id(row) not in measured]
    rows = sorted((row for row, _ in known), key=lambda row: (row.difference, -row.weight.parameters))
    chosen = _chosen(rows, least_gain(live, found.matrix.key))
    if keep_choice:
        chosen = next(row for row in rows if row.rule == found.chosen.rule)
    candidate = next(one for row, one in known if row.rule == chosen.rule)
    svds = [(row, one) for row, one in known if row.is_svd]
    largest = max(svds, key=lambda pair: pair[0].weight.parameters)[1] if svds else None
    kept = found.cores if chosen.rule == found.chosen.rule else None
    return MeasuredRows(replace(found, rows=(*rows, *rest), chosen=chosen, cores=kept), largest, candidate)


def choose_rows(live: LiveNetwork, measured: Sequence[MeasuredRows]) -> list[WeightSearch]:
    """Keep rings that do better alone only where they do better together than the truncated SVDs."""
    rings = [one for one in measured if not one.search.chosen.is_svd]
    if not rings:
        return [one.search for one in measured]
    best = joint_distance(live, [one.best for one in measured], brief=True)
    svds = [one.best if one.svd is None else one.svd for one in measured]
    if joint_distance(live, svds, brief=True) >= best:
        return [one.search for one in measured]
    return [_with_svd(one) for one in measured]


def _with_svd(one: MeasuredRows) -> WeightSearch:
    if one.svd is None:
        return one.search
    row = next(row for row in one.search.rows if row.weight == one.svd.found.plan)
    return replace(one.search, chosen=row, cores=None)


def _worth_measuring(found: WeightSearch, rings: int) -> list[PlanRow]:
    """Truncated SVDs, and the rings that promise most."""
    svds = [row for row in found.rows if row.is_svd]
    others = [row for row in found.rows if not row.is_svd and row.error <= PROMISING * found.svd_error]
    others = sorted(others, key=lambda row: row.error)[:rings]
    return [*svds, *others] or [found.chosen]


def _with_contained(row: PlanRow, one: Candidate, measured: dict[int, tuple[PlanRow, Candidate]]) -> PlanRow:
    """A row is never worse than one that its ring contains: zeros in the other entries give the same matrix."""
    ring = row.weight.structure
    inside = [
        other.difference
        for other, _ in measured.values()
        if is_ring(ring) and is_ring(other.weight.structure) and contains(ring, other.weight.structure)
    ]
    return replace(row, difference=min(inf if one is None else one for one in [row.difference, *inside]))


def _chosen(rows: Sequence[PlanRow], least: float) -> PlanRow:
    """The best row; but to be chosen over the truncated SVD, a ring must do clearly better, as metrics must."""
    svd = next((row for row in rows if row.is_svd), None)
    if svd is None or rows[0].difference <= least * svd.difference:  # type: ignore[operator]
        return rows[0]
    return svd
