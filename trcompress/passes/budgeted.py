"""The pipeline of `compress_` and `search_plan` on a live model: record, share one budget, choose cores, refine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from trcompress.calibration import LiveNetwork, calibrate
from trcompress.decomposition import MatrixSource
from trcompress.decomposition.weight import CompressedWeight, decompose_weight, tensor_source
from trcompress.errors import UsageError
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Plan, ResolvedPlan
from trcompress.model.weight_plan import WeightPlan
from trcompress.network.batches import Forward
from trcompress.network.outputs import Outputs, Select
from trcompress.passes.checks import OF_DATA, refuse_without_data
from trcompress.passes.live import find_weights
from trcompress.search.effort import effort_of
from trcompress.search.goal import Goal
from trcompress.search.network_search import NetworkSearch
from trcompress.search.plan import planned
from trcompress.search.weights import search_weights
from trcompress.util.arguments import changed_from_default, check_batches, check_model, check_numbers
from trcompress.util.progress import Progress
from trcompress.util.threads import same_threads

Compared = str | Outputs | Select | None
"""What of the outputs is compared; see `trcompress.network.outputs.find_outputs`."""


@dataclass(frozen=True)
class Budgeted:
    """Compressed weights for a live model, not yet put in place.

    Args:
        weights: cores, error, bound and the candidates of each.
        biases: corrected input biases in float64, by their names in the model.
        facts: what was compared and reached, plain values: `measure`, `difference_plain`, `difference_chosen`,
            `difference_refined`, ...; empty without data.
        notes: what was decided, in words.
        dense: weights that were planned for and stay as they are.
    """

    weights: tuple[CompressedWeight, ...]
    biases: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    dense: tuple[Matrix, ...] = ()


def search_plan(
    model: nn.Module,
    *,
    target_ratio: float | None = None,
    max_error: float | None = None,
    max_params: int | None = None,
    calibrate: Iterable[Any] | None = None,
    forward: Forward | None = None,
    outputs: Compared = None,
    layers: str = "*",
    effort: str = "normal",
    per_weight: bool = False,
    refine: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> NetworkSearch:
    """Search shapes and ranks for the recurrent layers of a live model, under one budget for all together.

    Args:
        model: any module that holds nn.LSTM, nn.GRU, nn.RNN or their cells, at any depth; it is left as it is.
        target_ratio: Eq. 7 to reach, of all weights together.
        max_error: largest relative error of each weight, instead.
        max_params: most input-to-hidden parameters of all weights together, instead.
        calibrate: batches, as a DataLoader gives them; labels are never read. What counts is then the distance of
            the model's outputs.
        forward: `forward(model, batch)`, where `model(*inputs)` does not fit.
        outputs: what is compared: "scores" (of classes), "values", "states", or a function that selects from what
            the model gives; None: class scores where a softmax or cross-entropy shows that they are, else values.
        layers: glob over weights, layers or stacks.
        effort: "low", "normal" or "high": how much work goes into the search.
        per_weight: every weight reaches the goal by itself.
        refine: gradient steps that will follow: refused here, before the search, where there are no gradients.
        seed: of everything random.
        progress: called with (what, fraction done).

    Returns:
        The rows of every weight; `plan` of it is what `compress_` takes.

    Raises:
        UsageError: not exactly one goal, one that cannot be reached, or nothing to compress.
        InputFileError: the model cannot take the batches, or holds NaN or Inf.

    Example:
        >>> import torch
        >>> found = search_plan(nn.GRU(12, 8), target_ratio=3, effort="low")
        >>> found.weights[0].chosen.weight.compression_ratio >= 3
        True
    """
    check_model(model)
    check_batches("calibrate", calibrate)
    check_numbers({"seed": 0, "refine": 0}, seed=seed, refine=refine)
    if calibrate is None:
        refuse_without_data(changed_from_default(search_plan, locals()), (*OF_DATA, "refine"))
    weights = live_weights(model, layers)
    goal = Goal.of(target_ratio, max_error, max_params, sum(matrix.parameters for matrix, _ in weights), per_weight)
    effort_of(effort)
    live = None
    with same_threads(one.numel() for one in model.parameters()):
        if calibrate is not None:
            live = LiveNetwork.of(model, calibrate, forward=forward, outputs=outputs, seed=seed)
            if refine:
                live.require_gradients()
        found = search_weights(weights, goal, effort=effort, seed=seed, live=live, progress=progress)
    return replace(found, model_parameters=sum(one.numel() for one in model.parameters()))


def budgeted(
    model: nn.Module,
    plan: Plan | ResolvedPlan | NetworkSearch,
    *,
    calibrate_on: Iterable[Any] | None = None,
    refine: int = 0,
    forward: Forward | None = None,
    outputs: Compared = None,
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Budgeted:
    """Find the cores of a plan for a live model, with or without data; the model is left as it is.

    Args:
        model: the dense model.
        plan: which weights and which rings, given or found by `search_plan`.
        calibrate_on: batches; those of the search by default.
        refine: gradient steps that match outputs and hidden states of the dense model, at most.
        forward: `forward(model, batch)`, where `model(*inputs)` does not fit.
        outputs: what is compared; see `search_plan`.
        seed: of everything random.
        progress: called with (what, fraction done).
        settings: passed on to `trcompress.decomposition.decompose`.

    Raises:
        UsageError: the plan matches no weight; or `refine` without data.
    """
    found = plan if isinstance(plan, NetworkSearch) else None
    rules = plan.plan if isinstance(plan, NetworkSearch) else plan
    live = found.live if found else None
    if calibrate_on is not None:
        live = LiveNetwork.of(model, calibrate_on, forward=forward, outputs=outputs, seed=seed)
    if live is None and refine:
        raise UsageError("`refine` goes with `calibrate`: give batches to match the dense network on")
    weights = live_weights(model)
    sources = {matrix.key: source for matrix, source in weights}
    plans = rules.resolve([matrix for matrix, _ in weights])
    starts = {one.matrix.key: one.cores for one in found.weights} if found else {}
    notes, dense = (found.notes, found.dense) if found else ((), ())
    if live is None:
        plain = _plain(plans, sources, starts, seed, progress, settings)
        return Budgeted(plain, {}, {}, notes, dense)
    chosen = calibrate(
        live, plans, sources, refine_steps=refine, warm_starts=starts, progress=progress, notes=notes, **settings
    )
    return Budgeted(chosen.weights, chosen.biases, chosen.facts, tuple(chosen.facts["notes"]), dense)


def left_dense(plan: Plan | NetworkSearch, resolved: ResolvedPlan) -> tuple[tuple[str, str], ...]:
    """Name the weights that a plan leaves dense, with the reason: (key, reason)."""
    within = {matrix.key for matrix in plan.dense} if isinstance(plan, NetworkSearch) else set()
    return tuple(
        (matrix.key, f"the goal is met with its {matrix.parameters:,} values" if matrix.key in within else reason)
        for matrix, reason in resolved.skipped
    )


def live_weights(model: nn.Module, layers: str = "*") -> list[tuple[Matrix, MatrixSource]]:
    """The input-to-hidden weights of a live model that a glob names, each distinct one once, with their values.

    Raises:
        UsageError: there is none.
        InputFileError: a weight holds NaN or Inf.
    """
    found = find_weights(model)
    if not found.matrices:
        reasons = "".join(f"; {name}: {reason}" for name, reason in found.left)
        raise UsageError(
            f"nothing to compress: the model holds no dense recurrent layer that may be replaced{reasons}"
        )
    named = planned(list(found.matrices), layers)
    return [(matrix, tensor_source(model.get_parameter(matrix.key), matrix.key)) for matrix in named]


def _plain(
    plans: Sequence[WeightPlan],
    sources: Mapping[str, MatrixSource],
    starts: Mapping[str, Any],
    seed: int,
    progress: Progress | None,
    settings: Mapping[str, Any],
) -> tuple[CompressedWeight, ...]:
    found = []
    for one in plans:
        start = {"warm_start": starts[one.name]} if starts.get(one.name) else {}
        found.append(decompose_weight(one, sources[one.name], seed=seed, progress=progress, **start, **settings))
    return tuple(found)
