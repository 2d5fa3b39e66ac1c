"""Modules of a user's model that an artifact holds in other sizes: folded embeddings, layers of fewer units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trcompress.errors import InputFileError, nearest
from trcompress.model.header import Header

RESIZING = ("fold", "units")
"""Passes that leave modules of other sizes."""


def resized_names(header: Header) -> frozenset[str]:
    """Name the modules whose sizes a pass has changed."""
    return frozenset(one.name for one in header.passes if one.kind in RESIZING)


def resized(model: nn.Module, header: Header, tensors: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """Build the linear and embedding modules that take the artifact's tensors, by name; they hold no values yet.

    Raises:
        InputFileError: the model has no such module.
    """
    modules = dict(model.named_modules())
    found: dict[str, nn.Module] = {}
    recurrent = {layer.stack for layer in header.layers}
    for name in sorted(resized_names(header) - recurrent):
        key = f"{name}.weight" if name else "weight"
        if name not in modules or key not in tensors:
            raise InputFileError(f"the artifact resizes {name!r}, which is not there{nearest(name, list(modules))}")
        old: Any = modules[name]
        rows, columns = tensors[key].shape
        weight = {"device": old.weight.device, "dtype": old.weight.dtype}
        if isinstance(old, nn.Linear):
            found[name] = nn.Linear(columns, rows, bias=old.bias is not None, **weight)
        elif isinstance(old, nn.Embedding):
            found[name] = nn.Embedding(rows, columns, padding_idx=old.padding_idx, **weight)
        else:
            raise InputFileError(f"the artifact resizes {name!r}, but the model has a {type(old).__name__} there")
        found[name].train(old.training)
    return found
