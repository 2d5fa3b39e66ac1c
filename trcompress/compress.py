"""Dense weights to rings: of a live model in place (`compress_`), or of a checkpoint (`decompose_checkpoint`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.artifact import Artifact
from trcompress.checkpoint import Checkpoint, RnnLayer, check_finite, read_checkpoint
from trcompress.decompose import FileMatrix, InMemoryMatrix, MatrixSource, decompose
from trcompress.errors import UsageError
from trcompress.header import Header, Layer, Source, Step
from trcompress.layers import from_dense, is_recurrent, slots_of
from trcompress.plan import Plan, WeightPlan
from trcompress.save_load import describe_weight, replace_module
from trcompress.slots import WeightSlot
from trcompress.version import __version__

STREAM_FROM_BYTES = 2**30
"""Weights larger than this are streamed from the file instead of loaded."""


@dataclass(frozen=True)
class CompressedWeight:
    """One weight after decomposition.

    Args:
        plan: its structure.
        cores: as the layer keeps them; with a leading gate dimension where each gate has its own ring.
        error: ||W - W_hat|| / ||W||, Frobenius.
        bound: no structure of these ranks has a smaller error.
        init: the algorithm.
        notes: what was padded or clamped, and where the bound comes from, in words.
        candidates: what calibration compared, a plain row each; empty without calibration.
    """

    plan: WeightPlan
    cores: tuple[Tensor, ...]
    error: float
    bound: float
    init: str
    notes: tuple[str, ...]
    candidates: tuple[dict[str, Any], ...] = ()


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
        settings: passed on to `trcompress.decompose.decompose`: `device`, `progress`, ...

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
    slots = [slot for name, module in modules.items() for slot in slots_of(module, name)]
    if not slots:
        raise UsageError("nothing to compress: the model holds no nn.LSTM, nn.GRU, nn.RNN or cell of one")
    plans = plan.resolve(slots)
    replacements = []
    for name, module in modules.items():
        mine = [weight for weight in plans if weight.slot.stack == name]
        if mine:
            found = tuple(
                decompose_weight(weight, _parameter(module, weight), init=init, seed=seed, **settings)
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
    progress: Callable[[str, float], None] | None = None,
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
        progress: called with (what, fraction done).
        settings: passed on to `trcompress.decompose.decompose`: `device`, ...

    Returns:
        The artifact, not yet written: cores in place of the weights, every other tensor as it was.

    Raises:
        InputFileError: the file cannot be read, or a weight holds NaN or Inf.
        UsageError: the plan matches no weight.
        ShapeError: a weight does not fit its modes.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    plans = plan.resolve([slot_of(layer) for layer in checkpoint.layers])
    found = []
    for done, weight in enumerate(plans):
        part = _part_of(progress, weight.name, done, len(plans))
        dense = _dense_weight(checkpoint, weight)
        found.append(decompose_weight(weight, dense, init=init, seed=seed, progress=part, **settings))
    step = Step(verb="decompose", command=command, seed=seed, version=__version__)
    return assemble(checkpoint, found, step, dtype=dtype)


def slot_of(layer: RnnLayer) -> WeightSlot:
    """The input-to-hidden weight of a checkpoint's layer, as plans name it."""
    return WeightSlot(
        name=layer.keys["weight_ih"],
        kind=layer.kind,
        input_size=layer.input_size,
        gates=layer.gates,
        hidden_size=layer.hidden_size,
        stack=layer.stack,
        layer=layer.layer,
        reverse=layer.reverse,
    )


