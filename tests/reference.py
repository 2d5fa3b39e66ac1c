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
