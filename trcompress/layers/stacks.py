"""Recurrent stacks as modules, built from their description in a checkpoint or an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from trcompress.errors import InputFileError
from trcompress.layers.convert import RING_OF, dense_class
from trcompress.model.kinds import KINDS
from trcompress.model.layer import Layer
from trcompress.model.weight_plan import WeightPlan


def build_stack(
    layers: Sequence[Layer], weights: Mapping[str, WeightPlan], *, ring: bool = False, **options: Any
) -> nn.Module:
    """Build the module for one stack, on the meta device: ring layers where `weights` names a weight.

    Args:
        layers: the stack's layers, one per layer and direction.
        weights: structures by checkpoint key; a stack without any becomes a plain torch.nn module.
        ring: build a ring layer even where no weight is a ring.
        options: passed to the module: `batch_first`, `dropout`, `nonlinearity`.

    Raises:
        InputFileError: the layers do not form one PyTorch module.
    """
    first = layers[0]
    local = {
        one.local_name(role): weights[key] for one in layers for role, key in one.keys.items() if key in weights
    }
    kind = KINDS[first.kind]
    plain = dense_class(first.kind, cell=first.cell)
    arguments: dict[str, Any] = {"bias": "bias_ih" in first.keys, "device": "meta", **options}
    if not kind.nonlinearities:
        arguments.pop("nonlinearity", None)
    if first.cell:
        arguments = {name: value for name, value in arguments.items() if name not in ("batch_first", "dropout")}
    else:
        arguments |= _shape_arguments(layers)
    if local or ring:
        return RING_OF[plain](first.input_size, first.hidden_size, weights=local, **arguments)
    return plain(first.input_size, first.hidden_size, **arguments)


def load_stack(module: nn.Module, layers: Sequence[Layer], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Give a module built by `build_stack` its tensors, in their own dtype and without copying.

    Raises:
        InputFileError: a tensor is missing or has another shape than the layer's sizes ask.
    """
    wanted = module.state_dict()
    names = {one.local_name(role): key for one in layers for role, key in one.keys.items()}
    state = {}
    for name, meta in wanted.items():
        root, dot, rest = name.partition(".")
        key = names.get(root, root) + dot + rest
        if key not in tensors or tensors[key].shape != meta.shape:
            found = f"has shape {tuple(tensors[key].shape)}" if key in tensors else "is missing"
            raise InputFileError(f"the file's tensor {key!r} {found}: {tuple(meta.shape)} expected")
        state[name] = tensors[key]
    module.load_state_dict(state, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return module


def _shape_arguments(layers: Sequence[Layer]) -> dict[str, Any]:
    depth, two_way = max(one.index for one in layers) + 1, any(one.reverse for one in layers)
    places = {(one.index, one.reverse) for one in layers}
    same = {(one.kind, one.hidden_size, one.proj_size, "bias_ih" in one.keys) for one in layers}
    if len(places) != depth * (1 + two_way) or len(places) != len(layers) or len(same) != 1:
        raise InputFileError(
            f"the layers of stack {layers[0].stack!r} do not form one torch.nn module: "
            f"{', '.join(one.local_name('weight_ih') for one in layers)}"
        )
    arguments: dict[str, Any] = {"num_layers": depth, "bidirectional": two_way}
    if layers[0].proj_size:
        arguments["proj_size"] = layers[0].proj_size
    return arguments
