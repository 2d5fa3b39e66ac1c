"""A second opinion on the planner's rows: what each does to the network's outputs on calibration data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from trcompress.calibration import Bench, CalibrationData
from trcompress.checkpoint import Checkpoint
from trcompress.progress import Progress, part_of
from trcompress.search.network_search import NetworkSearch
from trcompress.search.weight_search import PlanRow, WeightSearch
from trcompress.weights import decompose_weight, dense_weight

MOST_ROWS = 6
"""Rows of one weight that are measured at most: those with the smallest errors, the SVD always among them."""


def rank_by_outputs(
    checkpoint: Checkpoint,
    found: NetworkSearch,
    data: str | Path | CalibrationData,
    *,
    seed: int = 0,
    time_budget_s: float = 60.0,
    progress: Progress | None = None,
    **options: Any,
) -> NetworkSearch:
    """Choose among the planner's rows by the network's outputs instead of by the weights.

    Args:
        checkpoint: the dense network.
        found: what `search_network` found.
        data: inputs of the network; see `trcompress.calibration.read_calibration`.
        seed: of everything random.
        time_budget_s: no new row is measured after so many seconds; the first always is.
        progress: called with (what, fraction done).
        options: of `Bench.of`: `head`, `readout`, `data_options`.

    Returns:
        The same search; rows that were measured carry `difference`, and the least of them is chosen. A weight that
        the data does not feed keeps its choice.

    Raises:
        InputFileError: the data cannot be read, or does not fit the network.
    """
    bench = Bench.of(checkpoint, data, seed=seed, **options)
    deadline = monotonic() + time_budget_s
    weights = []
    for done, one in enumerate(found.weights):
        tell = part_of(progress, one.slot.name, done, len(found.weights))
        share = (deadline - monotonic()) / (len(found.weights) - done)
        weights.append(_ranked(bench, checkpoint, one, monotonic() + share, seed, tell))
    return replace(found, weights=tuple(weights))


def _ranked(
    bench: Bench, checkpoint: Checkpoint, one: WeightSearch, deadline: float, seed: int, tell: Progress | None
) -> WeightSearch:
    if bench.network.unit_of(one.slot.name) is None:
        return one
    dense = dense_weight(checkpoint, one.slot)
    measured: dict[int, PlanRow] = {}
    for done, row in enumerate(_worth_measuring(one)):
        if measured and monotonic() > deadline:
            break
        start = {"warm_start": one.cores} if row is one.chosen and one.cores else {}
        plain = decompose_weight(row.weight, dense, seed=seed, restarts=0, **start)
        choice = bench.choose(plain, dense)
        measured[id(row)] = replace(row, difference=choice.chosen.score)
        if tell:
            tell(f"{done + 1} rings measured at the outputs", (done + 1) / MOST_ROWS)
    rows = tuple(measured.get(id(row), row) for row in one.rows)
    best = min(measured.values(), key=lambda row: row.difference)  # type: ignore[arg-type, return-value]
    kept = one.cores if best.rule == one.chosen.rule else None
    return replace(one, rows=rows, chosen=best, cores=kept)


def _worth_measuring(one: WeightSearch) -> list[PlanRow]:
    """The rows with the smallest errors that use most of the budget, and the best SVD."""
    full = [row for row in one.rows if row.weight.parameters > 0.6 * one.chosen.weight.parameters]
    ranked = sorted(full, key=lambda row: row.error)
    svds = [row for row in ranked if row.is_svd][:1]
    others = [row for row in ranked if row not in svds]
    return [*others[: MOST_ROWS - len(svds)], *svds]
