"""TT-SVD of one half of the ring: a chain whose two ends stay open."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from trcompress.decomposition.linalg import eigh, svd

WIDE = 16
"""Columns per row from which the leading left vectors come from the rows' Gram matrix, to spare copies."""
LARGE = 1 << 21
"""Values from which they do; smaller matrices keep all digits."""


def open_tt_svd(tensor: Tensor, modes: Sequence[int], ranks: Sequence[int]) -> list[Tensor]:
    """Split a merged chain into cores by successive truncated SVDs (Oseledets 2011, TT-SVD).

    Args:
        tensor: (a, prod(modes), b).
        modes: (n_1 ... n_m).
        ranks: (a, r_1 ... r_{m-1}, b), upper bounds; a bond that holds less is filled up with zeros.

    Returns:
        m cores, the k-th `(ranks[k], modes[k], ranks[k+1])`.

    Example:
        >>> [tuple(core.shape) for core in open_tt_svd(torch.ones(2, 12, 3), (4, 3), (2, 5, 3))]
        [(2, 4, 5), (5, 3, 3)]
    """
    a, _, b = tensor.shape
    if len(modes) == 1:
        return [tensor]
    cores, rest, left = [], tensor, a
    for mode, rank in zip(modes[:-1], ranks[1:-1], strict=True):
        u, s, vh = _leading(rest.reshape(left * mode, -1), rank)
        cores.append(u.reshape(left, mode, -1))
        rest, left = s.unsqueeze(1) * vh, u.shape[1]  # (left, remaining modes * b)
    cores.append(rest.reshape(left, modes[-1], b))
    return [pad_core(core, r, q) for core, r, q in zip(cores, ranks[:-1], ranks[1:], strict=True)]


def possible_ranks(modes: Sequence[int], ranks: Sequence[int]) -> list[int]:
    """Return the ranks of an open chain, each lowered to what its unfolding can hold.

    Example:
        >>> possible_ranks((4, 3, 2), (2, 99, 99, 3))
        [2, 8, 6, 3]
    """
    a, b = ranks[0], ranks[-1]
    inner = [min(r, a * prod(modes[:k]), prod(modes[k:]) * b) for k, r in enumerate(ranks[1:-1], 1)]
    return [a, *inner, b]


def pad_core(core: Tensor, left: int, right: int) -> Tensor:
    """Fill a core up with zeros to `left` and `right` ranks, or cut it to them."""
    core = core[:left, :, :right]
    return torch.nn.functional.pad(core, (0, right - core.shape[2], 0, 0, 0, left - core.shape[0]))


def _leading(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` leading singular vectors and values, or all where there are fewer."""
    rows, columns = matrix.shape
    if columns < WIDE * rows or matrix.numel() < LARGE:
        u, s, vh = svd(matrix)
        return u[:, :count], s[:count], vh[:count]
    u = eigh(matrix @ matrix.t())[1].flip(-1)[:, :count]
    vh = u.t() @ matrix
    s = torch.linalg.vector_norm(vh, dim=1)
    return u, s, vh.div_(torch.where(s > 0, s, torch.ones_like(s)).unsqueeze(1))
