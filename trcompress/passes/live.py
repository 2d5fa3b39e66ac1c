"""What of a live model can be compressed: its recurrent weights, what is tied, and what is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from trcompress.errors import UsageError
from trcompress.layers import CoreWeight, is_recurrent, module_matrices
from trcompress.layers.convert import dense_kind, own_methods
from trcompress.model.matrix import Matrix
from trcompress.model.tied import distinct


@dataclass(frozen=True)
class LiveWeights:
    """The input-to-hidden weights of a live model.

    Args:
        modules: recurrent modules by their first name in the model; each stands here once.
        matrices: each distinct weight once, under its first key.
        tied: key -> matrices of other modules or directions that are the same tensor.
        left: (name, reason) of modules and weights that are not touched.
        rings: keys of weights that are cores already.
    """

    modules: Mapping[str, nn.Module]
    matrices: tuple[Matrix, ...]
    tied: Mapping[str, tuple[Matrix, ...]]
    left: tuple[tuple[str, str], ...]
    rings: tuple[str, ...]


def find_weights(model: nn.Module) -> LiveWeights:
    """Find the recurrent weights of a model that cores can stand for.

    A module counts if it computes what torch.nn's computes: it is one of torch.nn's, or of a class made from one
    that keeps its forward, or a ring layer. Names of classes play no part.

    Args:
        model: any module.

    Raises:
        UsageError: parameters lie on the meta device, so that there are no values.
    """
    modules: dict[str, nn.Module] = {}
    left: list[tuple[str, str]] = []
    for name, module in model.named_modules():
        if is_recurrent(module) or dense_kind(module) is not None:
            reason = why_left(module)
            if reason is None:
                modules[name] = module
            else:
                left.append((name or type(module).__name__, reason))
    every = [matrix for name, module in modules.items() for matrix in module_matrices(module, name)]
    rings = tuple(one.key for one in every if isinstance(_weight(modules, one), CoreWeight))
    dense = [one for one in every if one.key not in rings]
    _refuse_meta(modules, dense)
    found = distinct(dense, _groups(model))
    foreign = [(key, f"it is tied to {other}, which cores cannot stand for") for key, other in found.foreign]
    return LiveWeights(modules, found.matrices, found.tied, (*left, *foreign), rings)


def why_left(module: nn.Module) -> str | None:
    """Say why a recurrent module must not be swapped, or return None where it may.

    Args:
        module: one of torch.nn's recurrent modules, of a class made from one, or a ring layer.
    """
    kind = dense_kind(module)
    if kind is None:
        return None
    if own := own_methods(module):
        return f"{type(module).__name__} is a {kind.__name__} with {', '.join(own)} of its own"
    known = set(getattr(module, "_flat_weights_names", ("weight_ih", "weight_hh", "bias_ih", "bias_hh")))
    if "parametrizations" in module._modules:
        return (
            "it is parametrized; torch.nn.utils.parametrize.remove_parametrizations makes plain weights of it first"
        )
    extra = sorted(({*module._parameters, *module._buffers, *module._modules} - known) - {None})
    if extra:
        return f"it holds {', '.join(extra)}, which torch.nn.{kind.__name__} does not have"
    missing = sorted(name for name in known if "weight_ih" in name and name not in module._parameters)
    if missing:
        return f"its {', '.join(missing)} is no parameter: something computes it before each call"
    return None


def _weight(modules: Mapping[str, nn.Module], matrix: Matrix) -> object:
    return getattr(modules[matrix.stack], local_name(matrix))


def local_name(matrix: Matrix) -> str:
    """Name a weight as its own module does, `weight_ih_l0`."""
    return matrix.key.removeprefix(f"{matrix.stack}.") if matrix.stack else matrix.key


def _refuse_meta(modules: Mapping[str, nn.Module], matrices: list[Matrix]) -> None:
    for one in matrices:
        weight = _weight(modules, one)
        if isinstance(weight, Tensor) and weight.is_meta:
            raise UsageError(f"{one.key} is on the meta device and has no values: load the weights, then compress")


def _groups(model: nn.Module) -> list[list[str]]:
    """Parameters that are the same memory, seen alike, by their first names in the model."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, module in model.named_modules():
        for leaf, one in module._parameters.items():
            if one is not None and one.numel() and not one.is_meta:
                memory = (one.data_ptr(), tuple(one.shape), one.stride(), one.device)
                groups.setdefault(memory, []).append(f"{name}.{leaf}" if name else leaf)
    return [keys for keys in groups.values() if len(keys) > 1]
