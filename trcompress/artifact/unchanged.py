"""Sizes of the model that was compressed: given back where that is exact, else told as constructor arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor
from torch.nn.functional import pad

from trcompress.model.header import Header
from trcompress.model.layer import Layer

FOLDED = ("weight", "weight_ih", "weight_ih_l0", "weight_ih_l0_reverse")
"""Parameters that a fold makes narrower: of an embedding, and of what reads it."""


def unfolded(header: Header, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give folded embeddings and their readers the width that they had.

    With E' (V, V) and W' (G*H, V): [E' 0] and [W' 0] have the same product, and the sizes of E and W.

    Args:
        header: of the artifact; `original` holds the shapes.
        tensors: the dense tensors, by key.
    """
    found = dict(tensors)
    for one in header.passes:
        for name in FOLDED if one.kind == "fold" else ():
            key = f"{one.name}.{name}".lstrip(".")
            width = header.original.get(key, (0, 0))[-1]
            if key in found and found[key].dim() == 2 and found[key].shape[1] < width:
                found[key] = pad(found[key], (0, width - found[key].shape[1]))
    return found


def changed_arguments(header: Header, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Say how modules with fewer units than before are constructed, one line each.

    Args:
        header: of the artifact.
        tensors: the dense tensors, by key.
    """
    recurrent = {key for layer in header.layers for key in layer.keys.values()}
    told = {layer.stack: line for layer in reversed(header.layers) if (line := _of_layer(layer, header))}
    yield from (f"construct {name or 'the layer'} with {line}" for name, line in sorted(told.items()))
    for key, was in sorted(header.original.items()):
        module, _, name = key.rpartition(".")
        if name != "weight" or key in recurrent or key not in tensors or len(was) != 2:
            continue
        if (now := tensors[key].shape[1]) != was[1]:
            yield f"construct {module or 'the layer'} with in_features={now:,} instead of {was[1]:,}"


def _of_layer(layer: Layer, header: Header) -> str:
    """What changes of a stack's arguments, told by its first layer; empty where nothing does."""
    rows = header.original.get(layer.keys.get("weight_hh", ""), (0,))[0] // layer.gates
    if layer.index or not rows or rows == layer.hidden_size:
        return ""
    return f"hidden_size={layer.hidden_size:,} instead of {rows:,}"
