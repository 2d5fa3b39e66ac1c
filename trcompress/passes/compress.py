"""Dense weights to rings: of a live model in place (`compress_`), or of a checkpoint (`decompose_checkpoint`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.artifact.file import Artifact
from trcompress.artifact.save_load import describe_weight, replace_module
from trcompress.checkpoint import Checkpoint, read_checkpoint
from trcompress.decomposition import MatrixSource
from trcompress.decomposition.weight import (
    CompressedWeight,
    decompose_weight,
    gate_sources,
    tensor_source,
    weight_source,
)
from trcompress.errors import UsageError
from trcompress.formats import TensorRing
from trcompress.layers import CoreWeight, from_dense, is_recurrent, module_matrices
from trcompress.model.header import Header, Source, Step
from trcompress.model.layer import input_matrices
from trcompress.model.plan import Plan, WeightPlan
from trcompress.util.progress import Progress, part_of
from trcompress.version import __version__


@dataclass(frozen=True)
class Replacement:
    """One module that `compress_` swapped."""

    name: str
    before: nn.Module
    after: nn.Module
    weights: tuple[CompressedWeight, ...]


def compress_(
    model: nn.Module, plan: Plan, *, init: str = "tr-als", seed: int = 0, **settings: Any
) -> list[Replacement]:
    """Swap the recurrent layers of a model for ring layers, in place.

    Args:
        model: any module that holds nn.LSTM, nn.GRU, nn.RNN or their cells, at any depth. Where the model itself
            is one of them it cannot be swapped in place: take `replacements[0].after`.
        plan: what to replace and how; see `Plan.of`.
        init: how cores are found: "tr-als", "tr-svd" or "random".
        seed: of the random starts.
        settings: passed on to `trcompress.decomposition.decompose`: `device`, `progress`, ...

    Returns:
        What was replaced: name, old module, new module, and the error of each weight.

    Raises:
        UsageError: the plan matches no recurrent weight of the model.
        ShapeError: a named weight does not fit its modes.
        InputFileError: a weight holds NaN or Inf.

    Example:
        >>> import torch, trcompress
        >>> model = torch.nn.Sequential(torch.nn.LSTM(12, 8))
        >>> swapped = trcompress.compress_(model, trcompress.Plan.of("4x3:4x2", "2"))
        >>> swapped[0].name, type(model[0]).__name__
        ('0', 'TRLSTM')
    """
    modules = {name: module for name, module in model.named_modules() if is_recurrent(module)}
    matrices = [matrix for name, module in modules.items() for matrix in module_matrices(module, name)]
    if not matrices:
        raise UsageError("nothing to compress: the model holds no nn.LSTM, nn.GRU, nn.RNN or cell of one")
    plans = plan.resolve(matrices)
    replacements = []
    for name, module in modules.items():
        mine = [weight for weight in plans if weight.matrix.stack == name]
        if mine:
            found = tuple(
                decompose_weight(weight, _source(module, weight), init=init, seed=seed, **settings)
                for weight in mine
            )
            replacements.append(Replacement(name, module, _ring_module(module, found), found))
    for replacement in replacements:
        replace_module(model, replacement.name, replacement.after)
    return replacements


def decompose_checkpoint(
    checkpoint: str | Path | Checkpoint,
    plan: Plan,
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
        InputFileError: the file cannot be read, or a weight holds NaN or Inf.
        UsageError: the plan matches no weight.
        ShapeError: a weight does not fit its modes.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    plans = plan.resolve(input_matrices(checkpoint.layers))
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


def ranks_for_error(checkpoint: Checkpoint, plan: Plan, max_error: float) -> Plan:
    """Give the rings of a plan the smallest ranks whose TR-SVD stays within a relative error.

    Args:
        checkpoint: the dense checkpoint.
        plan: which weights, and their modes; its ranks are ignored.
        max_error: largest ||W - W_hat|| / ||W|| of every weight.

    Raises:
        UsageError: the error is not between 0 and 1.
    """
    from trcompress.decomposition import tr_svd_max_error

    if not 0 < max_error < 1:
        raise UsageError(f"`max_error` is relative, between 0 and 1: got {max_error:g}")
    rules = []
    for weight in plan.resolve(input_matrices(checkpoint.layers)):
        modes = weight.structure.in_modes, weight.structure.out_modes
        matrices = gate_sources(weight, weight_source(checkpoint, weight.matrix))
        rings = [tr_svd_max_error(matrix, *modes, max_error)[0] for matrix in matrices]
        ranks = tuple(max(ring.ranks[k] for ring in rings) for k in range(len(rings[0].ranks)))
        rules.append(replace(weight, structure=TensorRing(*modes, ranks)).rule)
    return Plan(tuple(rules))


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
    weights = []
    for one in found:
        own = dtype or getattr(torch, checkpoint.dtypes[one.plan.name])
        cores |= {f"{one.plan.name}.core.{k}": core.to("cpu", own).contiguous() for k, core in enumerate(one.cores)}
        measured = {"init": one.init, "error": one.error, "bound": one.bound, "notes": one.notes}
        dtype_name = str(own).removeprefix("torch.")
        weights.append(
            describe_weight(one.plan.name, one.plan, dtype=dtype_name, candidates=one.candidates, **measured)
        )
    replaced = {one.plan.name for one in found}
    kept = {key: checkpoint.tensor(key) for key in checkpoint.shapes if key not in replaced}
    header = Header(
        layers=checkpoint.layers,
        weights=tuple(weights),
        source=_describe_source(checkpoint),
        shared=tuple(group for group in checkpoint.shared if not replaced & set(group)),
        lineage=(step,),
    )
    return Artifact(kept | dict(changed or {}) | cores, header)


def _source(module: nn.Module, weight: WeightPlan) -> MatrixSource:
    local = weight.name.removeprefix(f"{weight.matrix.stack}.") if weight.matrix.stack else weight.name
    return tensor_source(getattr(module, local), weight.name)


def _ring_module(module: nn.Module, found: Sequence[CompressedWeight]) -> nn.Module:
    prefix = f"{found[0].plan.matrix.stack}." if found[0].plan.matrix.stack else ""
    local = {one.plan.name.removeprefix(prefix): one for one in found}
    ring = from_dense(module, {name: one.plan for name, one in local.items()})
    for name, one in local.items():
        weight = ring.get_submodule(name)
        if isinstance(weight, CoreWeight):
            weight.set_cores(list(one.cores))
    return ring


def _describe_source(checkpoint: Checkpoint) -> Source:
    return Source(
        file=checkpoint.path.name,
        sha256=checkpoint.sha256,
        size_bytes=checkpoint.size_bytes,
        tensor_bytes=checkpoint.tensor_bytes,
        format=checkpoint.format,
        notes=tuple(checkpoint.notes),
    )
