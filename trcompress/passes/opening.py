"""A ring layer opened, so that hidden units can go: one output core for its input weight, all else dense.

The outputs stay the same. A ring's output side then is B (K, G*H) as it is, of which units are columns; weights
that read states are ordinary parameters. `closing` puts cores in their place again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.errors import UsageError
from trcompress.formats import TensorRing
from trcompress.layers import CoreWeight
from trcompress.layers.convert import expand_weights
from trcompress.layers.stack import RingStack
from trcompress.layers.swaps import swapped
from trcompress.model.weight_plan import WeightPlan


@contextmanager
def opened(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """Open one ring layer, and the ring layers that may read its states, while the context is open.

    Args:
        model: any module; yielded as it is where nothing is a ring.
        name: of the recurrent module whose units are to go.

    Raises:
        UsageError: an input weight is of a format without a bottleneck.
    """
    module: Any = model.get_submodule(name)
    width = (getattr(module, "proj_size", 0) or module.hidden_size) * (1 + getattr(module, "bidirectional", False))
    swaps = {name: open_stack(module)} if isinstance(module, RingStack) else {}
    for other, reader in model.named_modules():
        if isinstance(reader, RingStack) and reader is not module and reader.input_size == width:
            swaps[other] = expand_weights(reader, first_weights(reader))
    changed = {one: new for one, new in swaps.items() if new is not model.get_submodule(one)}
    with swapped(model, changed) as network:
        yield network


def open_stack(stack: RingStack) -> nn.Module:
    """Copy a ring layer with one output core for each weight of its first layer, and everything else dense."""
    first = first_weights(stack)
    inner = [name for name, one in stack._modules.items() if isinstance(one, CoreWeight) and name not in first]
    if all(_is_open(getattr(stack, name)) for name in first) and not inner:
        return stack
    new = expand_weights(stack, inner)
    for name in first:
        weight = getattr(stack, name)
        if isinstance(weight, CoreWeight):
            setattr(new, name, _one_output_core(weight))
    return new


def first_weights(stack: RingStack) -> list[str]:
    """Names of the input weights of its first layer."""
    return ["weight_ih_l0", "weight_ih_l0_reverse"] if stack.bidirectional else ["weight_ih_l0"]


def with_units(weight: CoreWeight, units: Tensor) -> CoreWeight:
    """Keep these hidden units of an opened weight, in this order."""
    plan, cores = weight.plan, [core.detach() for core in weight.cores()]
    rows = units
    if not plan.per_gate:
        rows = (torch.arange(plan.matrix.gates).unsqueeze(1) * plan.matrix.gate_rows + units).flatten()
    matrix = replace(plan.matrix, rows=plan.matrix.gates * len(units))
    structure = ring_of(weight)
    narrow = replace(plan, matrix=matrix, structure=replace(structure, out_modes=(len(rows),)), asked_ranks=())
    return core_weight(narrow, [*cores[:-1], cores[-1][..., rows, :]], weight)


def core_weight(plan: WeightPlan, cores: Sequence[Tensor], like: CoreWeight) -> CoreWeight:
    """Build a weight from cores, of the type, place and mode of another."""
    new = CoreWeight(plan, like.device, like.dtype)
    new.set_cores(list(cores))
    for mine in new.parameters():
        mine.requires_grad_(like.trains)
    return new.train(like.training)


def ring_of(weight: CoreWeight) -> TensorRing:
    """Return the structure of a weight that must be a ring.

    Raises:
        UsageError: it has no bottleneck.
    """
    structure = weight.plan.structure
    if not isinstance(structure, TensorRing):
        raise UsageError(
            f"units are removed from layers whose input weight is dense or a tensor ring: {weight.plan.name} is a "
            f"{structure.kind}; leave its units as they are"
        )
    return structure


def _is_open(weight: Any) -> bool:
    if not isinstance(weight, CoreWeight):
        return True
    plan = weight.plan
    return len(plan.structure.out_modes) == 1 and plan.padded_hidden == plan.matrix.gate_rows


def _one_output_core(weight: CoreWeight) -> CoreWeight:
    plan, ring = weight.plan, ring_of(weight)
    inputs = len(ring.in_modes)
    cores = [core.detach() for core in weight.cores()]
    per_gate = ring.output_factor(cores)[..., : plan.matrix.gate_rows]  # (G, K, H)
    chain = per_gate if plan.per_gate else weight.factors()[1].detach()  # (K, G*H)
    r0, rn = ring.ranks[0], ring.ranks[inputs]
    last = chain.reshape(*chain.shape[:-2], r0, rn, chain.shape[-1]).movedim(-3, -1)  # (..., Rn, O, R0)
    structure = TensorRing(ring.in_modes, (last.shape[-2],), (*ring.ranks[: inputs + 1], r0))
    return core_weight(replace(plan, structure=structure, asked_ranks=()), [*cores[:inputs], last], weight)
