"""`compress_`: the recurrent layers of a live model become ring layers, in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from trcompress.artifact.save_load import replace_module
from trcompress.decomposition import MatrixSource
from trcompress.decomposition.weight import (
    CompressedWeight,
    decompose_weight,
    tensor_source,
)
from trcompress.errors import UsageError
from trcompress.layers import CoreWeight, from_dense, is_recurrent, module_matrices
from trcompress.model.plan import Plan
from trcompress.model.weight_plan import WeightPlan


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
