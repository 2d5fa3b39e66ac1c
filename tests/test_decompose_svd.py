"""TR-SVD and what it is made of: exactness, discarded singular values, clamped ranks, stubborn matrices."""

import pytest
import tensorly as tl
import torch

from trcompress.decomposition import InMemoryMatrix, decompose, linalg, tr_svd_max_error
from trcompress.decomposition import source as source_module
from trcompress.decomposition import spectrum as spectrum_module
from trcompress.decomposition.spectrum import spectrum
from trcompress.decomposition.tt_svd import open_tt_svd, possible_ranks
from trcompress.errors import InputFileError, UsageError
from trcompress.formats import TensorRing


def _noise(outputs, inputs, dtype=torch.float64, seed=0):
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _error(weight, found):
    dense = weight.double().t()
    return float((dense - found.ring.to_dense(found.cores)).norm() / dense.norm())


FULL = [
    TensorRing((12,), (40,), (1, 12, 1)),
    TensorRing((12,), (40,), (3, 4, 3)),
    TensorRing((40,), (12,), (4, 3, 4)),
    TensorRing((3, 4), (5, 8), (1, 3, 12, 8, 1)),
    TensorRing((3, 4), (5, 8), (3, 9, 4, 20, 3)),
    TensorRing((2, 3, 2), (5, 2, 4), (2, 4, 12, 6, 30, 8, 2)),
    TensorRing((4, 4), (5, 8), (1, 4, 16, 8, 1)),
]


@pytest.mark.parametrize("init", ["tr-svd", "tr-als"])
@pytest.mark.parametrize(("dtype", "least"), [(torch.float64, 1e-13), (torch.float32, 1e-7)])
@pytest.mark.parametrize("ring", FULL, ids=str)
def test_full_ranks_are_exact(ring, dtype, least, init):
    rows, columns = (40, 12) if ring.in_modes == (40,) else (12, 40)
    weight = _noise(columns, rows, dtype)
    found = decompose(weight, ring, init=init)
    assert tuple(tuple(core.shape) for core in found.cores) == ring.core_shapes
    assert _error(torch.nn.functional.pad(weight, (0, ring.to_dense(found.cores).shape[0] - rows)), found) < least


def test_tiny_singular_values_keep_their_digits():
    u, _ = torch.linalg.qr(_noise(64, 24))
    v, _ = torch.linalg.qr(_noise(24, 24, seed=1))
    weight = u * torch.logspace(0, -12, 24, dtype=torch.float64) @ v.t()
    found = decompose(weight, TensorRing((24,), (64,), (4, 6, 4)), init="tr-svd")
    assert _error(weight, found) < 1e-13


@pytest.mark.parametrize("k", [1, 4, 9])
@pytest.mark.parametrize("init", ["tr-svd", "tr-als"])
def test_a_ring_of_two_modes_is_truncated_svd(k, init):
    weight = _noise(30, 20)
    found = decompose(weight, TensorRing((20,), (30,), (1, k, 1)), init=init)
    discarded = torch.linalg.svdvals(weight)[k:].square().sum().sqrt()
    assert found.error == pytest.approx(float(discarded / weight.norm()), rel=1e-12)
    assert found.bound == pytest.approx(found.error, rel=1e-9)


def test_the_gram_way_agrees_with_the_exact_way(monkeypatch):
    weight = _noise(30, 50)
    exact = spectrum(InMemoryMatrix(weight)).values
    monkeypatch.setattr(spectrum_module, "EXACT_WORK", 0)
    ring = TensorRing((5, 10), (30,), (2, 5, 3, 2))
    for matrix in (weight, weight.t().contiguous()):
        torch.testing.assert_close(spectrum(InMemoryMatrix(matrix)).values, exact, rtol=1e-7, atol=1e-7)
    through_gram = decompose(weight, ring, init="tr-svd").error
    monkeypatch.undo()
    assert through_gram == pytest.approx(decompose(weight, ring, init="tr-svd").error, rel=1e-6)


