"""TR-SVD for any ring: cut W between inputs and outputs, fold K into the two bonds, split both halves.

Source: Zhao et al. 2016, Alg. 1; differs: the textbook cuts after the first mode and needs R0 * R1 <= I1, which
the TR-RNN paper's own rings violate. Here the first SVD is at the input|output cut, to rank K = R0 * Rn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trcompress.decomposition.factors import leading_factors
from trcompress.decomposition.objective import Objective
from trcompress.decomposition.tt_svd import open_tt_svd, possible_ranks
from trcompress.formats import TensorRing

POWERS = (0.5, 1.0, 0.0)
"""How much of the singular values goes with the input half before it is truncated."""


def tr_svd(objective: Objective) -> tuple[list[Tensor], tuple[str, ...]]:
    """Find cores by singular value decompositions alone.

    The K singular directions can be dealt out to (r0, rn) in either order, and the singular values to either half;
    where bonds truncate, that matters, and the best of all is kept.

    Returns:
        The cores, exactly of the ring's shapes, and notes on ranks that hold more than W can fill.
    """
    ring = objective.ring
    left, right = leading_factors(objective, ring.bottleneck)
    held = _norms(left, 0) * _norms(right, 1) > 0  # a direction that W lacks must take no room in a bond
    left, right = left[:, held], right[held]
    sizes = _norms(left, 0), _norms(right, 1)
    lossless = is_lossless(ring)
    best: tuple[float, list[Tensor]] | None = None
    for power in POWERS[:1] if lossless else POWERS:
        scale = sizes[0] ** (power - 1) * sizes[1] ** power  # of A's columns; B's rows get its inverse
        for swap in (False,) if lossless else (False, True):
            cores = split_halves(ring, left * scale, right / scale.unsqueeze(1), swap)
            squared = _distance(ring, left, right, cores)
            if best is None or squared < best[0]:
                best = squared, cores
    return best[1], clamp_notes(ring)  # type: ignore[index]


def split_halves(ring: TensorRing, left: Tensor, right: Tensor, swap: bool = False) -> list[Tensor]:
    """Split A (I, k) and B (k, O), k <= K, into the ring's cores; `swap` lets r0 run fastest."""
    n = len(ring.in_modes)
    a, b = open_chains(ring, left, right, swap)
    inputs = open_tt_svd(a, ring.in_modes, ring.ranks[: n + 1])
    outputs = open_tt_svd(b, ring.out_modes, ring.ranks[n:])
    return [core.contiguous() for core in (*inputs, *outputs)]


def open_chains(ring: TensorRing, left: Tensor, right: Tensor, swap: bool = False) -> tuple[Tensor, Tensor]:
    """Deal the k <= K directions of A (I, k) and B (k, O) out to the closing bonds: (r0, I, rn) and (rn, O, r0)."""
    k, r0, rn = ring.bottleneck, ring.ranks[0], ring.ranks[len(ring.in_modes)]
    left = torch.nn.functional.pad(left, (0, k - left.shape[1]))
    right = torch.nn.functional.pad(right, (0, 0, 0, k - right.shape[0]))
    if swap:
        return left.view(-1, rn, r0).permute(2, 0, 1), right.view(rn, r0, -1).permute(0, 2, 1)
    return left.view(-1, r0, rn).permute(1, 0, 2), right.view(r0, rn, -1).permute(1, 2, 0)


def clamp_notes(ring: TensorRing) -> tuple[str, ...]:
    """Say in words which ranks are higher than any matrix of these modes can fill."""
    notes = []
    n = len(ring.in_modes)
    rows, columns = 1, 1
    for mode in ring.in_modes:
        rows *= mode
    for mode in ring.out_modes:
        columns *= mode
    if ring.bottleneck > min(rows, columns):
        notes.append(
            f"R0*R{n} = {ring.bottleneck:,} exceeds the smaller side of W, {min(rows, columns):,}: "
            "the rest of these bonds is redundant"
        )
    for modes, ranks, start in ((ring.in_modes, ring.ranks[: n + 1], 0), (ring.out_modes, ring.ranks[n:], n)):
        for k, (asked, able) in enumerate(zip(ranks, possible_ranks(modes, ranks), strict=True), start):
            if asked > able:
                notes.append(f"R{k} = {asked:,} exceeds what its bond can hold, {able:,}: the rest is redundant")
    return tuple(notes)


def is_lossless(ring: TensorRing) -> bool:
    """Return True where no bond inside the halves truncates anything."""
    n = len(ring.in_modes)
    full = 1 << 60
    for modes, ranks in ((ring.in_modes, ring.ranks[: n + 1]), (ring.out_modes, ring.ranks[n:])):
        most = possible_ranks(modes, [ranks[0], *[full] * (len(modes) - 1), ranks[-1]])
        if any(rank < able for rank, able in zip(ranks, most, strict=True)):
            return False
    return True


def _distance(ring: TensorRing, left: Tensor, right: Tensor, cores: list[Tensor]) -> float:
    """||A B - A_hat B_hat||^2 from K x K products: ranks the ways to split without a pass over W."""
    a, b = ring.input_factor(cores), ring.output_factor(cores)
    own = ((a.t() @ a) * (b @ b.t())).sum()
    return float(own - 2 * ((left.t() @ a) * (right @ b.t())).sum())


def _norms(factor: Tensor, dim: int) -> Tensor:
    """Norms of a factor's directions."""
    return torch.linalg.vector_norm(factor, dim=dim)
