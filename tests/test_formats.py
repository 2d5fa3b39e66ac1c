"""Every registered format: counts, the dense matrix it means, and the merging of chains."""

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import block_term_dense, tensor_ring_dense, tensor_train_dense

from trcompress.errors import ShapeError
from trcompress.formats import FORMATS, BlockTerm, TensorRing, TensorTrain
from trcompress.formats.chain import merge, merge_order

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
