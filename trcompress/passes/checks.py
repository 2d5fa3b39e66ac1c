"""Checks of what `compress_` is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from trcompress.errors import UsageError
from trcompress.model.plan import Plan
from trcompress.search.network_search import NetworkSearch
from trcompress.util.arguments import check_batches, check_model, check_numbers, refuse_unused

RING_GOALS = ("target_ratio", "max_error", "max_params")
SEARCHED = ("layers", "effort", "per_weight")
"""What shapes the search under a goal for the rings."""
RINGS_ALONE = (*SEARCHED, "refine", "init", "device")
FILE_ALONE = ("passes", "storage", "matrices", "units", "rank", "packed", "trained")
"""What shapes a whole file."""
OF_DATA = ("forward", "outputs")
OF_TRAINING = ("teacher", "settings", "epochs", "batch_size", "lr", "display")
OF_WRITING = ("overwrite", "sidecar", "finetune")
NEEDS = {"units": ("units",), "rings": ("rank", "matrices"), "rounding": ("storage",)}
"""Options by the pass that they shape."""


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


def check_whole_options(given: Collection[str]) -> None:
    """Refuse what a goal for the whole file has no use for, before any work.

    Args:
        given: names of the arguments that were given.

    Raises:
        UsageError: all of it is named.
    """
    if named := [f"`{name}`" for name in RING_GOALS if name in given]:
        raise UsageError(
            f"{', '.join(named)} cannot go with `target_size` and `target_ratio_model`, which set the size of the "
            "whole file: give one budget"
        )
    refuse_unused(
        given,
        RINGS_ALONE,
        "with `target_size` or `target_ratio_model`",
        "leave it out, or give a goal for the rings, as `target_ratio=8`",
    )


def check_ring_options(given: Collection[str], plan: object) -> None:
    """Refuse what a plan, or a goal for the rings, has no use for, before any work.

    Args:
        given: names of the arguments that were given.
        plan: the plan, if one is given.

    Raises:
        UsageError: all of it is named.
    """
    refuse_unused(
        given,
        FILE_ALONE,
        "without `target_size` or `target_ratio_model`",
        "leave it out, or give a budget for the whole file",
    )
    if plan is not None:
        refuse_unused(
            given, SEARCHED, "beside a plan", "it says which rings there are; give a goal instead to search"
        )
    if "calibrate" not in given:
        refuse_without_data(given)
    elif "init" in given:
        raise UsageError("`calibrate` chooses among TR-ALS candidates: leave out `init`")


def refuse_without_data(given: Collection[str], of_data: Collection[str] = OF_DATA) -> None:
    """Refuse what tells how a network is run, where it is not.

    Args:
        given: names of the arguments that were given, `calibrate` not among them.
        of_data: arguments that are of no use then.

    Raises:
        UsageError: all of it is named.
    """
    refuse_unused(given, of_data, "without `calibrate`", "give the batches to run the network on")


def check_passes(given: Collection[str], passes: Collection[str]) -> None:
    """Refuse what shapes a pass that is not allowed.

    Args:
        given: names of the arguments that were given.
        passes: what may be done to the network.

    Raises:
        UsageError: all of it is named.
    """
    for name, options in NEEDS.items():
        if name not in passes:
            refuse_unused(given, options, f"with `passes={','.join(passes)}`", f"allow {name} there")


def check_file_options(given: Mapping[str, Any]) -> None:
    """Refuse what a call of `trcompress.compress` has no use for, before any work.

    Args:
        given: the arguments that were given, by name.

    Raises:
        UsageError: all of it is named.
    """
    check_passes(given, given.get("passes", NEEDS))
    if "finetune" not in given:
        refuse_unused(given, OF_TRAINING, "without `finetune`", "name data with labels to train on")
    if "out" not in given:
        refuse_unused(given, OF_WRITING, "without `out`", "name the file to write")
    wiring = given.get("wiring")
    if wiring is not None and wiring.model and wiring.head and "settings" not in given:
        raise UsageError(
            "`head` would not be used with `model`: it builds the network, head and all; leave one of them out"
        )
