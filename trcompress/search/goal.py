"""What a plan must reach: a number of parameters for all weights together or each, or an error of each."""

from __future__ import annotations

from dataclasses import dataclass

from trcompress.errors import UsageError
from trcompress.util.arguments import check_numbers


@dataclass(frozen=True)
class Goal:
    """One goal for a search.

    Args:
        budget: most parameters of all weights together; None where the goal is an error.
        max_error: largest relative error of every weight; None where the goal is a budget.
        per_weight: every weight gets its share of the budget in proportion to its size.
    """

    budget: int | None
    max_error: float | None
    per_weight: bool = False

    @classmethod
    def of(
        cls,
        target_ratio: float | None,
        max_error: float | None,
        max_params: int | None,
        parameters: int,
        per_weight: bool = False,
    ) -> Goal:
        """Read the goal that is given, for weights of so many parameters.

        Raises:
            UsageError: not exactly one goal, or one that no plan can mean.

        Example:
            >>> Goal.of(8, None, None, 1000).budget
            125
        """
        if sum(goal is not None for goal in (target_ratio, max_error, max_params)) != 1:
            raise UsageError("plan takes exactly one of `target_ratio`, `max_error` and `max_params`")
        check_numbers({}, target_ratio=target_ratio, max_error=max_error, max_params=max_params)
        if target_ratio is not None and target_ratio <= 1:
            raise UsageError(f"`target_ratio` must be above 1: got {target_ratio:g}")
        if max_error is not None and not 0 < max_error < 1:
            raise UsageError(f"`max_error` is relative, between 0 and 1: got {max_error:g}")
        if max_params is not None and max_params < 1:
            raise UsageError(f"`max_params` must be 1 or more: got {max_params}")
        if max_params is not None and max_params >= parameters:
            raise UsageError(
                f"`max_params` must be below the {parameters:,} parameters of the weights themselves: got "
                f"{max_params:,}; nothing has to be compressed for that"
            )
        budget = int(parameters / target_ratio) if target_ratio is not None else max_params
        return cls(budget, max_error, per_weight)
