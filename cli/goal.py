"""The options of a search for a plan, shared by `plan` and `decompose`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from trcompress.checkpoint import Checkpoint
    from trcompress.search import NetworkSearch

GOALS = ("target_ratio", "max_error", "max_params")

_OPTIONS = (
    click.option("--target-ratio", type=float, metavar="X", help="Eq. 7 that every weight must reach, as in 25."),
    click.option("--max-error", type=float, metavar="E", help="Largest relative error of a weight, as in 0.05."),
    click.option("--max-params", type=int, metavar="N", help="Most input-to-hidden parameters in all."),
    click.option(
        "--time-budget", type=float, default=60.0, show_default=True, metavar="S", help="Seconds to search for."
    ),
)


def goal_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--target-ratio`, `--max-error`, `--max-params` and `--time-budget`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def search(checkpoint: Checkpoint, given: dict[str, Any], layer: str = "*") -> NetworkSearch:
    """Search as the options ask, with progress on stderr."""
    from trcompress.cli.console import progress_bar
    from trcompress.search import search_network

    with progress_bar("plan") as update:
        return search_network(
            checkpoint,
            **{goal: given[goal] for goal in GOALS},
            layer=layer,
            seed=given["seed"],
            time_budget_s=given["time_budget"],
            progress=update,
        )
