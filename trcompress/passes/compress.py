"""`compress_`: the recurrent layers of a live model become ring layers, in place."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor, nn

from trcompress.decomposition.weight import CompressedWeight, measured_error, tensor_source
from trcompress.errors import UsageError
from trcompress.layers import CoreWeight
from trcompress.layers.swaps import swap_
from trcompress.model.header import Step
from trcompress.model.plan import Plan
from trcompress.network.batches import Forward
from trcompress.passes.budgeted import Compared, budgeted, left_dense, search_plan
from trcompress.passes.checks import check_given, check_ring_options, check_whole_options
from trcompress.passes.compressed import Compressed, Replacement
from trcompress.passes.fit import fit_
from trcompress.passes.live import LiveWeights, find_weights, local_name
from trcompress.passes.ring_module import ring_module, tie_cores_
from trcompress.passes.whole import PASSES, STORED_AS, Whole
from trcompress.search.network_search import NetworkSearch
from trcompress.util.arguments import changed_from_default
from trcompress.util.progress import Progress
from trcompress.util.threads import same_threads
from trcompress.version import __version__


@overload
def compress_(
    model: nn.Module,
    plan: Plan | NetworkSearch | None = None,
    *,
    target_ratio: float | None = None,
    max_error: float | None = None,
    max_params: int | None = None,
    calibrate: Iterable[Any] | None = None,
    refine: int = 0,
    forward: Forward | None = None,
    outputs: Compared = None,
    layers: str = "*",
    effort: str = "normal",
    per_weight: bool = False,
    init: str = "tr-als",
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
) -> Compressed: ...


@overload
def compress_(
    model: nn.Module,
    *,
    target_size: int | str | None = None,
    target_ratio_model: float | None = None,
    calibrate: Iterable[Any],
    forward: Forward | None = None,
    outputs: Compared = None,
    passes: Sequence[str] = PASSES,
    storage: Sequence[str] = STORED_AS,
    matrices: Sequence[str] = ("ih",),
    units: int | None = None,
    rank: int | None = None,
    packed: bool = False,
    trained: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Whole: ...


def compress_(
    model: nn.Module,
    plan: Plan | NetworkSearch | None = None,
    *,
    target_ratio: float | None = None,
    max_error: float | None = None,
    max_params: int | None = None,
    target_size: int | str | None = None,
    target_ratio_model: float | None = None,
    calibrate: Iterable[Any] | None = None,
    refine: int = 0,
    forward: Forward | None = None,
    outputs: Compared = None,
    layers: str = "*",
    effort: str = "normal",
    per_weight: bool = False,
    passes: Sequence[str] = PASSES,
    storage: Sequence[str] = STORED_AS,
    matrices: Sequence[str] = ("ih",),
    units: int | None = None,
    rank: int | None = None,
    packed: bool = False,
    trained: bool = False,
    init: str = "tr-als",
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
) -> Compressed | Whole:
    """Swap the recurrent layers of a model for ring layers, in place.

    Replaced are modules that compute what torch.nn's LSTM, GRU, RNN and their cells do: those classes, and classes
    made from them that keep their forward. A class with a forward of its own is named in the result and left. A
    module registered twice is replaced everywhere, a weight under two names is compressed once and stays tied.

    Cores are new parameters. An optimizer made before does not know them: make it anew, or give it
    `result.parameters()`. All other parameters stay the objects they were; input biases may change their values
    where there is calibration data.

    Args:
        model: any module that holds recurrent layers, at any depth. Where the model itself is one it cannot be
            swapped in place: take `result.model`.
        plan: what to replace and how, see `Plan.of` and `search_plan`; or leave it out and give a goal.
        target_ratio: a goal: Eq. 7 to reach, of all weights together.
        max_error: a goal: largest relative error of each weight.
        max_params: a goal: most input-to-hidden parameters of all weights together.
        target_size: a goal for the whole file instead, every tensor of it: bytes, or "500KB". Nothing else is then
            kept as it is on principle: see `trcompress.passes.whole.whole_`. Needs `calibrate`.
        target_ratio_model: the same, as bytes of the whole model before over after.
        calibrate: batches as a DataLoader gives them, run through once; labels are never read. Cores, and ranks
            under a goal, are then chosen by how little the model's outputs move on batches held out.
        refine: gradient steps at most that then match outputs and hidden states of the dense model; they end when
            the distance on the held-out batches rises. Needs `calibrate`.
        forward: `forward(model, batch)`, where `model(*inputs)` does not fit.
        outputs: what is compared: "scores" of classes, "values", "states", or a function that selects from what the
            model gives; None: class scores where a softmax or a cross-entropy shows that they are, else values.
        layers: glob over the weights that a goal is for.
        effort: "low", "normal" or "high": how much work goes into the search of a goal.
        per_weight: every weight reaches the goal by itself.
        passes: for the whole file: which of "fold", "rings", "units", "rounding" are allowed.
        storage: for the whole file: which of "float16", "bfloat16", "int8", "int4" are allowed.
        matrices: for the whole file: which may be rings, "ih" and "hh".
        units: for the whole file: hidden units that stay in every layer with more; else several numbers are tried.
        rank: for the whole file: rank that these matrices get, where it saves values; else several are tried.
        packed: for the whole file: entropy-code it.
        trained: for the whole file: it will be trained afterwards, so that units may go first.
        init: how cores are found: "tr-als", "tr-svd" or "random".
        seed: of everything random: the same seed and inputs give the same cores.
        device: where to compute; None: where the weight is.
        progress: called with (what, fraction done).

    Returns:
        For a goal of the whole file a `Whole`: the ladder walked, the plan of each tensor, `save`, `model`. Else
        what was replaced, a sequence of (name, before, after, weights); printed, it is a table of errors and, with
        data, of the distance of the outputs. It has `save`, `report` and `parameters`.

    Raises:
        UsageError: the model has no recurrent weight that is dense still, the plan matches none, or not exactly one
            of a plan and a goal is given.
        ShapeError: a named weight does not fit its modes.
        InputFileError: a weight holds NaN or Inf, or its cores would; or the model cannot take the batches.

    Example:
        >>> import torch, trcompress
        >>> model = torch.nn.Sequential(torch.nn.LSTM(12, 8))
        >>> result = trcompress.compress_(model, trcompress.Plan.of("4x3:4x2", 2))
        >>> result[0].name, type(model[0]).__name__, round(result.compression_ratio, 1)
        ('0', 'TRLSTM', 3.8)
        >>> model = torch.nn.Sequential(torch.nn.LSTM(12, 8))
        >>> trcompress.compress_(model, target_ratio=2, effort="low").compression_ratio >= 2
        True
    """
    given = changed_from_default(compress_, locals())
    check_given(model, plan, calibrate, refine=refine, seed=seed)
    goals = {"target_ratio": target_ratio, "max_error": max_error, "max_params": max_params}
    if target_size is not None or target_ratio_model is not None:
        check_whole_options(given)
        goal: dict[str, Any] = {"target_size": target_size, "target_ratio_model": target_ratio_model, "plan": plan}
        whole: dict[str, Any] = {"passes": passes, "storage": storage, "matrices": matrices, "packed": packed}
        more: dict[str, Any] = {"forward": forward, "outputs": outputs, "trained": trained, "progress": progress}
        more |= {"units": units, "rank": rank}
        return fit_(model, calibrate, **goal, **whole, **more, seed=seed)
    check_ring_options(given, plan)
    if refine and calibrate is None and getattr(plan, "live", None) is None:
        raise UsageError("`refine` goes with `calibrate`: give batches to match the dense network on")
    live = find_weights(model)
    _require_some(live)
    data: dict[str, Any] = {"forward": forward, "outputs": outputs, "seed": seed, "progress": progress}
    batches = calibrate
    if plan is None:
        how: dict[str, Any] = {"layers": layers, "effort": effort, "per_weight": per_weight, "refine": refine}
        plan = search_plan(model, **goals, **how, **data, calibrate=batches)  # type: ignore[arg-type]
        batches = None  # the search keeps what it recorded; an iterator runs once
    elif named := [name for name in goals if name in given]:
        raise UsageError(f"a plan and `{named[0]}` both set the size of the rings: give one of them")
    rules = plan.plan if isinstance(plan, NetworkSearch) else plan
    resolved = rules.against(live.matrices)
    carried = plan if isinstance(plan, NetworkSearch) else resolved
    skipped = left_dense(plan, resolved)
    left = (*live.left, *skipped)
    with same_threads(one.numel() for one in model.parameters()):
        found = budgeted(model, carried, calibrate_on=batches, refine=refine, **data, init=init, device=device)
        _warn(live.left)
        if any(rule.layer is None for rule in rules.rules):  # otherwise the plan names what it is for
            _warn(skipped)
        _set_biases(model, found.biases)
        return replaced_(model, live, found.weights, left=left, seed=seed, notes=found.notes, facts=found.facts)


@torch.no_grad()
def _set_biases(model: nn.Module, biases: Mapping[str, Tensor]) -> None:
    for name, bias in biases.items():
        model.get_parameter(name).copy_(bias)


def replaced_(
    model: nn.Module,
    live: LiveWeights,
    found: Sequence[CompressedWeight],
    *,
    left: tuple[tuple[str, str], ...] = (),
    seed: int | None = None,
    notes: tuple[str, ...] = (),
    facts: Mapping[str, object] | None = None,
) -> Compressed:
    """Put ring layers with these cores into a model, in place; see `compress_`.

    Args:
        model: the dense model.
        live: what `find_weights` found in it.
        found: the cores of some of its weights, each distinct weight once.
        left: (name, reason) of what stays dense.
        seed: that they were found with, for the lineage.
        notes: what was decided, in words.
        facts: what calibration measured.
    """
    every = _under_each_name(live, found)
    replacements = []
    for name, module in live.modules.items():
        mine = {local_name(one.plan.matrix): one for one in every if one.plan.matrix.stack == name}
        if mine:
            ring = ring_module(module, mine)
            as_held = tuple(_as_held(one, module, ring) for one in mine.values())
            replacements.append(Replacement(name, module, ring, as_held))
    _tie(live, replacements)
    changed = swap_(model, {one.name: one.after for one in replacements})
    settings = {"calibration": dict(facts)} if facts else {}
    step = Step(verb="compress_", command="", seed=seed, version=__version__, settings=settings)
    tied = {key: tuple(one.key for one in others) for key, others in live.tied.items()}
    return Compressed(changed, tuple(replacements), left, tied, dict(facts or {}), notes, step)


def _require_some(live: LiveWeights) -> None:
    """Refuse a model that leaves nothing to compress, with the reason."""
    if live.matrices:
        return
    reasons = "; ".join(f"{name}: {reason}" for name, reason in live.left)
    if live.rings:
        raise UsageError(
            f"nothing to compress: {', '.join(live.rings)} {'are' if len(live.rings) > 1 else 'is'} compressed "
            "already; build the dense model again to compress it in another way"
            + (f" ({reasons})" if reasons else "")
        )
    if reasons:
        raise UsageError(f"nothing to compress: no recurrent layer may be replaced: {reasons}")
    raise UsageError("nothing to compress: the model holds no nn.LSTM, nn.GRU, nn.RNN or cell of one")


def _warn(left: Sequence[tuple[str, str]]) -> None:
    for name, reason in left:
        warnings.warn(f"{name} stays dense: {reason}", UserWarning, stacklevel=3)


def _under_each_name(live: LiveWeights, found: Sequence[CompressedWeight]) -> list[CompressedWeight]:
    """The same cores for every direction and module that a weight is tied to."""
    every = list(found)
    for one in found:
        others = live.tied.get(one.plan.name, ())
        every += [replace(one, plan=replace(one.plan, matrix=matrix)) for matrix in others]
    return every


def _as_held(one: CompressedWeight, module: nn.Module, ring: nn.Module) -> CompressedWeight:
    """Measure the error again on the cores as the layer holds them, in its dtype."""
    name = local_name(one.plan.matrix)
    weight = ring.get_submodule(name)
    if not isinstance(weight, CoreWeight):
        return one
    cores = [core.detach() for core in weight.core]
    return replace(one, error=measured_error(one.plan, tensor_source(getattr(module, name), one.plan.name), cores))


def _tie(live: LiveWeights, replacements: Sequence[Replacement]) -> None:
    rings = {
        one.plan.name: replacement.after.get_submodule(local_name(one.plan.matrix))
        for replacement in replacements
        for one in replacement.weights
    }
    for key, others in live.tied.items():
        weights = [rings[name] for name in (key, *(one.key for one in others)) if name in rings]
        tied = [one for one in weights if isinstance(one, CoreWeight)]
        if len(tied) > 1:
            tie_cores_(tied)
