"""The options of a search for a plan, shared by `plan` and `decompose`."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from trcompress.cli.task_options import data_option, head_option, read_data_options
from trcompress.errors import UsageError

if TYPE_CHECKING:
    from trcompress.checkpoint import Checkpoint
    from trcompress.search import NetworkSearch

GOALS = ("target_ratio", "max_error", "max_params")

_OPTIONS = (
    click.option(
        "--target-ratio",
        type=float,
        metavar="X",
        help="Eq. 7 of every weight, as in 25; with --calibrate, of all together.",
    ),
    click.option("--max-error", type=float, metavar="E", help="Largest relative error of a weight, as in 0.05."),
    click.option("--max-params", type=int, metavar="N", help="Most input-to-hidden parameters in all."),
    click.option(
        "--time-budget",
        type=float,
        metavar="S",
        help="Seconds to search for, measuring included [default: 60, 30 with --calibrate].",
    ),
)

SECONDS, SECONDS_CALIBRATED = 60.0, 30.0
SEARCHING = 0.4
"""Share of the time that goes into the search where its rows are measured at the outputs afterwards."""


_CALIBRATION = (
    click.option("--calibrate", metavar="DATA", help="Choose by what the network does on these inputs."),
    data_option,
    head_option,
    click.option("--readout", type=click.Choice(["final", "every"]), help="Outputs that count."),
)


def calibration_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--calibrate`, `--data-option`, `--head` and `--readout`."""
    for option in reversed(_CALIBRATION):
        command = option(command)
    return command


def calibration_data(given: dict[str, Any]) -> dict[str, Any]:
    """Collect what calibration needs; empty without `--calibrate`.

    Raises:
        UsageError: options of the data without the data.
    """
    from trcompress.data.load import kind_of

    if not given["calibrate"]:
        if given["data_options"]:
            raise UsageError("--data-option goes with --calibrate DATA: name the inputs to calibrate on")
        return {}
    options = read_data_options(given["data_options"])
    if kind_of(given["calibrate"]) != "array":
        options["allow_code"] = True  # the user typed package.module:factory
    named = {"head": given["head"], "readout": given["readout"], "data_options": options}
    return {"data": given["calibrate"], **named}


def goal_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--target-ratio`, `--max-error`, `--max-params` and `--time-budget`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def search(checkpoint: Checkpoint, given: dict[str, Any], layer: str = "*") -> NetworkSearch:
    """Search as the options ask, with progress on stderr; with calibration data, choose by the outputs."""
    from trcompress.cli.console import progress_bar
    from trcompress.search import rank_by_outputs, search_network

    data = calibration_data(given)
    seconds = given["time_budget"]
    if seconds is None:
        seconds = SECONDS_CALIBRATED if data else SECONDS
    end = monotonic() + seconds
    with progress_bar("plan") as update:
        found = search_network(
            checkpoint,
            **{goal: given[goal] for goal in GOALS},
            layer=layer,
            seed=given["seed"],
            time_budget_s=seconds * (SEARCHING if data else 1),
            progress=update,
        )
        if not data:
            return found
        return rank_by_outputs(
            checkpoint,
            found,
            **data,
            budget=_whole_budget(found, given),
            keep_choice=given["max_error"] is not None,
            seed=given["seed"],
            time_budget_s=max(0.0, end - monotonic()),
            progress=update,
        )


def _whole_budget(found: NetworkSearch, given: dict[str, Any]) -> int | None:
    """Parameters that all weights may have together; None where the goal is an error."""
    if given["target_ratio"]:
        return int(sum(one.matrix.parameters for one in found.weights) / given["target_ratio"])
    return given["max_params"]
