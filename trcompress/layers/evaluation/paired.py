"""Inputs times a tensor-train or a block-term weight: formats that pair an input mode with an output mode.

Their contraction ends in the outputs, not in a bottleneck. A train is cut in two like a ring: the cores right of
the cut are merged and meet the contiguous rows of x first, then the cores left of it. Tucker terms grow too wide
when merged, so their factors are taken one mode at a time, the last first.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from trcompress.errors import ShapeError
from trcompress.formats import BlockTerm, TensorTrain
from trcompress.formats.chain import merge
from trcompress.model.plan import WeightPlan


def paired_product(plan: WeightPlan, cores: Sequence[Tensor], x: Tensor) -> Tensor:
    """Multiply inputs with the weight: (..., I) -> (..., G*H), from the cores alone.

    Raises:
        ShapeError: the structure is neither a train nor a sum of block terms.
    """
    matrix = plan.matrix
    flat = F.pad(x, (0, plan.padded_input - matrix.columns)).reshape(-1, plan.padded_input)
    sets = [[core[g] for core in cores] for g in range(plan.copies)] if plan.per_gate else [list(cores)]
    parts = [_one_product(plan, one, flat) for one in sets]
    wide = torch.cat(parts, 1) if plan.per_gate else parts[0]
    gates = wide.view(-1, matrix.gates, plan.padded_hidden)[:, :, : matrix.gate_rows]
    return gates.reshape(*x.shape[:-1], matrix.rows)


def paired_macs(plan: WeightPlan) -> int:
    """Multiply-adds of `paired_product` for one row."""
    structure = plan.structure
    if isinstance(structure, TensorTrain):
        return plan.copies * min(_train_macs(structure, cut) for cut in range(len(structure.in_modes)))
    return plan.copies * _block_macs(structure)  # type: ignore[arg-type]


def _one_product(plan: WeightPlan, cores: Sequence[Tensor], x: Tensor) -> Tensor:
    if isinstance(plan.structure, TensorTrain):
        return _train_product(plan.structure, cores, x)
    if isinstance(plan.structure, BlockTerm):
        return _block_product(plan.structure, cores, x)
    raise ShapeError(f"only trains and block terms pair their modes: {plan.name} is a {plan.structure.kind}")


def _train_product(train: TensorTrain, cores: Sequence[Tensor], x: Tensor) -> Tensor:
    d = len(train.in_modes)
    cut = min(range(d), key=lambda split: _train_macs(train, split))
    S = _paired_matrix(train, cores, cut, d)  # (rs, I_right, O_right)
    rs, rows, columns = S.shape
    y = x.reshape(-1, rows) @ S.transpose(0, 1).reshape(rows, rs * columns)  # (N * I_left, rs * O_right)
    if cut == 0:
        return y
    P = _paired_matrix(train, cores, 0, cut)  # (1, I_left, O_left * rs)
    left = P.reshape(P.shape[1], -1, rs).transpose(1, 2).reshape(P.shape[1] * rs, -1)  # (I_left * rs, O_left)
    grid = y.view(-1, P.shape[1] * rs, columns).transpose(1, 2)  # (N, O_right, I_left * rs)
    return (grid.reshape(-1, left.shape[0]) @ left).view(-1, columns, left.shape[1]).transpose(1, 2).flatten(1)


def _paired_matrix(train: TensorTrain, cores: Sequence[Tensor], start: int, stop: int) -> Tensor:
    """Merge cores start..stop-1 of a train: (r, inputs, outputs * r')."""
    merged = merge(cores[start:stop])
    modes = [*zip(train.in_modes[start:stop], train.out_modes[start:stop], strict=True)]
    d = len(modes)
    grid = merged.reshape(merged.shape[0], *[size for pair in modes for size in pair], merged.shape[-1])
    order = [0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 1]
    return grid.permute(order).reshape(merged.shape[0], prod(mode for mode, _ in modes), -1)


def _train_macs(train: TensorTrain, cut: int) -> int:
    left, right = prod(train.in_modes[:cut]), prod(train.in_modes[cut:])
    o_left, o_right, rs = prod(train.out_modes[:cut]), prod(train.out_modes[cut:]), train.ranks[cut]
    return left * right * rs * o_right + (o_right * left * rs * o_left if cut else 0)


def _block_product(blocks: BlockTerm, cores: Sequence[Tensor], x: Tensor) -> Tensor:
    first, *factors, tucker = cores
    n, rank, i, o = blocks.blocks, blocks.rank, blocks.in_modes[0], blocks.out_modes[0]
    y = x.view(1, -1, 1, 1)  # (n or 1, N * I_1 ... I_k, bonds k+1..d, outputs k+1..d)
    for factor in reversed(factors):
        y = _absorb_mode(y, factor)
    rest = rank ** len(factors)
    head = first.reshape(n, i * o, rank) @ tucker.reshape(n, rank, rest)  # (n, I_1 * O_1, bonds)
    head = head.view(n, i, o, rest).transpose(2, 3).reshape(n * i * rest, o)
    y = y.expand(n, -1, -1, -1).reshape(n, x.shape[0], i, rest, -1)
    columns = y.shape[-1]
    rows = y.permute(1, 4, 0, 2, 3).reshape(-1, n * i * rest)  # (N * outputs, n * I_1 * bonds)
    return (rows @ head).view(-1, columns, o).transpose(1, 2).flatten(1)


def _absorb_mode(y: Tensor, factor: Tensor) -> Tensor:
    """Contract one input mode: (n, rows * i, bonds, outputs) to (n, rows, r * bonds, o * outputs)."""
    n, i, o, rank = factor.shape
    bonds, columns = y.shape[2:]
    if y.shape[0] == bonds == columns == 1:  # x itself, the same for every term: one product for all of them
        grown = (y.reshape(-1, i) @ factor.transpose(0, 1).reshape(i, -1)).view(-1, n, o, rank)
        return grown.permute(1, 0, 3, 2)
    grid = y.reshape(n, -1, i, bonds, columns).permute(0, 1, 3, 4, 2).reshape(n, -1, i)
    grown = (grid @ factor.reshape(n, i, o * rank)).view(n, -1, bonds, columns, o, rank)
    return grown.permute(0, 1, 5, 2, 4, 3).reshape(n, -1, rank * bonds, o * columns)


def _block_macs(blocks: BlockTerm) -> int:
    rows, bonds, columns, macs = prod(blocks.in_modes), 1, 1, 0
    for i, o in zip(reversed(blocks.in_modes[1:]), reversed(blocks.out_modes[1:]), strict=True):
        macs += rows * bonds * columns * o * blocks.rank
        rows, bonds, columns = rows // i, bonds * blocks.rank, columns * o
    return blocks.blocks * (macs + columns * rows * bonds * blocks.out_modes[0])
