"""Cores for an opened ring layer again, of the sizes that it has now; see `opening`.

The input cores stay. Output cores are fitted anew by alternating least squares, in the metric of the values that
come out of the bottleneck: no pass over the inputs is needed. Other weights that were rings are decomposed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.decomposition import InMemoryMatrix, Metric
from trcompress.decomposition.half import HalfProblem
from trcompress.decomposition.tt_svd import open_tt_svd, possible_ranks
from trcompress.decomposition.weight import decompose_weight
from trcompress.formats import TensorRing
from trcompress.formats.tensor_ring import carried_ranks
from trcompress.layers import CoreWeight, from_dense, layers_of
from trcompress.model.matrix import Matrix
from trcompress.model.weight_plan import WeightPlan
from trcompress.passes.guess import has
from trcompress.passes.matrix_moments import bottleneck_of
from trcompress.passes.moments import Moments
from trcompress.passes.opening import core_weight, ring_of
from trcompress.passes.rings import whole_rank
from trcompress.search.modes import mode_choices

SWEEPS = 60
"""Of alternating least squares over the output cores."""

RIDGE = 1e-4
"""Share of the mean energy that is added to every value's: what was not seen is not free."""

ALS = {"starts": 2, "sweeps": 100, "restarts": 0}
"""How hard other weights are decomposed."""


@dataclass(frozen=True)
class OutputSide:
    """Output cores of one ring.

    Args:
        modes: of the outputs, gates folded into the first.
        ranks: of the bonds from the last input core to the closing one.
        cores: `(r, n, r')`.
        error: squared, relative, in the metric.
    """

    modes: tuple[int, ...]
    ranks: tuple[int, ...]
    cores: tuple[Tensor, ...]
    error: float

    @property
    def values(self) -> int:
        """In the cores."""
        return sum(core.numel() for core in self.cores)


def closed(
    layer: nn.Module, before: nn.Module, moments: Mapping[str, Moments], *, rank: float | None = None
) -> nn.Module:
    """Give an opened layer cores wherever the layer that it came from has cores.

    Args:
        layer: opened, with other sizes perhaps; unchanged.
        before: the layer it came from.
        moments: of what each matrix multiplies, by its local name; and of bottlenecks.
        rank: the output cores of an input weight may have as many values as two factors of this rank would, an
            integer or a share of the break-even rank; they may always have as many as before.
    """
    cores = {name: one for name, one in before._modules.items() if isinstance(one, CoreWeight)}
    if not cores:
        return layer
    opened = [name for name in cores if isinstance(layer._modules.get(name), CoreWeight)]
    new: Any = _decomposed(layer, {name: one for name, one in cores.items() if name not in opened}, moments)
    for name in opened:
        weight = new.get_submodule(name)
        if weight.shape == cores[name].shape:  # every unit stays, and with it every core
            setattr(new, name, deepcopy(cores[name]))
            continue
        most = max(sum(core.numel() for core in cores[name].core) - _input_values(weight), _values(weight, rank))
        bias = name.replace("weight", "bias")
        seen = moments.get(bottleneck_of(name))
        setattr(new, name, fitted := _with_output_side(weight, seen, most, centred=has(new, bias)))
        if seen is not None and has(new, bias):
            lost = (weight.factors(torch.float64)[1] - fitted.factors(torch.float64)[1]).T @ seen.mean
            with torch.no_grad():
                getattr(new, bias).add_(lost.to(getattr(new, bias)))
    return new


