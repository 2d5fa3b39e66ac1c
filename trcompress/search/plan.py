"""`trcompress.plan`: shapes and ranks for a checkpoint, under a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from trcompress.calibration import LiveNetwork
from trcompress.calibration.user_network import live_network
from trcompress.checkpoint import Checkpoint, read_checkpoint
from trcompress.decomposition.weight import distinct_matrices, weight_source
from trcompress.errors import UsageError
from trcompress.model.matrix import Matrix, glob_matches
from trcompress.search.effort import effort_of
from trcompress.search.goal import Goal
from trcompress.search.network_search import NetworkSearch
from trcompress.search.weights import search_weights
from trcompress.util.arguments import changed_from_default, refuse_unused
from trcompress.util.progress import Progress
from trcompress.util.threads import same_threads

OF_DATA = ("model", "data_options", "head", "compare", "outputs")
"""How a network is run on data."""


def plan(
    checkpoint: str | Path | Checkpoint,
    *,
    target_ratio: float | None = None,
    max_error: float | None = None,
    max_params: int | None = None,
    layer: str = "*",
    matrices: Sequence[str] = ("ih",),
    calibrate: str | Path | None = None,
    data_options: Mapping[str, Any] | None = None,
    head: str | None = None,
    compare: str | None = None,
    outputs: str | None = None,
    model: str | None = None,
    kind: str | None = None,
    skip_objects: bool = False,
    seed: int = 0,
    effort: str = "normal",
    per_weight: bool = False,
    progress: Progress | None = None,
) -> NetworkSearch:
    """Search shapes and ranks for the recurrent weights of a checkpoint, under exactly one goal.

    Args:
        checkpoint: the dense checkpoint, or its path.
        target_ratio: Eq. 7 to reach, of all weights together.
        max_error: largest relative error of a weight.
        max_params: most input-to-hidden parameters of all weights together.
        layer: glob over the weights to plan for.
        matrices: which matrices of the layers may be rings: "ih", "hh", and "hr" where there are projections.
        calibrate: inputs of the network; rows are then measured at its outputs.
        data_options: how to read `calibrate`.
        head: key of the linear layer over the last stack; found by its shape where omitted.
        compare: what is compared: the "final" state of a sequence, or "every" step.
        outputs: what they are: "scores" of classes, "values", or "states" to compare hidden states instead.
        model: `package.module:factory` of your own network, to run on the data; this runs your code.
        kind: how to read recurrent layers, see `read_checkpoint`.
        skip_objects: leave out Python objects beside the weights instead of refusing the file.
        seed: of everything random.
        effort: "low", "normal" or "high": how much work goes into the search.
        per_weight: every weight reaches the goal by itself.
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
    if calibrate is None:
        given = changed_from_default(plan, locals())
        refuse_unused(given, OF_DATA, "without `calibrate`", "name the inputs to run the network on")
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint, kind=kind, skip_objects=skip_objects)
    goals: dict[str, Any] = {"target_ratio": target_ratio, "max_error": max_error, "max_params": max_params}
    check_search(matrices, calibrate, model, effort)
    options: dict[str, Any] = {
        "layer": layer,
        "roles": matrices,
        "effort": effort,
        "per_weight": per_weight,
        "seed": seed,
    }
    live = None
    data: dict[str, Any] = {"head": head, "compare": compare, "outputs": outputs, "data_options": data_options}
    with same_threads(prod(shape) for shape in checkpoint.shapes.values()):
        if calibrate is not None:
            live = live_network(checkpoint, calibrate, model=model, **data, seed=seed)
        return search_network(checkpoint, **goals, **options, live=live, progress=progress)


def search_network(
    checkpoint: Checkpoint,
    *,
    target_ratio: float | None = None,
    max_error: float | None = None,
    max_params: int | None = None,
    layer: str = "*",
    roles: Sequence[str] = ("ih",),
    seed: int = 0,
    effort: str = "normal",
    per_weight: bool = False,
    live: LiveNetwork | None = None,
    progress: Progress | None = None,
) -> NetworkSearch:
    """Search rings for the recurrent weights of a checkpoint.

    Args:
        checkpoint: the dense checkpoint.
        target_ratio: Eq. 7 to reach, of all weights together.
        max_error: largest relative error of every weight.
        max_params: most input-to-hidden parameters of all weights together.
        layer: glob over the weights to plan for.
        roles: of the matrices: "ih", "hh", "hr".
        seed: of the noise in starts.
        effort: a key of `EFFORTS`.
        per_weight: every weight reaches the ratio by itself.
        live: the network on calibration data: what counts is then the distance of its outputs.
        progress: called with (what, fraction done).

    Raises:
        UsageError: not exactly one goal, an unreachable one, or a glob that matches no weight.
    """
    every = distinct_matrices(checkpoint, roles).matrices
    matrices = planned([one for one in every if live is None or one.key in live.known(every)], layer)
    weights = [(matrix, weight_source(checkpoint, matrix)) for matrix in matrices]
    goal = Goal.of(target_ratio, max_error, max_params, sum(matrix.parameters for matrix in matrices), per_weight)
    found = search_weights(weights, goal, effort=effort, seed=seed, live=live, progress=progress)
    total = sum(prod(shape) for shape in checkpoint.shapes.values())
    return replace(found, path=checkpoint.path, model_parameters=total)


def check_search(matrices: Sequence[str], calibrate: object, model: object, effort: str) -> None:
    """Refuse what does not go together, before anything slow.

    Raises:
        UsageError: other matrices than "ih", which enter through states alone, and data; a network without data;
            an effort that there is not.
    """
    effort_of(effort)
    if model is not None and calibrate is None:
        raise UsageError("`model` goes with `calibrate`: name the inputs to run your network on")
    others = [one for one in matrices if one != "ih"]
    if others and calibrate is not None:
        raise UsageError(
            f"`calibrate` chooses cores of input weights alone: leave it out for `matrices={','.join(matrices)}`, "
            "or use `trcompress compress`, which fits low ranks of weight_hh on the states that the data visits"
        )


def planned(matrices: list[Matrix], layer: str) -> list[Matrix]:
    """Return the weights that a glob names.

    Raises:
        UsageError: it names none.
    """
    named = [matrix for matrix in matrices if glob_matches(layer, matrix)]
    if not named:
        listed = ", ".join(matrix.key for matrix in matrices)
        raise UsageError(f"`layer` must match a recurrent weight: {layer!r} matches none of: {listed}")
    return named
