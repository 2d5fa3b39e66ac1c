"""Slow, obvious oracles: what the equations say, written as they are printed."""

from itertools import product

import torch


def tensor_ring_dense(ring, cores):
    """W[i, o] = trace of the product of one slice of every core (Eq. 5)."""
    n = len(ring.in_modes)
    rows = list(product(*map(range, ring.in_modes)))
    columns = list(product(*map(range, ring.out_modes)))
    dense = torch.empty(len(rows), len(columns), dtype=cores[0].dtype)
    for i, row in enumerate(rows):
        for o, column in enumerate(columns):
            chain = torch.eye(ring.ranks[0], dtype=cores[0].dtype)
            for core, index in zip(cores, (*row, *column), strict=True):
                chain = chain @ core[:, index, :]
            dense[i, o] = chain.trace()
    assert len(cores) == n + len(ring.out_modes)
    return dense


def tensor_train_dense(train, cores):
    """W[i, o] = product of the slices G_k[:, (i_k, o_k), :] (Novikov et al. 2015)."""
    rows = list(product(*map(range, train.in_modes)))
    columns = list(product(*map(range, train.out_modes)))
    dense = torch.empty(len(rows), len(columns), dtype=cores[0].dtype)
    for i, row in enumerate(rows):
        for o, column in enumerate(columns):
            chain = torch.ones(1, 1, dtype=cores[0].dtype)
            for core, size, a, b in zip(cores, train.out_modes, row, column, strict=True):
                chain = chain @ core[:, a * size + b, :]
            dense[i, o] = chain.item()
    return dense


def block_term_dense(blocks, cores):
    """W[i, o] = sum over blocks and Tucker indices of core times factors (Ye et al. 2018)."""
    *factors, tucker = cores
    rows = list(product(*map(range, blocks.in_modes)))
    columns = list(product(*map(range, blocks.out_modes)))
    dense = torch.zeros(len(rows), len(columns), dtype=tucker.dtype)
    ranks = list(product(range(blocks.rank), repeat=len(factors)))
    for i, row in enumerate(rows):
        for o, column in enumerate(columns):
            for n in range(blocks.blocks):
                for r in ranks:
                    term = tucker[(n, *r)]
                    for factor, a, b, rank in zip(factors, row, column, r, strict=True):
                        term = term * factor[n, a, b, rank]
                    dense[i, o] += term
    return dense


def ring_design_matrix(ring, cores, k):
    """Matrix D with vec(W) = D vec(core k): each column is the ring with one unit entry in core k."""
    columns = []
    for entry in range(cores[k].numel()):
        unit = torch.zeros_like(cores[k]).flatten()
        unit[entry] = 1.0
        trial = [unit.view_as(core) if j == k else core for j, core in enumerate(cores)]
        columns.append(ring.to_dense(trial).flatten())
    return torch.stack(columns, 1)


def ring_jacobian(ring, cores):
    """d vec(W_hat) / d (all cores), columns in the order of the cores."""
    return torch.cat([ring_design_matrix(ring, cores, k) for k in range(len(cores))], 1)


def arc_tails(ring, dense):
    """Lower bounds from every unfolding along consecutive modes, the cut included, as {(first, last): tail}."""
    d = len(ring.modes)
    tensor = dense.reshape(ring.modes)
    tails = {}
    for first in range(d):
        for width in range(1, d):
            inside = [(first + j) % d for j in range(width)]
            outside = [j for j in range(d) if j not in inside]
            rows = 1
            for j in inside:
                rows *= ring.modes[j]
            unfolding = tensor.permute(*inside, *outside).reshape(rows, -1)
            rank = ring.ranks[first] * ring.ranks[(first + width) % d]
            values = torch.linalg.svdvals(unfolding)
            tails[first, (first + width - 1) % d] = float(values[rank:].square().sum().sqrt())
    return tails


def metric_error(dense, approximation, rows=None, ridge=0.0, weights=None):
    """||L (W - W_hat) D||, with L'L formed and factorised as the formula says."""
    inputs = dense.shape[0]
    moment = torch.eye(inputs, dtype=dense.dtype)
    if rows is not None:
        moment = rows.t() @ rows + ridge * moment
    scaled = dense - approximation
    if weights is not None:
        scaled = scaled * weights
    return float((scaled * (moment @ scaled)).sum().clamp(min=0).sqrt())


def best_metric_error(dense, rank, rows, ridge, weights):
    """The least metric error of any matrix of this rank, by whitening W (L from a Cholesky factorisation)."""
    moment = rows.t() @ rows + ridge * torch.eye(dense.shape[0], dtype=dense.dtype)
    whitened = torch.linalg.cholesky(moment).t() @ dense * weights
    return float(torch.linalg.svdvals(whitened)[rank:].square().sum().sqrt())