def output_side(chain: Tensor, gram: Tensor, gates: int, most: int) -> OutputSide:
    """Find output cores for one side of a ring that take at most so many values.

    Args:
        chain: (Rn, G*H, R0), the side as one core.
        gram: (K, K) second moments of the bottleneck's values, ordered (r0, rn).
        gates: that are folded into the first mode.
        most: values that the cores may have; the side with the fewest is given where all have more.

    Returns:
        The least error in the metric.
    """
    rn, size, r0 = chain.shape
    found = [
        _fitted(chain, gram, gates, modes, _widest(rn, r0, (gates * modes[0], *modes[1:]), most))
        for modes in _mode_lists(size // gates)
    ]
    fitting = [one for one in found if one.values <= most]
    if fitting:
        return min(fitting, key=lambda one: (one.error, one.values))
    return min(found, key=lambda one: (one.values, one.error))


def _mode_lists(hidden: int) -> list[tuple[int, ...]]:
    """Modes of one gate, largest or smallest first, or after a core of the gates alone."""
    choices = [modes for modes in mode_choices(hidden, keep=1) if prod(modes) < 2 * hidden] or [(hidden,)]
    return list(dict.fromkeys(order for modes in choices for order in (modes, modes[::-1], (1, *modes))))


def _widest(rn: int, r0: int, modes: tuple[int, ...], most: int) -> tuple[int, ...]:
    """The widest equal inner ranks whose cores take at most so many values; ones where none do."""
    found, rank = (rn, *[1] * (len(modes) - 1), r0), 1
    while True:
        wider = tuple(possible_ranks(modes, (rn, *[rank] * (len(modes) - 1), r0)))
        if rank > 1 and (wider == found or values_of(wider, modes) > most):
            return found
        found, rank = wider, rank + 1


def values_of(ranks: Sequence[int], modes: Sequence[int]) -> int:
    """Count the values of an open chain."""
    return sum(r * n * q for r, n, q in zip(ranks[:-1], modes, ranks[1:], strict=True))


def _fitted(chain: Tensor, gram: Tensor, gates: int, modes: tuple[int, ...], ranks: tuple[int, ...]) -> OutputSide:
    """Fit cores to a chain (Rn, G*H, R0) whose units are padded with zeros where the modes ask."""
    rn, size, r0 = chain.shape
    metric = gram.view(r0, rn, r0, rn).permute(1, 0, 3, 2)  # (Rn, R0, Rn, R0)
    padded = prod(modes)
    grid = chain.reshape(rn, gates, size // gates, r0)
    wide = torch.nn.functional.pad(grid, (0, 0, 0, padded - size // gates)).reshape(rn, gates * padded, r0)
    folded = (gates * modes[0], *modes[1:])
    target = torch.einsum("aob,abcd->cod", wide, metric)
    constant = float((wide * target).sum())
    cores, value, last = open_tt_svd(wide, folded, ranks), torch.inf, torch.inf
    problem = HalfProblem(target, metric.contiguous())
    for _ in range(SWEEPS if len(folded) > 1 else 1):
        cores, value = problem.sweep(cores)
        if last - value < 1e-6 * constant:
            break
        last = value
    error = max(value + constant, 0.0) / constant if constant else 0.0
    return OutputSide(folded, ranks, tuple(cores), error)


def _with_output_side(weight: CoreWeight, seen: Moments | None, most: int, *, centred: bool) -> CoreWeight:
    plan, ring = weight.plan, ring_of(weight)
    inputs, cores = len(ring.in_modes), [core.detach() for core in weight.cores()]
    gram = _gram(seen, ring.bottleneck * plan.copies, centred)
    chains = cores[-1].double().cpu() if plan.per_gate else cores[-1].double().cpu().unsqueeze(0)
    gates = 1 if plan.per_gate else plan.matrix.gates
    own = [slice(at * ring.bottleneck, (at + 1) * ring.bottleneck) for at in range(plan.copies)]
    grams = [gram[at, at] for at in own]
    side = output_side(chains[0], grams[0], gates, most // plan.copies)
    others = zip(chains[1:], grams[1:], strict=True)  # of several rings each is one gate's
    sides = [side, *(_fitted(chain, seen_by, 1, side.modes, side.ranks) for chain, seen_by in others)]
    structure = TensorRing(ring.in_modes, side.modes, (*ring.ranks[:inputs], *side.ranks))
    found = [
        torch.stack(parts) if plan.per_gate else parts[0]
        for parts in zip(*(one.cores for one in sides), strict=True)
    ]
    return core_weight(replace(plan, structure=structure), [*cores[:inputs], *found], weight)


def _gram(seen: Moments | None, size: int, centred: bool) -> Tensor:
    gram = None if seen is None else seen.about(centred)
    if gram is None:
        return torch.eye(size, dtype=torch.float64)
    return gram + RIDGE * gram.diagonal().mean().clamp_min(1e-30) * torch.eye(size, dtype=torch.float64)


def _values(weight: CoreWeight, rank: float | None) -> int:
    """Of two factors of this rank, for what leads from the bottleneck to the gates."""
    if rank is None:
        return 0
    rows, bottleneck = weight.plan.matrix.rows, weight.bottleneck
    return whole_rank(rank, rows, bottleneck) * (rows + bottleneck)


def _input_values(weight: CoreWeight) -> int:
    return sum(core.numel() for core in weight.cores()[: len(ring_of(weight).in_modes)])


def _decomposed(layer: Any, cores: Mapping[str, CoreWeight], moments: Mapping[str, Moments]) -> nn.Module:
    """Decompose weights that are dense now; those that would have no fewer values stay so."""
    matrices = {matrix.key: matrix for one in layers_of(layer) for matrix in one.matrices}
    plans = {name: _resized(one.plan, matrices[name]) for name, one in cores.items()}
    plans = {name: one for name, one in plans.items() if one.parameters < one.matrix.parameters}
    if not plans:
        return layer
    ring = from_dense(layer, plans)
    for name, plan in plans.items():
        bias, seen = name.replace("weight", "bias"), moments.get(name)
        source = InMemoryMatrix(getattr(layer, name).detach())
        metric = _metric(seen, centred=has(ring, bias), columns=plan.matrix.columns)
        found = decompose_weight(plan, source, metric=metric, **ALS)
        weight: Any = ring.get_submodule(name)
        weight.set_cores([core.to(weight.dtype) for core in found.cores])
    return ring


def _resized(plan: WeightPlan, matrix: Matrix) -> WeightPlan:
    """The structure for a matrix of other sizes: as many modes where there are as many, the same ranks."""
    ring = plan.structure
    ins = (
        ring.in_modes
        if prod(ring.in_modes) >= matrix.columns == plan.matrix.columns
        else _modes(matrix.columns, len(ring.in_modes))
    )
    gates = 1 if plan.per_gate else matrix.gates
    first, *rest = _modes(matrix.gate_rows, len(ring.out_modes))
    outs = (gates * first, *rest)
    n = len(ring.in_modes)
    bonds = (*ring.ranks[: len(ins)], *ring.ranks[n : n + len(outs)], ring.ranks[0])
    return replace(
        plan, matrix=matrix, structure=TensorRing(ins, outs, carried_ranks(bonds, ins, outs)), asked_ranks=()
    )


def _modes(size: int, most: int) -> tuple[int, ...]:
    return max(
        (modes for modes in mode_choices(size, keep=1, most=most) if prod(modes) < 2 * size),
        key=len,
        default=(size,),
    )


def _metric(seen: Moments | None, *, centred: bool, columns: int) -> Metric | None:
    second = None if seen is None else seen.about(centred)
    if second is None:
        return None
    values, vectors = torch.linalg.eigh(second)
    rows = values.clamp_min(0).sqrt().unsqueeze(1) * vectors.T
    return Metric(rows, RIDGE * float(second.diagonal().mean())) if bool(rows.any()) else None
