"""Weights that are one tensor under several names: which to compress, and which go with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trcompress.model.matrix import Matrix


@dataclass(frozen=True)
class Distinct:
    """Matrices with each tensor once.

    Args:
        matrices: every distinct matrix, under its first key.
        tied: key -> the other matrices that are the same tensor.
        foreign: (key, other key) of matrices that are the same tensor as something that is none of the matrices, so
            that cores cannot stand for them without cutting the tie.
    """

    matrices: tuple[Matrix, ...]
    tied: Mapping[str, tuple[Matrix, ...]]
    foreign: tuple[tuple[str, str], ...] = ()


def distinct(matrices: Sequence[Matrix], groups: Iterable[Sequence[str]]) -> Distinct:
    """Sort matrices by the tensor they are.

    Args:
        matrices: as they are found, in order.
        groups: keys that are one tensor.

    Example:
        >>> both = [Matrix.input_to_hidden(key, "gru", 6, 4) for key in ("left.w", "right.w")]
        >>> found = distinct(both, [("left.w", "right.w")])
        >>> [one.key for one in found.matrices], [one.key for one in found.tied["left.w"]]
        (['left.w'], ['right.w'])
    """
    known = {one.key: one for one in matrices}
    tied: dict[str, tuple[Matrix, ...]] = {}
    foreign: dict[str, str] = {}
    for group in groups:
        mine = [known[key] for key in known if key in group]
        others = [key for key in group if key not in known]
        if others:
            foreign |= {one.key: others[0] for one in mine}
        elif len(mine) > 1:
            tied[mine[0].key] = tuple(mine[1:])
    aside = {one.key for ones in tied.values() for one in ones} | set(foreign)
    return Distinct(tuple(one for one in matrices if one.key not in aside), tied, tuple(foreign.items()))
