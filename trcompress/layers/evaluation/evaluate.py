"""One weight's evaluation: the form chosen for the case at hand, its matrices, and the inputs through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from trcompress.errors import UsageError, nearest
from trcompress.layers.evaluation.cost import Use, estimates, fastest_form
from trcompress.layers.evaluation.form import Form, Sizes
from trcompress.layers.evaluation.kept import KeptMatrices, can_be_kept
from trcompress.layers.evaluation.matrices import matrices
from trcompress.layers.evaluation.project import project
from trcompress.layers.evaluation.tracing import is_tracing
from trcompress.model.weight_plan import WeightPlan

STRATEGIES = ("auto", "ring", "merged", "dense")
"""auto: the cheapest by the cost model. ring: from the cores at each call, nothing else kept in memory.
merged: with the input cores merged. dense: with the weight materialised."""


DENSE = Form("dense")

NOMINAL_ROWS = 128
"""Rows assumed where the real number is not known: a graph traced once serves all batches."""


class Evaluator:
    """Evaluates one weight from its cores, which are read anew at each call.

    Without gradients matrices are kept beside a copy of the core values they came from; see `KeptMatrices`.

    Args:
        plan: the weight and its structure.
    """

    def __init__(self, plan: WeightPlan) -> None:
        self._plan = plan
        self._kept = KeptMatrices()
        self._chosen: dict[tuple[str, Use, int], Form] = {}
        self._fixed = self._choose(Use(NOMINAL_ROWS, training=True), "auto")
        self.last: Form | None = None
        self.clear = self._kept.clear

    def form(self, use: Use, strategy: str = "auto") -> Form:
        """Return how the weight is evaluated in this use.

        Args:
            use: rows, training, device.
            strategy: one of STRATEGIES.
        """
        if is_tracing():
            return self._fixed_form(strategy)
        key = (strategy, use, torch.get_num_threads())
        found = self._chosen.get(key)
        if found is None:
            found = self._chosen[key] = self._choose(use, strategy)
        self.last = found
        return found

    @property
    def kept_bytes(self) -> int:
        """Bytes of what is kept beside the cores."""
        return self._kept.nbytes

    def width(self, form: Form) -> int:
        """Values a step that `project` produces."""
        if self._plan.structure.bottleneck is not None:
            return Sizes.of(self._plan, form.split).width
        return self._plan.matrix.rows

    def dense(self, cores: Sequence[Tensor], keep: bool = True) -> Tensor:
        """Return the weight (G*H, I)."""
        return self._matrices(DENSE, cores, keep)[0]

    def project(
        self, x: Tensor, cores: Sequence[Tensor], form: Form, keep: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Take inputs through the form.

        Args:
            x: (..., I).
            cores: the parameters.
            form: not the dense one.
            keep: whether matrices may be kept, in a call without gradients.

        Returns:
            (z (..., width), V (G*H, columns)) with x @ W.T == z @ V[:, offset : offset + width].T;
            V is None where it is the identity.
        """
        structure = self._plan.structure
        if structure.bottleneck is None:
            return self._plan.apply(cores, x), None
        S, V, *P = self._matrices(form, cores, keep)
        return project(x, S, *P, bond=structure.ranks[len(structure.in_modes)]), V

    def _matrices(self, form: Form, cores: Sequence[Tensor], keep: bool) -> tuple[Tensor, ...]:
        if torch._C._is_any_autocast_enabled():  # merge in the cores' own type: errors of a dozen products add up
            with torch.autocast(cores[0].device.type, enabled=False):
                return self._computed(form, cores, keep)
        return self._computed(form, cores, keep)

    def _computed(self, form: Form, cores: Sequence[Tensor], keep: bool) -> tuple[Tensor, ...]:
        if keep and not torch.is_grad_enabled() and not is_tracing() and can_be_kept(cores):
            return self._kept.get(form, cores, partial(matrices, self._plan, form))
        return matrices(self._plan, form, cores)

    def _fixed_form(self, strategy: str) -> Form:
        """Return a form that no size of the input changes, for compiled and exported graphs."""
        return self._fixed if strategy in ("auto", "ring") else self._choose(Use(NOMINAL_ROWS), strategy)

    def _choose(self, use: Use, strategy: str) -> Form:
        if strategy == "auto":
            return fastest_form(self._plan, use)
        if strategy == "ring":
            priced = [one for one in estimates(self._plan, replace(use, training=True)) if one.form.kind != "dense"]
            return min(priced, key=lambda one: one.seconds).form
        if strategy == "merged" and self._plan.structure.bottleneck is None:
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
