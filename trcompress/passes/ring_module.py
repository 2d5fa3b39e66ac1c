"""A ring layer in the place of a dense one, that keeps all else: parameters, ties, hooks, attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from trcompress.decomposition.weight import CompressedWeight
from trcompress.layers import CoreWeight, from_dense
from trcompress.layers.adopt import adopt_


def ring_module(module: nn.Module, found: Mapping[str, CompressedWeight]) -> nn.Module:
    """Build the ring layer that stands for a module, with cores for the weights found.

    Args:
        module: of torch.nn, of a class that keeps its forward, or a ring layer of which more is to be compressed.
        found: by local name, `weight_ih_l0`.

    Returns:
        A ring layer whose other parameters are the module's own objects, so that optimizers and other modules that
        share them go on.
    """
    ring = from_dense(module, {name: one.plan for name, one in found.items()})
    for name, one in found.items():
        weight = ring.get_submodule(name)
        if isinstance(weight, CoreWeight):
            weight.set_cores(list(one.cores))
    adopt_(ring, module)
    for name, child in module._modules.items():
        if isinstance(child, CoreWeight) and name in ring._modules:
            ring._modules[name] = child
    return ring


def tie_cores_(weights: Sequence[CoreWeight]) -> None:
    """Make the cores of all these weights the parameters of the first."""
    first, *others = weights
    for other in others:
        for name, core in first.core._parameters.items():
            other.core._parameters[name] = core
