"""A plan for a whole checkpoint: one search per recurrent weight, under one goal."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from trcompress.checkpoint import Checkpoint
from trcompress.decomposition.weight import distinct_matrices, weight_source
from trcompress.errors import UsageError
from trcompress.model.matrix import Matrix, glob_matches
from trcompress.model.plan import Plan
from trcompress.search.weight_search import PlanRow, WeightSearch, search_weight
from trcompress.util.progress import Progress, part_of


@dataclass(frozen=True)
class NetworkSearch:
    """What the planner found for a checkpoint.

    Args:
        path: the checkpoint.
        model_parameters: of the whole model.
        weights: one search per recurrent weight.
        notes: what was decided for all of them together, in words.
    """

    path: Path
    model_parameters: int
    weights: tuple[WeightSearch, ...]
    notes: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        """The chosen rings as a plan that names every weight."""
        return Plan(tuple(one.chosen.named_rule for one in self.weights))

    def model_ratio(self, row: PlanRow) -> float:
        """Parameters of the whole model, before over after, if only this row is carried out."""
        matrix = row.weight.matrix
        return self.model_parameters / (self.model_parameters - matrix.parameters + row.weight.parameters)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "checkpoint": str(self.path),
            "model_parameters": self.model_parameters,
            "notes": list(self.notes),
            "weights": [self._weight_dict(one) for one in self.weights],
        }

    def _weight_dict(self, one: WeightSearch) -> dict[str, Any]:
        return {
            "weight": one.matrix.key,
            "sizes": _sizes(one.matrix),
            "rings_tried": one.tried,
            "svd_error": one.svd_error,
            "rows": [self._row_dict(row, row is one.chosen) for row in one.rows],
        }

    def _row_dict(self, row: PlanRow, chosen: bool) -> dict[str, Any]:
        return {
            "shape": row.rule.shape,
            "ranks": list(row.weight.structure.ranks),
            "parameters": row.weight.parameters,
            "compression_ratio": row.weight.compression_ratio,
            "model_ratio": self.model_ratio(row),
            "error": row.error,
            "bound": row.bound,
            "operations_per_step": row.operations,
            "truncated_svd": row.is_svd,
            "difference_at_outputs": row.difference,
            "chosen": chosen,
        }


def search_network(
    checkpoint: Checkpoint,
    *,
    target_ratio: float | None = None,
    max_error: float | None = None,
    max_params: int | None = None,
    layer: str = "*",
    seed: int = 0,
    time_budget_s: float = 60.0,
    progress: Progress | None = None,
) -> NetworkSearch:
    """Search rings for the recurrent weights of a checkpoint.

    Args:
        checkpoint: the dense checkpoint.
        target_ratio: Eq. 7 that every weight must reach at least.
        max_error: largest relative error of every weight.
        max_params: most input-to-hidden parameters of all weights together, shared in proportion to their sizes.
        layer: glob over the weights to plan for.
        seed: of the noise in starts.
        time_budget_s: of the whole search, shared alike between the weights.
        progress: called with (what, fraction of the time).

    Raises:
        UsageError: not exactly one goal, an unreachable one, or a glob that matches no weight.
    """
    if sum(goal is not None for goal in (target_ratio, max_error, max_params)) != 1:
        raise UsageError("plan takes exactly one of `target_ratio`, `max_error` and `max_params`")
    if target_ratio is not None and target_ratio <= 1:
        raise UsageError(f"`target_ratio` must be above 1: got {target_ratio:g}")
    if max_error is not None and not 0 < max_error < 1:
        raise UsageError(f"`max_error` is relative, between 0 and 1: got {max_error:g}")
    matrices = list(distinct_matrices(checkpoint).matrices)
    named = [matrix for matrix in matrices if glob_matches(layer, matrix)]
    if not named:
        raise UsageError(f"`layer` must match a recurrent weight: {layer!r} matches none of: {_names(matrices)}")
    ratio = target_ratio or (sum(matrix.parameters for matrix in named) / max_params if max_params else None)
    found = []
    for done, matrix in enumerate(named):
        found.append(
            search_weight(
                matrix,
                weight_source(checkpoint, matrix),
                budget=int(matrix.parameters / ratio) if ratio else None,
                max_error=max_error,
                seed=seed,
                time_budget_s=time_budget_s / len(named),
                progress=part_of(progress, matrix.key, done, len(named)),
            )
        )
    total = sum(prod(shape) for shape in checkpoint.shapes.values())
    return NetworkSearch(checkpoint.path, total, tuple(found))


def _sizes(matrix: Matrix) -> dict[str, Any]:
    """A matrix as version 1 of the JSON spells it."""
    return {
        "name": matrix.key,
        "kind": matrix.kind,
        "input_size": matrix.columns,
        "gates": matrix.gates,
        "hidden_size": matrix.gate_rows,
        "stack": matrix.stack,
        "layer": matrix.index,
        "reverse": matrix.reverse,
    }


def _names(matrices: list[Matrix]) -> str:
    return ", ".join(matrix.key for matrix in matrices)