@pytest.mark.parametrize("ranks", [(2, 3, 3, 4, 2), (3, 99, 2, 99, 3)])
def test_open_chains_of_enough_rank_are_exact_and_others_lose_what_they_discard(ranks):
    chain = _noise(ranks[0], 12 * ranks[-1]).reshape(ranks[0], 12, ranks[-1])
    from trcompress.formats.chain import merge

    able = possible_ranks((3, 2, 2), [ranks[0], 99, 99, ranks[-1]])
    torch.testing.assert_close(merge(open_tt_svd(chain, (3, 2, 2), able)), chain)
    one_cut = [ranks[0], 2, 99, ranks[-1]]
    cores = open_tt_svd(chain, (3, 2, 2), one_cut)
    assert [core.shape[0] for core in cores] == one_cut[:-1]
    lost = torch.linalg.svdvals(chain.reshape(ranks[0] * 3, -1))[2:].square().sum()
    torch.testing.assert_close((merge(cores) - chain).square().sum(), lost)


def test_ranks_above_what_can_be_filled_are_kept_and_noted():
    ring = TensorRing((3, 4), (4, 2), (4, 50, 6, 9, 4))
    found = decompose(_noise(8, 12), ring, init="tr-svd")
    assert tuple(tuple(core.shape) for core in found.cores) == ring.core_shapes
    notes = " / ".join(found.notes)
    assert "R0*R2 = 24 exceeds the smaller side of W, 8" in notes
    assert "R1 = 50 exceeds what its bond can hold, 12" in notes
    assert "R3 = 9 exceeds what its bond can hold, 8" in notes
    assert found.error < 1e-12


def test_the_papers_own_ranks_work_where_the_textbook_refuses():
    ring = TensorRing((4, 2, 5), (4, 4, 2), (10, 5, 5, 5, 5, 5, 10))
    weight = _noise(32, 40)
    with tl.backend_context("pytorch"), pytest.raises(ValueError, match="rank"):
        tl.decomposition.tensor_ring(weight.t().reshape(ring.modes), list(ring.ranks))
    assert decompose(weight, ring, init="tr-svd").error < 1


def test_dense_agrees_with_tensorly():
    ring = TensorRing((4, 3), (4, 2), (2, 3, 2, 3, 2))
    found = decompose(_noise(8, 12), ring)
    with tl.backend_context("pytorch"):
        dense = tl.tr_to_tensor(list(found.cores)).reshape(12, 8)
    torch.testing.assert_close(dense, ring.to_dense(found.cores))


@pytest.mark.parametrize("modes", [((20,), (30,)), ((4, 5), (6, 5)), ((5, 2, 2), (3, 10))])
@pytest.mark.parametrize("max_error", [1e-6, 0.1, 0.6])
def test_ranks_picked_by_error_keep_to_it(modes, max_error):
    weight = _noise(30, 20)
    ring, found = tr_svd_max_error(weight, *modes, max_error)
    assert found.ring == ring
    assert found.error <= max_error
    assert _error(weight, found) == pytest.approx(found.error)
    assert ring.in_modes, ring.out_modes == modes


def test_ranks_picked_by_error_are_few_where_w_is_simple_and_minimal_for_two_modes():
    weight = _noise(30, 20)
    values = torch.linalg.svdvals(weight)
    ring, _ = tr_svd_max_error(weight, (20,), (30,), 0.5)
    tails = values.square().flip(0).cumsum(0).flip(0).sqrt() / values.norm()
    assert ring.bottleneck == int((tails > 0.5).sum())
    train = TensorRing((4, 5), (6, 5), (1, 2, 2, 2, 1))
    cores = [_noise(r, n * q).view(r, n, q) for r, n, q in train.core_shapes]
    ring, _ = tr_svd_max_error(train.to_dense(cores).t(), (4, 5), (6, 5), 1e-6)
    assert ring.parameters <= train.parameters


