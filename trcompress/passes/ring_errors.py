"""How far the rings that a pass made are from the matrices they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from trcompress.decomposition.bound import lower_bound
from trcompress.decomposition.weight import (
    CompressedWeight,
    gate_sources,
    joint_error,
    measured_error,
    tensor_source,
)
from trcompress.formats import as_ring
from trcompress.layers import CoreWeight
from trcompress.layers.swaps import swap_
from trcompress.model.weight_plan import WeightPlan
from trcompress.passes.structures import Structure
from trcompress.passes.walk import Walk, apply_

LONG_FIGURE = 1.2345678901234567e-05
"""A figure that takes as much text as any: room for figures that are not measured yet."""


def init_of(plan: WeightPlan) -> str:
    """How the cores of a ring were found that a budget for the whole file asked for."""
    two_modes = len(plan.structure.in_modes) == len(plan.structure.out_modes) == 1
    return "low-rank" if two_modes else "tr-als"


def core_weights(model: nn.Module) -> dict[str, CoreWeight]:
    """Every compressed weight of a network, by its name."""
    return {name: one for name, one in model.named_modules() if isinstance(one, CoreWeight)}


def swapped_weights(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Parameters of modules that are about to be swapped, by their names in the network; nothing is copied."""
    return {
        f"{name}.{inner}".lstrip("."): one.detach()
        for name in names
        for inner, one in model.get_submodule(name).named_parameters()
    }


def ring_errors(model: nn.Module, dense: Mapping[str, Tensor]) -> dict[str, CompressedWeight]:
    """Measure the rings of a network on the matrices that they took the place of.

    Args:
        model: the network, its cores rounded as the file will hold them.
        dense: the matrices (O, I), by name; rings of other sizes, and those that were there before, are left out.
    """
    found = {}
    for name, one in core_weights(model).items():
        matrix = one.plan.matrix
        if name in dense and tuple(dense[name].shape) == (matrix.rows, matrix.columns):
            found[name] = _measured(one, dense[name], name)
    return found


def carry_out(model: nn.Module, structure: Structure, walk: Walk) -> tuple[nn.Module, dict[str, CompressedWeight]]:
    """Swap modules and round tensors; measure the rings on what they took the place of.

    Args:
        model: the network, changed in place.
        structure: the modules that it gets.
        walk: how its tensors are stored.

    Returns:
        The network, and the new rings with their errors by name.
    """
    dense = swapped_weights(model, structure.swaps)
    model = swap_(model, structure.swaps)
    apply_(model, walk)
    return model, ring_errors(model, dense)


def unmeasured(model: nn.Module) -> dict[str, CompressedWeight]:
    """Figures of the longest text in the place of those that are not measured yet, to count a file's bytes."""
    return {
        name: CompressedWeight(one.plan, (), LONG_FIGURE, LONG_FIGURE, init_of(one.plan), ())
        for name, one in core_weights(model).items()
    }


def _measured(one: CoreWeight, dense: Tensor, name: str) -> CompressedWeight:
    source = tensor_source(dense, name)
    ring = as_ring(one.plan.structure, f"{name}: only tensor rings are measured")
    parts = gate_sources(one.plan, source)
    bound = joint_error([lower_bound(part, ring).value for part in parts], [part.squared_norm for part in parts])
    cores = tuple(core.detach() for core in one.core)
    plan = replace(one.plan, matrix=replace(one.plan.matrix, key=name))
    return CompressedWeight(plan, cores, measured_error(one.plan, source, cores), bound, init_of(plan), ())
