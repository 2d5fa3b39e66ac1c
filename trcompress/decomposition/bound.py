"""The error that no ring of given ranks can beat.

The matrix of a ring has rank K = R0 * Rn at most, and unfolded along any arc of consecutive modes a..b it has
rank R_a * R_(b+1) at most. By Eckart and Young the error is at least the tail of singular values of every such
unfolding. Where the modes pad W, a ring may have anything in the padding, which leaves the cut alone to bound it:
zero rows and columns do not change its singular values, but they do those of an arc's unfolding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from trcompress.decomposition.linalg import eigenvalues
from trcompress.decomposition.source import BLOCK_VALUES, MatrixSource
from trcompress.decomposition.spectrum import is_small, spectrum
from trcompress.formats import TensorRing

WORK = 1e11
"""Multiply-adds spent on arcs beside the cut; the most promising come first."""
SLACK = {torch.float64: 1e-13, torch.float32: 1e-6}
"""What rounding in a Gram matrix of this precision may add to a squared tail, relative to ||W||^2."""


@dataclass(frozen=True)
class Bound:
    """A lower bound on ||W - W_hat|| / ||W||, and where it comes from in words."""

    value: float
    where: str


@dataclass(frozen=True)
class Arc:
    """The modes first..last (counted from 0) of a ring against all others.

    Args:
        first: index of the first mode.
        last: index of the last mode.
        rank: the rank that the unfolding of a ring cannot exceed.
        rows: (before, in, after) the arc among the inputs; their product is I.
        columns: the same among the outputs.
    """

    first: int
    last: int
    rank: int
    rows: tuple[int, int, int]
    columns: tuple[int, int, int]

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of the unfolding: positions inside the arc, and outside."""
        inside = self.rows[1] * self.columns[1]
        return inside, prod(self.rows) * prod(self.columns) // inside

    @property
    def group(self) -> int:
        """Rows of W that must be seen at once to add to the smaller side's Gram matrix."""
        inside, outside = self.sides
        return self.rows[1] * self.rows[2] if inside <= outside else prod(self.rows)


def lower_bound(source: MatrixSource, ring: TensorRing, work: float = WORK) -> Bound:
    """Return the best lower bound on the relative error of any ring of these modes and ranks.

    Args:
        source: W, padded or not.
        ring: modes and ranks.
        work: multiply-adds to spend on arcs; 0 takes the cut between inputs and outputs only.

    Raises:
        InputFileError: W holds NaN or Inf.
    """
    n = len(ring.in_modes)
    norm = source.squared_norm
    if norm == 0.0:
        return Bound(0.0, "a zero matrix")
    cut = spectrum(source)
    slack = 1e-28 if is_small(source) else SLACK[source.working_dtype]
    value = _relative(cut.tail(ring.bottleneck) ** 2, norm, slack)
    best = Bound(value, f"the cut between inputs and outputs, rank R0*R{n} = {ring.bottleneck:,}")
    if source.gates_padded or (prod(ring.in_modes), prod(ring.out_modes)) != source.shape:
        return best
    for arc in _worthwhile(ring, work):
        if source.can_align(arc.group):
            values = _arc_squares(source, arc)
            value = _relative(float(values[arc.rank :].sum()), norm, SLACK[source.working_dtype])
            if value > best.value:
                best = Bound(value, _describe(ring, arc))
    return best


def beside_bound(error: float, bound: float) -> str:
    """Say what an error means, given the bound on it.

    Example:
        >>> beside_bound(0.31, 0.25)
        'no ring of these ranks can do better than 25.00 %; yours is at 31.00 %'
    """
    return f"no ring of these ranks can do better than {bound:.2%}; yours is at {error:.2%}".replace("%", " %")


def arcs(ring: TensorRing) -> Iterator[Arc]:
    """List the unfoldings of a ring along consecutive modes, each once: an arc and its complement are the same."""
    n, d = len(ring.in_modes), len(ring.modes)
    for first in range(d):
        for last in range(first, d - 1):
            if (first, last) == (0, n - 1):
                continue  # the cut between inputs and outputs
            rank = ring.ranks[first] * ring.ranks[last + 1]
            split = min(first, n), min(last + 1, n)
            rows = _three(ring.in_modes, *split)
            columns = _three(ring.out_modes, max(first - n, 0), max(last + 1 - n, 0))
            yield Arc(first, last, rank, rows, columns)


def _three(modes: tuple[int, ...], start: int, stop: int) -> tuple[int, int, int]:
    return prod(modes[:start]), prod(modes[start:stop]), prod(modes[stop:])


def _worthwhile(ring: TensorRing, work: float) -> list[Arc]:
    """Arcs whose rank is below what their unfolding could have, the tightest first, as far as `work` reaches."""
    able = [arc for arc in arcs(ring) if arc.rank < min(arc.sides)]
    able.sort(key=lambda arc: (arc.rank / min(arc.sides), arc.first, arc.last))
    chosen = []
    for arc in able:
        cost = float(prod(arc.sides)) * min(arc.sides) + 10.0 * min(arc.sides) ** 3
        if cost <= work:
            work -= cost
            chosen.append(arc)
    return chosen


def _arc_squares(source: MatrixSource, arc: Arc) -> Tensor:
    """Squared singular values of the unfolding, descending; remembered with the source."""
    known = source.__dict__.setdefault("_arc_squares", {})
    key = arc.rows, arc.columns
    if key not in known:
        inside, outside = arc.sides
        gram = torch.zeros(min(inside, outside), min(inside, outside), dtype=torch.float64, device=source.device)
        for _, block in source.blocks(multiple=arc.group):
            tensor = block.reshape(-1, *arc.rows[1:], *arc.columns)
            _add_gram(gram, tensor, (1, 4) if inside <= outside else (0, 2, 3, 5), inside <= outside, source)
        known[key] = eigenvalues(gram)
    return known[key]


def _add_gram(gram: Tensor, tensor: Tensor, kept: tuple[int, ...], inner: bool, source: MatrixSource) -> None:
    """gram += X X', X the tensor (before, in, after; before, in, after) with the `kept` dimensions as rows."""
    summed = [dim for dim in range(6) if dim not in kept]
    order = [*kept, *summed]
    for part in _pieces(tensor.permute(order), len(kept)):
        columns = part.to(source.device, source.working_dtype).reshape(len(gram), -1)
        gram += columns @ columns.t()


def _pieces(tensor: Tensor, dim: int) -> Iterator[Tensor]:
    """Cut a view along its dimensions from `dim` on into pieces of at most a block's values."""
    if tensor.numel() <= BLOCK_VALUES or dim == tensor.dim():
        yield tensor
        return
    one = tensor.numel() // tensor.shape[dim]
    size = max(1, BLOCK_VALUES // one)
    for piece in tensor.split(size, dim):
        yield from _pieces(piece, dim + 1)


def _relative(squared: float, norm: float, slack: float) -> float:
    return max(0.0, squared / norm - slack) ** 0.5


def _describe(ring: TensorRing, arc: Arc) -> str:
    modes = "x".join(map(str, ring.modes[arc.first : arc.last + 1]))
    ranks = f"R{arc.first}*R{arc.last + 1} = {arc.rank:,}"
    return f"the arc of modes {arc.first + 1}..{arc.last + 1} ({modes}), rank {ranks}"
