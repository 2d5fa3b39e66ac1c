"""What a search found for all weights of a network under one goal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trcompress.calibration import LiveNetwork
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Plan
from trcompress.search.weight_search import PlanRow, WeightSearch
from trcompress.util.text import aligned


@dataclass(frozen=True, repr=False)
class NetworkSearch:
    """What the planner found for a checkpoint.

    Args:
        path: the checkpoint.
        model_parameters: of the whole model.
        weights: one search per recurrent weight.
        notes: what was decided for all of them together, in words.
        dense: weights that stay as they are.
        measure: what "outputs" means in the rows, where data decided; empty without data.
        live: the network on that data, to go on with.
    """

    path: Path
    model_parameters: int
    weights: tuple[WeightSearch, ...]
    notes: tuple[str, ...] = ()
    dense: tuple[Matrix, ...] = ()
    measure: str = ""
    live: LiveNetwork | None = None

    def __repr__(self) -> str:
        head = ("chosen for", "shape", "ranks R0..", "values", "Eq. 7", "error", "bound", "outputs")
        lines = [f"{len(self.weights)} of {len(self.weights) + len(self.dense)} weights planned"]
        lines += aligned([head, *(_cells(one) for one in self.weights)])
        lines += [f"  outputs: {self.measure}"] if self.measure else []
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

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
            "dense": [matrix.key for matrix in self.dense],
            "measure": self.measure,
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


def _cells(one: WeightSearch) -> tuple[str, ...]:
    """What was chosen for one weight, as its row is printed."""
    row = one.chosen
    weight = row.weight
    return (
        one.matrix.key,
        row.rule.shape,
        ",".join(map(str, weight.structure.ranks[:-1])),
        f"{weight.parameters:,}",
        f"{weight.compression_ratio:,.2f}x",
        f"{row.error:.4f}",
        f"{row.bound:.4f}",
        "" if row.difference is None else f"{row.difference:.4g}",
    )


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
