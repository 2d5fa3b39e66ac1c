"""One weight's evaluation: the form chosen for the case at hand, its matrices, and the inputs through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trcompress.errors import UsageError, nearest
from trcompress.formats import TensorRing
from trcompress.layers.evaluation.cache import MatrixCache
from trcompress.layers.evaluation.cost import Use, choose, estimates
from trcompress.layers.evaluation.form import Form, Sizes
from trcompress.layers.evaluation.paired import paired_product
from trcompress.layers.evaluation.project import project
from trcompress.model.plan import WeightPlan

STRATEGIES = ("auto", "ring", "merged", "dense")
"""auto: the cheapest by the cost model. ring: from the cores at each call, nothing else kept in memory.
merged: with the input cores merged. dense: with the weight materialised."""


DENSE = Form("dense")

NOMINAL_ROWS = 128
"""Rows assumed where the real number is not known: a graph traced once serves all batches."""


class Evaluator:
    """Evaluates one weight from its cores.

    Args:
        plan: the weight and its structure.
    """

    def __init__(self, plan: WeightPlan) -> None:
        self._plan = plan
        self._cache = MatrixCache(plan)
        self._chosen: dict[tuple[str, Use, int], Form] = {}
        self._fixed = self._choose(Use(NOMINAL_ROWS, training=True), "auto")
        self.last: Form | None = None
        self.clear, self.kept, self.filled = self._cache.clear, self._cache.kept, self._cache.filled

    def form(self, use: Use, strategy: str = "auto") -> Form:
        """Return how the weight is evaluated in this use.

        Args:
            use: rows, training, device.
            strategy: one of STRATEGIES.
        """
        key = (strategy, use, torch.get_num_threads())
        found = self._chosen.get(key)
        if found is None:
            found = self._chosen[key] = self._choose(use, strategy)
        self.last = found
        return found

    def fixed_form(self, strategy: str = "auto") -> Form:
        """Return a form that no size of the input changes, for compiled and exported graphs."""
        return self._fixed if strategy in ("auto", "ring") else self._choose(Use(NOMINAL_ROWS), strategy)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the matrices kept beside the cores."""
        return self._cache.kept_bytes

    def width(self, form: Form) -> int:
        """Values a step that `enter` produces."""
        if isinstance(self._plan.structure, TensorRing):
            return Sizes.of(self._plan, form.split).width
        return self._plan.matrix.rows

    def dense(self, cores: Sequence[Any], keep: bool = True) -> Tensor:
        """Return the weight (G*H, I); with `keep`, remembered until the cores change."""
        return self._cache.get(DENSE, cores, keep)[0]

    def enter(self, x: Tensor, cores: Sequence[Any], form: Form, keep: bool = True) -> tuple[Tensor, Tensor | None]:
        """Take inputs through the form.

        Args:
            x: (..., I).
            cores: the parameters.
            form: not the dense one.
            keep: remember the matrices until the cores change.

        Returns:
            (z (..., width), V (G*H, columns)) with x @ W.T == z @ V[:, offset : offset + width].T;
            V is None where it is the identity.
        """
        if not isinstance(self._plan.structure, TensorRing):
            return paired_product(self._plan, cores, x), None
        S, V, *Q = self._cache.get(form, cores, keep)
        return project(x, S, *Q), V

    def _choose(self, use: Use, strategy: str) -> Form:
        if strategy == "auto":
            return choose(self._plan, use)
        if strategy == "ring":
            priced = [one for one in estimates(self._plan, replace(use, training=True)) if one.form.kind != "dense"]
            return min(priced, key=lambda one: one.seconds).form
        if strategy == "merged" and not isinstance(self._plan.structure, TensorRing):
            return Form("ring")
        return Form(strategy)


def check_strategy(strategy: str) -> str:
    """Return a known strategy.

    Raises:
        UsageError: it is none of STRATEGIES.
    """
    if strategy not in STRATEGIES:
        raise UsageError(
            f"strategy must be one of {', '.join(STRATEGIES)}: got {strategy!r}{nearest(strategy, STRATEGIES)}"
        )
    return strategy
