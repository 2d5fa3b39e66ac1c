"""`trcompress.plan`: shapes and ranks for a checkpoint, under a budget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from trcompress.checkpoint import Checkpoint, read_checkpoint
from trcompress.search.network_search import NetworkSearch, search_network
from trcompress.search.outputs import rank_by_outputs
from trcompress.util.progress import Progress

SECONDS, SECONDS_CALIBRATED = 60.0, 30.0
SEARCHING = 0.4
"""Share of the time that goes into the search where its rows are measured at the outputs afterwards."""


def plan(
    checkpoint: str | Path | Checkpoint,
    *,
    target_ratio: float | None = None,
    max_error: float | None = None,
    max_params: int | None = None,
    layer: str = "*",
    calibrate: str | Path | None = None,
    data_options: Mapping[str, Any] | None = None,
    head: str | None = None,
    readout: str | None = None,
    kind: str | None = None,
    skip_objects: bool = False,
    seed: int = 0,
    time_budget: float | None = None,
    progress: Progress | None = None,
) -> NetworkSearch:
    """Search shapes and ranks for the recurrent weights of a checkpoint, under exactly one goal.

    Args:
        checkpoint: the dense checkpoint, or its path.
        target_ratio: Eq. 7 to reach; with `calibrate`, of all weights together.
        max_error: largest relative error of a weight.
        max_params: most input-to-hidden parameters of all weights together.
        layer: glob over the weights to plan for.
        calibrate: inputs of the network; rows are then measured at its outputs.
        data_options: how to read `calibrate`.
        head: key of the linear layer over the last stack; found by its shape where omitted.
        readout: outputs that count, "final" or "every".
        kind: how to read recurrent layers, see `read_checkpoint`.
        skip_objects: leave out Python objects beside the weights instead of refusing the file.
        seed: of everything random.
        time_budget: seconds to search for, measuring included.
        progress: called with (what, fraction done).

    Returns:
        The rows of every weight; `plan` of it is what `trcompress.decompose` takes.

    Raises:
        InputFileError: the checkpoint or the data cannot be read, or do not fit each other.
        UsageError: not exactly one goal, one that cannot be reached, or a glob that matches no weight.

    Example:
        >>> plan("model.pt", target_ratio=8).plan.rules  # doctest: +SKIP
        (Rule(in_modes=(256,), out_modes=(768,), ranks=(1, 24), layer='rnn.weight_ih_l0', ...),)
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint, kind=kind, skip_objects=skip_objects)
    if time_budget is None:
        time_budget = SECONDS if calibrate is None else SECONDS_CALIBRATED
    end = monotonic() + time_budget
    found = search_network(
        checkpoint,
        target_ratio=target_ratio,
        max_error=max_error,
        max_params=max_params,
        layer=layer,
        seed=seed,
        time_budget_s=time_budget * (1 if calibrate is None else SEARCHING),
        progress=progress,
    )
    if calibrate is None:
        return found
    return rank_by_outputs(
        checkpoint,
        found,
        calibrate,
        head=head,
        readout=readout,
        data_options=data_options,
        budget=_whole_budget(found, target_ratio, max_params),
        keep_choice=max_error is not None,
        seed=seed,
        time_budget_s=max(0.0, end - monotonic()),
        progress=progress,
    )


def _whole_budget(found: NetworkSearch, target_ratio: float | None, max_params: int | None) -> int | None:
    """Parameters that all weights may have together; None where the goal is an error."""
    if target_ratio:
        return int(sum(one.matrix.parameters for one in found.weights) / target_ratio)
    return max_params
