"""A recurrent module with some of its units: rows of the others gone, columns that read them repaired."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.errors import UsageError
from trcompress.layers import CoreWeight
from trcompress.passes.guess import affine_guess, has, repair
from trcompress.passes.moments import Moments
from trcompress.passes.opening import with_units

Kept = Mapping[str, Tensor]
"""Indices of the units that stay, by the ending of their parameters' names: "_l0", "_l1_reverse"."""


def shrunken(module: Any, kept: Kept, moments: Mapping[str, Moments]) -> nn.Module:
    """Build the layer of the kept units.

    Args:
        module: torch.nn.LSTM, GRU or RNN, or an opened ring layer.
        kept: the same number of units for every layer and direction.
        moments: of what each matrix reads, by its local name; not needed where all units stay.

    Returns:
        A new layer; the old one is unchanged.

    Raises:
        UsageError: no fewer units than the projection is wide, or nothing recorded of what a matrix reads.
    """
    new: Any = deepcopy(module)
    keep = len(next(iter(kept.values())))
    if module.proj_size and keep <= module.proj_size:
        raise UsageError(f"a projection must be narrower than the units: {module.proj_size} leaves no {keep} units")
    for ending in kept:
        _repair_readers(new, ending, kept, moments)
    for ending, units in kept.items():
        _drop_rows(new, ending, units, module.hidden_size)
    new.hidden_size = keep
    settle_(new)
    return new


def settle_(module: Any) -> None:
    """Tell torch.nn's layer that its parameters are other objects now."""
    if isinstance(module, nn.RNNBase):
        module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
        module.flatten_parameters()


def top_units(module: Any, kept: Kept) -> Tensor:
    """Return where the kept units lie among the top layer's outputs, all directions side by side."""
    return layer_units(module, kept, module.num_layers - 1)


def layer_units(module: Any, kept: Kept, layer: int) -> Tensor:
    """Return where the kept units lie among a layer's outputs, all directions side by side."""
    ends = ("", "_reverse") if module.bidirectional else ("",)
    return torch.cat([kept[f"_l{layer}{end}"] + number * module.hidden_size for number, end in enumerate(ends)])


def _repair_readers(new: Any, ending: str, kept: Kept, moments: Mapping[str, Moments]) -> None:
    """Within the stack: the layer's own states, the layer above, or the projection."""
    if new.proj_size:
        weight = f"weight_hr{ending}"
        repair(new, weight, "", affine_guess(moments.get(weight), kept[ending], affine=False))
        return
    own = f"weight_hh{ending}"
    affine = has(new, f"bias_hh{ending}")
    repair(new, own, f"bias_hh{ending}", affine_guess(moments.get(own), kept[ending], affine))
    layer = int(ending.removeprefix("_l").removesuffix("_reverse"))
    if layer:
        below = layer_units(new, kept, layer - 1)
        given, bias = f"weight_ih{ending}", f"bias_ih{ending}"
        repair(new, given, bias, affine_guess(moments.get(given), below, has(new, bias)))


def _drop_rows(new: Any, ending: str, units: Tensor, hidden: int) -> None:
    for role in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        old = getattr(new, name := role + ending, None)
        if isinstance(old, Tensor):
            gates = torch.arange(0, len(old), hidden).unsqueeze(1)
            rows = (gates + units).flatten()  # every gate's rows of the kept units
            setattr(new, name, nn.Parameter(old.detach()[rows].clone()))
        elif isinstance(old, CoreWeight):
            setattr(new, name, with_units(old, units))
