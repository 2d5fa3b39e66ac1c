"""Reparametrised recurrent weights back to plain ones: weight_norm (both kinds) and pruning masks.

Only recurrent weights are folded; every other tensor stays as it is in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from trcompress.checkpoint.names import parse_recurrent
from trcompress.checkpoint.stored import AnyTensor, DerivedTensor, UnreadableTensor
from trcompress.errors import InputFileError

_PARAMETRIZATIONS = "parametrizations"
Tensors = Mapping[str, AnyTensor | UnreadableTensor]


def fold_parametrizations(
    tensors: Tensors,
) -> tuple[dict[str, AnyTensor | UnreadableTensor], dict[str, str], tuple[str, ...]]:
    """Replace the parts of reparametrised recurrent weights by the weights themselves.

    Returns:
        The tensors, the old name of one part by each folded name, and notes.

    Raises:
        InputFileError: a recurrent weight is kept in parts that are not understood.
    """
    folded: dict[str, Any] = {}
    parts: dict[str, str] = {}
    for name, tensor in tensors.items():
        plain, part = _split(name)
        if part is None or plain in tensors:
            folded[name] = tensor
        elif plain not in parts:
            parts[plain] = name
            folded[plain] = _fold_one(plain, tensors, part)
    kinds = sorted({_KIND_OF[_split(name)[1] or ""] for name in parts.values()})
    return folded, parts, tuple(f"{kind} folded into the plain weights" for kind in kinds)


_KIND_OF = {
    "_g": "weight_norm",
    "_v": "weight_norm",
    "original0": "weight_norm",
    "original1": "weight_norm",
    "original": "a parametrization",
    "_orig": "a pruning mask",
    "_mask": "a pruning mask",
}


def _split(name: str) -> tuple[str, str | None]:
    """`rnn.weight_ih_l0_g` -> (`rnn.weight_ih_l0`, `_g`); the name itself and None where it is no such part."""
    scope = name.split(".")
    if len(scope) >= 3 and scope[-3] == _PARAMETRIZATIONS and scope[-1] in _KIND_OF:
        plain = ".".join((*scope[:-3], scope[-2]))
        return (plain, scope[-1]) if parse_recurrent(plain) else (name, None)
    for suffix in ("_g", "_v", "_orig", "_mask"):
        if name.endswith(suffix) and parse_recurrent(name.removesuffix(suffix)):
            return name.removesuffix(suffix), suffix
    return name, None


def _fold_one(plain: str, tensors: Tensors, part: str) -> DerivedTensor:
    parent, _, leaf = plain.rpartition(".")
    prefix = f"{parent}." if parent else ""
    inside = f"{prefix}{_PARAMETRIZATIONS}.{leaf}."
    names: tuple[str, str]
    make: Callable[[AnyTensor, AnyTensor], DerivedTensor]
    if part in ("_orig", "_mask"):
        names, make = (f"{plain}_orig", f"{plain}_mask"), _masked
    elif part in ("_g", "_v"):
        names, make = (f"{plain}_g", f"{plain}_v"), _normed
    else:
        names, make = (f"{inside}original0", f"{inside}original1"), _normed
    first, second = (tensors.get(name) for name in names)
    if (
        first is None
        or second is None
        or isinstance(first, UnreadableTensor)
        or isinstance(second, UnreadableTensor)
    ):
        raise InputFileError(
            f"the weight {plain!r} is kept in parts that cannot be folded: weight_norm and pruning need "
            f"{names[0]!r} and {names[1]!r}; remove the parametrization and save again "
            "(torch.nn.utils.parametrize.remove_parametrizations)"
        )
    return make(first, second)


def _masked(weight: AnyTensor, mask: AnyTensor) -> DerivedTensor:
    """Pruning: W = W_orig * mask."""
    _require(weight.shape == mask.shape, weight, mask)
    return DerivedTensor(weight.dtype, weight.shape, lambda: weight.load() * mask.load().to(weight.dtype))


def _normed(magnitude: AnyTensor, direction: AnyTensor) -> DerivedTensor:
    """weight_norm: W = g * V / ||V||, the norm over every dimension that g does not have."""
    shape, scale = direction.shape, magnitude.shape
    kept = [dim for dim, size in enumerate(scale) if size != 1]
    fits = all(one in (1, size) for one, size in zip(scale, shape, strict=False))
    _require(fits and len(kept) <= 1 and len(scale) in (0, len(shape)), magnitude, direction)
    dim = kept[0] if kept else _only_dim(scale, shape)

    def compute() -> Tensor:
        # The very function that torch.nn.utils.weight_norm calls, so that the values are its values.
        return torch._weight_norm(direction.load(), magnitude.load(), dim)

    return DerivedTensor(direction.dtype, shape, compute)


def _only_dim(scale: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """The dimension of a norm with a single value: all (-1), or the one whose size is 1."""
    return shape.index(1) if scale and 1 in shape else -1


def _require(fits: bool, first: AnyTensor, second: AnyTensor) -> None:
    if not fits:
        raise InputFileError(
            f"the two parts of a reparametrised weight must fit: got shapes {first.shape} and {second.shape}"
        )
