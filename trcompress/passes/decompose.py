"""`trcompress.decompose`: a dense checkpoint in, an artifact out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trcompress.artifact.file import Artifact
from trcompress.artifact.write import write_artifact
from trcompress.calibration import LiveNetwork
from trcompress.calibration.user_network import live_network
from trcompress.checkpoint import Checkpoint, read_checkpoint
from trcompress.decomposition.weight import distinct_matrices
from trcompress.errors import UsageError
from trcompress.model.plan import Plan, ResolvedPlan
from trcompress.passes.assemble import check_errors, decompose_checkpoint, ranks_for_error
from trcompress.passes.calibrated import decompose_calibrated
from trcompress.search.plan import check_search, search_network
from trcompress.util.files import check_output
from trcompress.util.progress import Progress
from trcompress.util.threads import same_threads


@dataclass(frozen=True)
class PlanChoice:
    """A plan, and what a search for it left behind.

    Args:
        plan: which weights, and their rings, resolved for this checkpoint.
        warm_starts: cores to begin from, by weight.
        notes: what was decided, in words.
        dense: keys of the weights that a search leaves as they are; its notes say why.
        live: the network on its calibration data, where the search ran it.
    """

    plan: ResolvedPlan
    warm_starts: Mapping[str, Sequence[Tensor] | None] | None = None
    notes: tuple[str, ...] = ()
    dense: frozenset[str] = frozenset()
    live: LiveNetwork | None = None


def decompose(
    checkpoint: str | Path | Checkpoint,
    plan: Plan | PlanChoice | None = None,
    out: str | Path | None = None,
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
    refine: int = 0,
    effort: str = "normal",
    per_weight: bool = False,
    init: str = "tr-als",
    dtype: torch.dtype | None = None,
    device: str | None = None,
    kind: str | None = None,
    skip_objects: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> Artifact:
    """Turn the recurrent layers of a dense checkpoint into tensor rings.

    Args:
        checkpoint: the dense checkpoint, or its path; `read_checkpoint` tells how to leave tensors out.
        plan: what to replace and how; or leave it out and give a goal.
        out: where to write the artifact; None keeps it in memory.
        target_ratio: a goal, see `trcompress.plan`; with a plan, only `max_error` goes, and sets its ranks.
        max_error: a goal, see `trcompress.plan`.
        max_params: a goal, see `trcompress.plan`.
        layer: glob over the weights that a goal is for.
        matrices: which matrices of the layers may be rings: "ih", "hh", and "hr" where there are projections.
        calibrate: inputs of the network, to choose cores by what its outputs do.
        data_options: how to read `calibrate`.
        head: key of the linear layer over the last stack; found by its shape where omitted.
        compare: what is compared: the "final" state of a sequence, or "every" step.
        outputs: what they are: "scores" of classes, "values", or "states" to compare hidden states instead.
        model: `package.module:factory` of your own network, to run on `calibrate`; this runs your code.
        effort: "low", "normal" or "high": how much work goes into the search of a goal.
        per_weight: every weight reaches the goal by itself.
        refine: gradient steps that then match the dense network; needs `calibrate`.
        init: how cores are found: "tr-als", "tr-svd" or "random".
        dtype: of the cores; the weight's own by default.
        device: where to compute; None: where the weight is.
        kind: how to read recurrent layers, see `read_checkpoint`.
        skip_objects: leave out Python objects beside the weights instead of refusing the file.
        seed: of everything random.
        overwrite: replace `out`.
        command: how the user asked for this, kept in the lineage.
        progress: called with (what, fraction done).

    Returns:
        The artifact: cores in place of the weights, every other tensor as it was.

    Raises:
        InputFileError: the file cannot be read, a layer is not the one that its shapes suggest, a tensor cannot be
            kept, or one holds NaN or Inf.
        UsageError: no plan and no goal, or both; or the plan matches no weight.
        ShapeError: a weight does not fit its modes.
        OutputFileError: `out` exists or cannot be written.

    Example:
        >>> decompose("model.pt", Plan.of("8x8:4x4", 5), "model.tr.safetensors")  # doctest: +SKIP
        Artifact(...)
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint, kind=kind, skip_objects=skip_objects)
    checkpoint.check_compressible(own_network=model is not None)
    if out is not None:
        out = check_output(out, overwrite=overwrite, keep=(*checkpoint.files, calibrate))
    check_data(calibrate, refine, init)
    data: dict[str, Any] = {"data_options": data_options, "head": head, "compare": compare, "outputs": outputs}
    data["model"] = model
    if not isinstance(plan, PlanChoice):
        goals: dict[str, Any] = {"target_ratio": target_ratio, "max_error": max_error, "max_params": max_params}
        plan = plan_choice(
            checkpoint,
            plan,
            **goals,
            layer=layer,
            matrices=matrices,
            calibrate=calibrate,
            refine=refine,
            **data,
            effort=effort,
            per_weight=per_weight,
            seed=seed,
            progress=progress,
        )
    given: dict[str, Any] = {"init": init, "seed": seed, "dtype": dtype, "device": device, "command": command}
    given |= {"warm_starts": plan.warm_starts, "progress": progress}
    with same_threads(prod(shape) for shape in checkpoint.shapes.values()):
        if calibrate is None:
            artifact = decompose_checkpoint(checkpoint, plan.plan, **given)
        else:
            given |= {"refine_steps": refine, "plan_notes": plan.notes, "live": plan.live}
            artifact = decompose_calibrated(checkpoint, plan.plan, calibrate, **given, **data)
    if out is not None:
        artifact.path = write_artifact(out, artifact, overwrite=overwrite, check=partial(check_errors, checkpoint))
    return artifact


