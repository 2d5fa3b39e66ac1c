"""`decompose_checkpoint`: dense weights of a checkpoint file to cores, as an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trcompress.artifact.file import Artifact
from trcompress.checkpoint import Checkpoint, read_checkpoint
from trcompress.decomposition.least_memory import check_memory
from trcompress.decomposition.weight import (
    RECURRENT_ROLES,
    CompressedWeight,
    decompose_weight,
    distinct_matrices,
    gate_sources,
    measured_error,
    weight_source,
)
from trcompress.errors import OutputFileError, UsageError
from trcompress.formats import TensorRing, as_ring
from trcompress.model.header import READ, Header, SourceFile, Step, Weight
from trcompress.model.plan import Plan, ResolvedPlan
from trcompress.util.progress import Progress, part_of
from trcompress.version import __version__


def decompose_checkpoint(
    checkpoint: str | Path | Checkpoint,
    plan: Plan | ResolvedPlan,
    *,
    init: str = "tr-als",
    seed: int = 0,
    dtype: torch.dtype | None = None,
    command: str = "",
    warm_starts: Mapping[str, Sequence[Tensor] | None] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Artifact:
    """Compress the recurrent weights of a checkpoint file.

    Args:
        checkpoint: the dense checkpoint, or its path.
        plan: what to replace and how.
        init: "tr-als", "tr-svd" or "random".
        seed: of the random starts.
        dtype: of the cores; the weight's own by default.
        command: how the user asked for this, kept in the lineage.
        warm_starts: cores to start from, by weight; the planner's, for instance.
        progress: called with (what, fraction done).
        settings: passed on to `trcompress.decomposition.decompose`: `device`, ...

    Returns:
        The artifact, not yet written: cores in place of the weights, every other tensor as it was.

    Raises:
        InputFileError: the file cannot be read, a layer is not the one that its shapes suggest, a tensor cannot be
            kept, or one holds NaN or Inf.
        UsageError: the plan matches no weight.
        ShapeError: a weight does not fit its modes, or its ranks are so large that a fit has no room in memory.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    checkpoint.check_compressible()
    roles = RECURRENT_ROLES if isinstance(plan, ResolvedPlan) else ("ih",)
    plans = plan.resolve(distinct_matrices(checkpoint, roles).matrices)
    if torch.device(settings.get("device") or "cpu").type == "cpu":
        for weight in plans:  # all before the first: none may fail after minutes
            ring = as_ring(weight.structure, f"{weight.name}: only tensor rings are decomposed")
            check_memory(weight.name, ring, init)
    found = []
    for done, weight in enumerate(plans):
        options = {
            "init": init,
            "seed": seed,
            "progress": part_of(progress, weight.name, done, len(plans)),
            **settings,
        }
        if warm_starts and warm_starts.get(weight.name):
            options["warm_start"] = warm_starts[weight.name]
        found.append(decompose_weight(weight, weight_source(checkpoint, weight.matrix), **options))
    step = Step(verb="decompose", command=command, seed=seed, version=__version__)
    return assemble(checkpoint, found, step, dtype=dtype)


def ranks_for_error(
    checkpoint: Checkpoint, plan: Plan, max_error: float, matrices: Sequence[str] = ("ih",)
) -> ResolvedPlan:
    """Give the rings of a plan the smallest ranks whose TR-SVD stays within a relative error.

    Args:
        checkpoint: the dense checkpoint.
        plan: which weights, and their modes; its ranks are ignored.
        max_error: largest ||W - W_hat|| / ||W|| of every weight.
        matrices: roles that the plan is matched against.

    Raises:
        UsageError: the error is not between 0 and 1.
    """
    from trcompress.decomposition import tr_svd_max_error

    if not 0 < max_error < 1:
        raise UsageError(f"`max_error` is relative, between 0 and 1: got {max_error:g}")
    resolved, found = plan.against(distinct_matrices(checkpoint, matrices).matrices), []
    for weight in resolved.weights:
        modes = weight.structure.in_modes, weight.structure.out_modes
        gates = gate_sources(weight, weight_source(checkpoint, weight.matrix))
        rings = [tr_svd_max_error(matrix, *modes, max_error)[0] for matrix in gates]
        ranks = tuple(max(ring.ranks[k] for ring in rings) for k in range(len(rings[0].ranks)))
        found.append(replace(weight, structure=TensorRing(*modes, ranks)))
    return replace(resolved, weights=tuple(found))


