"""What a header says of a live model: its recurrent layers, and which of its tensors are one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from trcompress.layers import CoreWeight, is_recurrent, layers_of
from trcompress.model.layer import Layer


def artifact_layers(model: nn.Module) -> Iterator[Layer]:
    """Describe every recurrent layer of a live model, compressed or not, under each name it has."""
    for name, module in model.named_modules(remove_duplicate=False):
        if is_recurrent(module):
            yield from layers_of(module, name)


def dense_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's tensors by name; of cores, that of the weight they stand for."""
    shapes = {name: tuple(one.shape) for name, one in model.state_dict().items() if ".core." not in name}
    return shapes | {name: tuple(one.shape) for name, one in model.named_modules() if isinstance(one, CoreWeight)}


def tied_keys(state: Mapping[str, Tensor]) -> Iterator[tuple[str, ...]]:
    """List the keys that are one tensor: same memory, seen alike."""
    groups: dict[tuple[int, tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for key, tensor in state.items():
        if tensor.numel():
            groups.setdefault((tensor.data_ptr(), tuple(tensor.shape), tensor.stride()), []).append(key)
    return (tuple(group) for group in groups.values() if len(group) > 1)