def test_an_error_out_of_range_is_refused():
    with pytest.raises(UsageError, match="between 0 and 1: got 3"):
        tr_svd_max_error(_noise(6, 6), (6,), (6,), 3)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_an_svd_that_does_not_converge_is_tried_in_other_ways(monkeypatch, failures):
    matrix = _noise(9, 7)
    expected = torch.linalg.svdvals(matrix)
    true_svd, calls = torch.linalg.svd, []

    def stubborn(*args, **kwargs):
        calls.append(args)
        if len(calls) <= failures:
            raise torch.linalg.LinAlgError("did not converge")
        return true_svd(*args, **kwargs)

    monkeypatch.setattr(torch.linalg, "svd", stubborn)
    u, s, vh = linalg.svd(matrix)
    torch.testing.assert_close(s, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(u * s @ vh, matrix, rtol=1e-9, atol=1e-9)
    assert len(calls) > failures or failures == 3


def test_a_matrix_that_never_converges_ends_in_one_clear_error(monkeypatch):
    def never(*args, **kwargs):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "svd", never)
    monkeypatch.setattr(torch.linalg, "eigh", never)
    with pytest.raises(InputFileError, match="do not converge"):
        linalg.svd(_noise(9, 7))


def test_normal_equations_of_a_singular_matrix_stay_near_the_previous_solution():
    singular = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    right, previous = torch.tensor([[2.0], [0.0]]).double(), torch.tensor([[7.0], [5.0]]).double()
    solved = linalg.solve_normal(singular, right, previous)
    torch.testing.assert_close(solved, torch.tensor([[2.0], [5.0]]).double(), rtol=1e-6, atol=1e-6)


def test_large_float32_matrices_take_the_float32_way_to_the_same_error(monkeypatch):
    weight = _noise(30, 50, torch.float32)
    ring = TensorRing((5, 10), (5, 6), (3, 4, 3, 4, 3))
    expected = decompose(weight, ring)
    monkeypatch.setattr(source_module, "LARGE_VALUES", 1)
    monkeypatch.setattr(spectrum_module, "EXACT_WORK", 0)
    found = decompose(weight, ring)
    assert found.error == pytest.approx(expected.error, rel=1e-2)
    assert found.error == pytest.approx(_error(weight, found), rel=1e-5)
    assert found.bound == pytest.approx(expected.bound, rel=1e-4)


ODD = [
    TensorRing((40,), (24,), (1, 1, 1)),
    TensorRing((40,), (24,), (300, 1, 300)),
    TensorRing((1, 40, 1), (1, 24), (2, 3, 4, 5, 6, 2)),
    TensorRing((40,), (2, 3, 4), (2, 9, 1, 200, 2)),
    TensorRing((2, 2, 2, 5), (24,), (1,) * 6),
    TensorRing((5, 8), (4, 6), (12,) * 5),
    TensorRing((2, 1, 2, 1, 2, 5, 1, 1), (2, 3, 2, 2, 1), (3,) * 14),
]


@pytest.mark.parametrize("init", ["tr-svd", "tr-als", "random"])
@pytest.mark.parametrize("ring", ODD, ids=str)
def test_odd_rings_are_decomposed_and_what_is_redundant_is_said(ring, init):
    found = decompose(_noise(24, 40), ring, init=init)
    assert tuple(tuple(core.shape) for core in found.cores) == ring.core_shapes
    assert found.bound <= found.error
    n = len(ring.in_modes)
    able = [
        *possible_ranks(ring.in_modes, ring.ranks[: n + 1])[:-1],
        *possible_ranks(ring.out_modes, ring.ranks[n:]),
    ]
    notes = " / ".join(found.notes)
    assert ("exceeds the smaller side" in notes) == (ring.bottleneck > 24)
    for k, (asked, most) in enumerate(zip(ring.ranks, able, strict=True)):
        assert (f"R{k} = {asked:,} exceeds what its bond can hold, {most:,}" in notes) == (asked > most)
    if init != "random":
        assert found.error <= 1 + 1e-12
    if ring.bottleneck >= 24 and init == "tr-als":
        assert found.error < 1


@pytest.mark.parametrize(
    "modes", [((1, 40), (24,)), ((5, 8), (1, 24, 1)), ((2, 1, 2, 1, 2, 5, 1, 1), (2, 3, 2, 2, 1))]
)
def test_ranks_are_picked_by_error_for_odd_modes(modes):
    ring, found = tr_svd_max_error(_noise(24, 40), *modes, 0.4)
    assert (ring.in_modes, ring.out_modes) == modes
    assert found.error <= 0.4