def assemble(
    checkpoint: Checkpoint,
    found: Sequence[CompressedWeight],
    step: Step,
    *,
    dtype: torch.dtype | None = None,
    changed: Mapping[str, Tensor] | None = None,
) -> Artifact:
    """Put cores in place of the weights they stand for, and describe the whole.

    Args:
        checkpoint: the dense checkpoint.
        found: the compressed weights.
        step: how they were found, for the lineage.
        dtype: of the cores; the weight's own by default.
        changed: other tensors to replace (corrected biases), by key; all the rest stays as it was.
    """
    cores: dict[str, Tensor] = {}
    weights, shared = [], []
    tied = distinct_matrices(checkpoint, RECURRENT_ROLES).tied
    for one in found:
        own = dtype or getattr(torch, checkpoint.dtypes[one.plan.name])
        cast = [core.to("cpu", own).contiguous() for core in one.cores]
        error = measured_error(one.plan, weight_source(checkpoint, one.plan.matrix), cast)
        measured = {"init": one.init, "error": error, "bound": one.bound, "candidates": one.candidates}
        names = [matrix.key for matrix in (one.plan.matrix, *tied.get(one.plan.name, ()))]
        once = (f"compressed and stored once for {', '.join(names)}",) if len(names) > 1 else ()
        for name in names:
            weights.append(
                Weight.of(one.plan, name=name, dtype=dtype_name(own), notes=(*one.notes, *once), **measured)
            )
            cores |= {f"{name}.core.{k}": core for k, core in enumerate(cast)}
        if once:
            shared += [tuple(f"{name}.core.{k}" for name in names) for k in range(len(cast))]
    replaced = {one.name for one in weights}
    kept = {key: checkpoint.tensor(key) for key in checkpoint.shapes if key not in replaced}
    header = Header(
        layers=checkpoint.layers,
        weights=tuple(weights),
        source=_describe_source(checkpoint),
        shared=(*(group for group in checkpoint.shared if not replaced & set(group)), *shared),
        lineage=(step.model_copy(update={"settings": {**step.settings, **_reading(checkpoint, weights)}}),),
    )
    return Artifact(kept | dict(changed or {}) | cores, header)


def check_errors(checkpoint: Checkpoint, artifact: Artifact) -> None:
    """Hold the errors that an artifact tells against those of its cores.

    Args:
        checkpoint: the dense checkpoint.
        artifact: as it was read back from disk.

    Raises:
        OutputFileError: they differ.
        InputFileError: the checkpoint was changed since it was opened.
    """
    checkpoint.refuse_changed()
    told = {one.name: one.error for one in artifact.header.weights}
    for name, plan in artifact.distinct_plans().items():
        error, claimed = (
            measured_error(plan, weight_source(checkpoint, plan.matrix), artifact.cores(name)),
            told[name],
        )
        if claimed is not None and not isclose(error, claimed, rel_tol=1e-6, abs_tol=1e-12):
            raise OutputFileError(
                f"the cores of {name} as written are {error:.6g} off, not {claimed:.6g}: not kept"
            )


def dtype_name(dtype: torch.dtype) -> str:
    """Spell a dtype as headers do, `float32`."""
    return str(dtype).removeprefix("torch.")


def _reading(checkpoint: Checkpoint, weights: Sequence[Weight]) -> dict[str, Any]:
    """What the user chose about the tensors, and how the file held them; empty where all is plain."""
    chosen = {
        "dropped": checkpoint.dropped,
        "beside": sorted(checkpoint.beside),
        "ignored_unknown": checkpoint.known_better,
        "allowed_nonfinite": checkpoint.allowed_nonfinite,
    }
    told: dict[str, Any] = {name: list(keys) for name, keys in chosen.items() if keys}
    moved = {key: [list(dicts), name] for key, (dicts, name) in checkpoint.places.items() if dicts or name != key}
    if moved:
        told["places"] = moved
    cast = {one.name: checkpoint.dtypes[one.name] for one in weights if one.dtype != checkpoint.dtypes[one.name]}
    if cast:
        told["dense_dtypes"] = cast
    return {"reading": told} if told else {}


def with_reading(lineage: Sequence[Step], step: Step) -> tuple[Step, ...]:
    """Add a step; what it took to read the checkpoint (nesting, keys left out) is told with it."""
    if not lineage or lineage[-1].verb != READ:
        return (*lineage, step)
    settings = {**lineage[-1].settings, **step.settings}
    return (*lineage[:-1], step.model_copy(update={"settings": settings}))


def _describe_source(checkpoint: Checkpoint) -> SourceFile:
    return SourceFile(
        file=checkpoint.path.name,
        sha256=checkpoint.sha256,
        size_bytes=checkpoint.size_bytes,
        tensor_bytes=checkpoint.tensor_bytes,
        format=checkpoint.format,
        notes=tuple(checkpoint.notes),
    )
