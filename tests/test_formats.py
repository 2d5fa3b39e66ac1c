"""Every registered format: counts, the dense matrix it means, and the merging of chains."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import block_term_dense, tensor_ring_dense, tensor_train_dense

from trcompress.errors import ShapeError
from trcompress.formats import FORMATS, BlockTerm, TensorRing, TensorTrain
from trcompress.formats.chain import merge, merge_order
from trcompress.formats.tensor_ring import carried_ranks, ring_ranks
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Plan

ORACLES = {
    "tensor-ring": tensor_ring_dense,
    "tensor-train": tensor_train_dense,
    "block-term": block_term_dense,
}
EXAMPLES = [
    TensorRing((3, 2), (4, 2, 2), (2, 3, 4, 2, 3, 2)),
    TensorRing((5,), (6,), (2, 3, 2)),
    TensorTrain((3, 2, 4), (2, 5, 1), (1, 3, 2, 1)),
    BlockTerm((3, 2, 4), (2, 5, 1), rank=2, blocks=3),
]


def cores_of(structure, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in structure.core_shapes]


def test_every_format_is_tried_here():
    assert {structure.kind for structure in EXAMPLES} == set(FORMATS) == set(ORACLES)


@pytest.mark.parametrize("structure", EXAMPLES, ids=lambda one: one.kind)
def test_dense_matrix_is_the_sum_over_bonds(structure):
    cores = cores_of(structure)
    dense = structure.to_dense(cores)
    assert dense.shape == (prod(structure.in_modes), prod(structure.out_modes))
    torch.testing.assert_close(dense, ORACLES[structure.kind](structure, cores), rtol=1e-12, atol=1e-12)
    assert structure.parameters == sum(core.numel() for core in cores)


def test_counts_of_the_paper():
    assert TensorRing((4, 2, 5, 8, 6, 5, 3, 2), (16, 4, 2, 4, 2), (10, *[5] * 12, 10)).parameters == 1725
    assert TensorTrain((8, 20, 20, 18), (16, 4, 4, 4), (1, 4, 4, 4, 1)).parameters == 3360
    assert BlockTerm((8, 20, 20, 18), (16, 4, 4, 4), rank=4, blocks=2).parameters == 3392


@given(st.data())
def test_ring_is_input_factor_times_output_factor(data):
    n, m = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    modes = data.draw(st.lists(st.integers(1, 4), min_size=n + m, max_size=n + m))
    ranks = data.draw(st.lists(st.integers(1, 4), min_size=n + m, max_size=n + m))
    ring = TensorRing(tuple(modes[:n]), tuple(modes[n:]), (*ranks, ranks[0]))
    cores = cores_of(ring)
    assert ring.input_factor(cores).shape[-1] == ring.bottleneck == ring.output_factor(cores).shape[-2]
    torch.testing.assert_close(ring.to_dense(cores), tensor_ring_dense(ring, cores))


def test_a_batch_of_rings_is_each_ring():
    ring = EXAMPLES[0]
    one, two = cores_of(ring, 1), cores_of(ring, 2)
    both = ring.to_dense([torch.stack(pair) for pair in zip(one, two, strict=True)])
    torch.testing.assert_close(both, torch.stack([ring.to_dense(one), ring.to_dense(two)]))


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=6), st.integers(1, 5))
def test_merge_order_is_never_dearer_than_left_to_right(pairs, last):
    bonds = [*(bond for bond, _ in pairs), last]
    shapes = [(a, mode, b) for a, (_, mode), b in zip(bonds[:-1], pairs, bonds[1:], strict=True)]
    walk, width = 0, shapes[0][1]
    for start, mode, end in shapes[1:]:
        walk += bonds[0] * width * start * mode * end
        width *= mode
    assert merge_order(shapes)[0] <= walk
    cores = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    in_turn = cores[0]
    for core in cores[1:]:
        in_turn = torch.einsum("apb,bqc->apqc", in_turn, core).flatten(1, 2)
    torch.testing.assert_close(merge(cores), in_turn)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TensorTrain((2, 2), (2,), (1, 2, 1)), "pairs its modes"),
        (lambda: TensorTrain((2, 2), (2, 2), (2, 2, 1)), "1, R_1"),
        (lambda: BlockTerm((2,), (2, 2), 1, 1), "pairs its modes"),
        (lambda: BlockTerm((2,), (2,), 0, 1), "1 or more"),
    ],
)
def test_wrong_structures_say_why(build, message):
    with pytest.raises(ShapeError, match=message):
        build()


def squeezed(cores):
    """Move what lies above a core's own rank into its neighbour, by QR, until nothing does."""
    cores, count, before = list(cores), len(cores), None
    while before != [core.shape for core in cores]:
        before = [core.shape for core in cores]
        for k in range(count):
            r, n, right = cores[k].shape
            if r > n * right:
                Q, rest = torch.linalg.qr(cores[k].reshape(r, n * right))
                cores[k], cores[k - 1] = rest.reshape(-1, n, right), cores[k - 1] @ Q
            r, n, right = cores[k].shape
            if right > r * n:
                Q, rest = torch.linalg.qr(cores[k].reshape(r * n, right).T)
                follower = (k + 1) % count
                cores[k] = rest.T.reshape(r, n, -1)
                cores[follower] = torch.einsum("ab,bnc->anc", Q.T, cores[follower])
    return cores


@settings(max_examples=60)
@given(data=st.data(), modes=st.lists(st.integers(1, 4), min_size=2, max_size=5))
def test_ranks_above_what_a_bond_carries_add_nothing(data, modes):
    ranks = data.draw(st.lists(st.integers(1, 40), min_size=len(modes), max_size=len(modes)))
    cut = data.draw(st.integers(1, len(modes) - 1))
    ring = TensorRing(tuple(modes[:cut]), tuple(modes[cut:]), (*ranks, ranks[0]))
    carried = carried_ranks(ring.ranks, ring.in_modes, ring.out_modes)
    assert carried_ranks(carried, ring.in_modes, ring.out_modes) == carried
    assert all(low <= high for low, high in zip(carried, ring.ranks, strict=True))
    full = ring_ranks((), ring.in_modes, ring.out_modes)
    if all(rank >= needed for rank, needed in zip(ring.ranks, full, strict=True)):
        assert carried == full
        return
    cores = [torch.randn(shape, dtype=torch.float64) for shape in ring.core_shapes]
    smaller = squeezed(cores)
    kept = TensorRing(ring.in_modes, ring.out_modes, carried)
    assert [tuple(core.shape) for core in smaller] == list(kept.core_shapes)
    torch.testing.assert_close(kept.to_dense(smaller), ring.to_dense(cores))


def test_ranks_are_lowered_with_a_note_or_refused():
    matrix = Matrix.input_to_hidden("weight_ih_l0", "lstm", 40, 32)
    (weight,) = Plan.of("8x5:8x4", 10**9).resolve([matrix])
    assert weight.structure.ranks == (1, 8, 40, 4, 1)
    assert "lowered from 1000000000,1000000000" in weight.notes[0]
    (weight,) = Plan.of("8x5:8x4", "3,99").resolve([matrix])
    assert weight.structure.ranks == (12, 3, 3, 3, 12)
    assert Plan.of("8x5:8x4", "3,4").resolve([matrix])[0].notes == ()
    assert Plan.of("8x5:8x4", "3,99").resolve([matrix], as_given=True)[0].structure.ranks[0] == 99
    with pytest.raises(ShapeError, match=r"99,3,3,3,99 are above 12,3,3,3,12"):
        Plan.of("8x5:8x4", "3,99", exact=True).resolve([matrix])