def plan_choice(
    checkpoint: Checkpoint,
    plan: Plan | None = None,
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
    refine: int = 0,
    seed: int = 0,
    outputs: str | None = None,
    model: str | None = None,
    effort: str = "normal",
    per_weight: bool = False,
    progress: Progress | None = None,
) -> PlanChoice:
    """Settle on a plan: the one given, its ranks set by `max_error`, or one searched for under a goal.

    Raises:
        UsageError: neither a plan nor a goal, or a plan with a goal that it cannot take.
    """
    check_search(matrices, calibrate, model, effort)
    goals: dict[str, Any] = {"target_ratio": target_ratio, "max_error": max_error, "max_params": max_params}
    given = [name for name, value in goals.items() if value is not None]
    every = distinct_matrices(checkpoint, matrices).matrices
    if plan is not None and given != ["max_error"]:
        if given:
            raise UsageError(f"a plan with ranks and `{given[0]}` both set the size of the rings: give one of them")
        return PlanChoice(plan.against(every))
    if not given:
        raise UsageError(
            "decompose needs `shape` and `ranks` (a plan), or a goal such as `target_ratio=25`; "
            "`trcompress inspect CKPT` suggests a goal"
        )
    data: dict[str, Any] = {"data_options": data_options, "head": head, "compare": compare, "outputs": outputs}
    data |= {"model": model, "seed": seed}
    with same_threads(prod(shape) for shape in checkpoint.shapes.values()):
        live = None if calibrate is None else live_network(checkpoint, calibrate, **data)
        if live is not None and refine:
            live.require_gradients()
        if plan is not None and max_error is not None:
            return PlanChoice(ranks_for_error(checkpoint, plan, max_error), live=live)
        how: dict[str, Any] = {"layer": layer, "roles": matrices, "effort": effort, "per_weight": per_weight}
        found = search_network(checkpoint, **goals, **how, seed=seed, live=live, progress=progress)
    cores = {one.matrix.key: one.cores for one in found.weights}
    dense = frozenset(one.key for one in found.dense)
    return PlanChoice(found.plan.against(every), cores, found.notes, dense, found.live)


def check_data(calibrate: str | Path | None, refine: int, init: str) -> None:
    """Refuse what does not go together, before any search.

    Raises:
        UsageError: steps of refinement without data, or an init that leaves calibration nothing to choose.
    """
    if calibrate is None and refine:
        raise UsageError("`refine` goes with `calibrate`: name the inputs to match the dense network on")
    if calibrate is not None and init != "tr-als":
        raise UsageError(f"`calibrate` chooses among TR-ALS candidates: leave out `init={init}`")
