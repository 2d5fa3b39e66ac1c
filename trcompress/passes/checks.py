"""Checks of what `compress_` is given."""

from __future__ import annotations

from collections.abc import Mapping

from trcompress.errors import UsageError
from trcompress.model.plan import Plan
from trcompress.search.network_search import NetworkSearch
from trcompress.util.arguments import check_batches, check_model, check_numbers


def check_given(model: object, plan: object, calibrate: object, **numbers: object) -> None:
    """Refuse arguments of another kind, before anything slow.

    Raises:
        UsageError: the message names the argument.
    """
    check_model(model)
    check_batches("calibrate", calibrate)
    check_numbers(dict.fromkeys(numbers, 0), **numbers)
    if plan is not None and not isinstance(plan, (Plan, NetworkSearch)):
        raise UsageError(f'a plan must be made by Plan.of("8x8:8x4", ranks) or search_plan: got {plan!r:.80}')


def refuse_rings(given: Mapping[str, object]) -> None:
    """Refuse goals of the rings beside one for the whole file.

    Raises:
        UsageError: one is given.
    """
    if named := [f"`{name}`" for name, value in given.items() if value is not None]:
        raise UsageError(
            f"{', '.join(named)} cannot go with `target_size` and `target_ratio_model`, which set the size of the "
            "whole file: give one budget"
        )
