"""Which tensors of a network of many layers go down the ladder together, and how few bytes it may come to."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from math import ceil, prod

from torch import Tensor, nn

from trcompress.artifact.storage import STORAGE
from trcompress.passes.levels import SMALL, LevelChoice

MOST = 48
"""Choices that are measured one by one. Each costs some runs of the whole network, so that all of 200 layers alone
would take 17 times the time of these."""


def alike(choices: Sequence[LevelChoice]) -> dict[str, tuple[str, ...]]:
    """Group choices that take one level together: matrices of one role and size, in the order of the network.

    Returns:
        The names of the choices in each group, by what the ladder calls it; every choice alone up to `MOST`.
    """
    together = ceil(len(choices) / MOST)
    kinds: dict[tuple[object, ...], list[str]] = {}
    for one in choices:
        levels = tuple(level.name for level in one.levels)
        kinds.setdefault((one.name.rpartition(".")[2], one.levels[0].nbytes, levels), []).append(one.name)
    if together == 1:
        return {one.name: (one.name,) for one in choices}
    groups = [names[at : at + together] for names in kinds.values() for at in range(0, len(names), together)]
    return {_called(names): tuple(names) for names in groups}


def least_bytes(model: nn.Module, kinds: Sequence[str]) -> int:
    """Return bytes that no file of these storage types goes below, but for one that is entropy-coded.

    Args:
        model: the network; tensors of equal values may lie in the file once.
        kinds: storage types that are allowed, keys of `STORAGE`.
    """
    found: dict[tuple[object, ...], int] = {}
    for value in model.state_dict().values():
        if value.is_floating_point():
            digest = sha256(value.detach().cpu().double().numpy().tobytes()).digest()
            found[tuple(value.shape), digest] = _least(value, kinds)
    return sum(found.values())


def _least(value: Tensor, kinds: Sequence[str]) -> int:
    """Of one tensor; what stays as it is may lie in the file as halves."""
    may_be = [2 * value.numel()]
    if value.dim() > 1 and value.numel() >= SMALL:
        layouts = [STORAGE[kind].layout(tuple(value.shape)) for kind in kinds]
        may_be += [sum(prod(shape) * dtype.itemsize for dtype, shape in one.values()) for one in layouts]
    return min(may_be)


def _called(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} with {len(names) - 1} like it"
