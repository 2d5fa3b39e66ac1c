"""Put other modules in the place of some of a network's: for good, or to see what comes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

Swaps = Mapping[str, nn.Module]
"""New modules by the name of the one they replace."""


def swap_(model: nn.Module, swaps: Swaps) -> nn.Module:
    """Replace modules wherever they are registered, in place.

    Args:
        model: any module.
        swaps: the new ones, by the name that `named_modules` gives the old one.

    Returns:
        The model, or the new module where the model itself is replaced.
    """
    if "" in swaps:
        return swaps[""]
    old = {id(model.get_submodule(name)): module for name, module in swaps.items()}
    for parent in list(model.modules()):
        for leaf, child in parent._modules.items():
            if id(child) in old:
                parent._modules[leaf] = old[id(child)]
    return model


@contextmanager
def swapped(model: nn.Module, swaps: Swaps) -> Iterator[nn.Module]:
    """Replace modules while the context is open; yields the network to run."""
    before = {name: model.get_submodule(name) for name in swaps}
    changed = swap_(model, swaps)
    try:
        yield changed
    finally:
        if changed is model:
            swap_(model, before)