def decompose_weight(weight: WeightPlan, dense: Tensor | FileMatrix, **options: Any) -> CompressedWeight:
    """Find the cores of one weight: one ring, or one per gate.

    Args:
        weight: its structure.
        dense: the weight (G*H, I) as PyTorch stores it, or the same streamed from a file.
        options: of `trcompress.decompose.decompose`.

    Raises:
        InputFileError: the weight holds NaN or Inf.
    """
    matrices = _gate_matrices(weight, dense)
    parts = [decompose(matrix, weight.structure, **options) for matrix in matrices]
    scales = [matrix.squared_norm for matrix in matrices]
    stacked = tuple(torch.stack(cores) for cores in zip(*(part.cores for part in parts), strict=True))
    notes = (*weight.notes, *(note for part in parts for note in part.notes))
    return CompressedWeight(
        plan=weight,
        cores=stacked if weight.per_gate else tuple(parts[0].cores),
        error=_joint([part.error for part in parts], scales),
        bound=_joint([part.bound for part in parts], scales),
        init=parts[0].init,
        notes=tuple(dict.fromkeys(notes)),
    )


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
        layers=tuple(_describe_layer(layer) for layer in checkpoint.layers),
        weights=tuple(weights),
        source=_describe_source(checkpoint),
        shared=tuple(group for group in checkpoint.shared if not replaced & set(group)),
        lineage=(step,),
    )
    return Artifact(kept | dict(changed or {}) | cores, header)


def _gate_matrices(weight: WeightPlan, dense: Tensor | FileMatrix) -> list[MatrixSource]:
    """The matrices to decompose: all gates stacked, or one per gate; hidden units padded where the modes ask."""
    gates, hidden = weight.slot.gates, weight.slot.hidden_size
    parts = gates if weight.per_gate else 1
    if isinstance(dense, FileMatrix):
        return list(dense.split(parts))
    check_finite(dense, weight.name)
    dense = dense.detach()
    if weight.padded_hidden != hidden:
        stacked = dense.reshape(gates, hidden, -1)
        dense = nn.functional.pad(stacked, (0, 0, 0, weight.padded_hidden - hidden)).flatten(0, 1)
    return [InMemoryMatrix(part) for part in dense.chunk(parts)]


def _dense_weight(checkpoint: Checkpoint, weight: WeightPlan) -> Tensor | FileMatrix:
    region = checkpoint.file_region(weight.name)
    plain = region is not None and weight.padded_hidden == weight.slot.hidden_size
    if region is not None and plain and weight.slot.parameters * region[3].itemsize >= STREAM_FROM_BYTES:
        return FileMatrix(*region)
    return checkpoint.tensor(weight.name)


def _parameter(module: nn.Module, weight: WeightPlan) -> Tensor:
    local = weight.name.removeprefix(f"{weight.slot.stack}.") if weight.slot.stack else weight.name
    return getattr(module, local)


def _ring_module(module: nn.Module, found: Sequence[CompressedWeight]) -> nn.Module:
    prefix = f"{found[0].plan.slot.stack}." if found[0].plan.slot.stack else ""
    local = {one.plan.name.removeprefix(prefix): one for one in found}
    ring = from_dense(module, {name: one.plan for name, one in local.items()})
    for name, one in local.items():
        ring.get_submodule(name).set_cores(list(one.cores))
    return ring


def _joint(errors: Sequence[float], scales: Sequence[float]) -> float:
    """Relative error of stacked matrices from the relative errors of each."""
    whole = sum(scales)
    return (
        sqrt(sum(error**2 * scale for error, scale in zip(errors, scales, strict=True)) / whole) if whole else 0.0
    )


def _part_of(
    progress: Callable[[str, float], None] | None, name: str, done: int, total: int
) -> Callable[[str, float], None] | None:
    """Map one weight's progress onto its share of the whole."""
    if progress is None:
        return None
    return lambda what, fraction: progress(f"{name}: {what}", (done + fraction) / total)


def _describe_layer(layer: RnnLayer) -> Layer:
    same = ("stack", "kind", "layer", "reverse", "cell", "input_size", "hidden_size", "proj_size")
    return Layer(keys=dict(layer.keys), **{name: getattr(layer, name) for name in same})


def _describe_source(checkpoint: Checkpoint) -> Source:
    return Source(
        file=checkpoint.path.name,
        sha256=checkpoint.sha256,
        size_bytes=checkpoint.size_bytes,
        tensor_bytes=checkpoint.tensor_bytes,
        format=checkpoint.format,
        notes=tuple(checkpoint.notes),
    )
