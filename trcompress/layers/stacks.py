"""Recurrent stacks as modules, built from their description in a checkpoint or an artifact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from trcompress.errors import InputFileError
from trcompress.layers import RING_OF
from trcompress.model.plan import WeightPlan


class LayerLike(Protocol):
    """What `checkpoint.RnnLayer` and `header.Layer` have in common."""

    @property
    def stack(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def layer(self) -> int: ...

    @property
    def reverse(self) -> bool: ...

    @property
    def cell(self) -> bool: ...

    @property
    def input_size(self) -> int: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def proj_size(self) -> int: ...

    @property
    def keys(self) -> Mapping[str, str]: ...


L = TypeVar("L", bound=LayerLike)


def by_stack(layers: Iterable[L]) -> dict[str, list[L]]:
    """Group layers by the stack they belong to, in order of layer, forward before backward."""
    stacks: dict[str, list[L]] = {}
    for layer in layers:
        stacks.setdefault(layer.stack, []).append(layer)
    return {name: sorted(group, key=lambda one: (one.layer, one.reverse)) for name, group in stacks.items()}


def local_name(role: str, layer: LayerLike) -> str:
    """Name of a weight inside its module: `weight_ih_l0_reverse`, or `weight_ih` in a cell."""
    if layer.cell:
        return role
    return f"{role}_l{layer.layer}" + ("_reverse" if layer.reverse else "")


def build_stack(layers: Sequence[LayerLike], weights: Mapping[str, WeightPlan], **options: Any) -> nn.Module:
    """Build the module for one stack, on the meta device: ring layers where `weights` names a weight.

    Args:
        layers: the stack's layers, one per layer and direction.
        weights: structures by checkpoint key; a stack without any becomes a plain torch.nn module.
        options: passed to the module: `batch_first`, `dropout`, `nonlinearity`.

    Raises:
        InputFileError: the layers do not form one PyTorch module.
    """
    first = layers[0]
    local = {local_name("weight_ih", one): weights[one.keys["weight_ih"]] for one in layers if _key(one) in weights}
    plain = getattr(nn, first.kind.upper() + ("Cell" if first.cell else ""))
    arguments: dict[str, Any] = {"bias": "bias_ih" in first.keys, "device": "meta", **options}
    if first.kind != "rnn":
        arguments.pop("nonlinearity", None)
    if first.cell:
        arguments = {name: value for name, value in arguments.items() if name not in ("batch_first", "dropout")}
    else:
        arguments |= _shape_arguments(layers)
    if local:
        return RING_OF[plain](first.input_size, first.hidden_size, weights=local, **arguments)
    return plain(first.input_size, first.hidden_size, **arguments)


def load_stack(module: nn.Module, layers: Sequence[LayerLike], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Give a module built by `build_stack` its tensors, in their own dtype and without copying.

    Raises:
        InputFileError: a tensor is missing or has another shape than the layer's sizes ask.
    """
    wanted = module.state_dict()
    names = {local_name(role, one): key for one in layers for role, key in one.keys.items()}
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


def _key(layer: LayerLike) -> str:
    return layer.keys["weight_ih"]


def _shape_arguments(layers: Sequence[LayerLike]) -> dict[str, Any]:
    depth, two_way = max(one.layer for one in layers) + 1, any(one.reverse for one in layers)
    places = {(one.layer, one.reverse) for one in layers}
    same = {(one.kind, one.hidden_size, one.proj_size, "bias_ih" in one.keys) for one in layers}
    if len(places) != depth * (1 + two_way) or len(places) != len(layers) or len(same) != 1:
        raise InputFileError(
            f"the layers of stack {layers[0].stack!r} do not form one torch.nn module: "
            f"{', '.join(local_name('weight_ih', one) for one in layers)}"
        )
    arguments: dict[str, Any] = {"num_layers": depth, "bidirectional": two_way}
    if layers[0].proj_size:
        arguments["proj_size"] = layers[0].proj_size
    return arguments
