"""TR-ALS and its Gauss-Newton polish: against design matrices, on planted rings, on real weights."""

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trcompress.decomposition import InMemoryMatrix, als, decompose
from trcompress.decomposition.als import Fit
from trcompress.decomposition.objective import InputRows, Objective
from trcompress.decomposition.planted import gauss_newton
from trcompress.decomposition.starts import adapted, random_cores, ring_squared_norm
from trcompress.formats import TensorRing

PLANTED = [
    (modes, ranks, kind)
    for modes, all_ranks in {
        "4x4x4:4x4": ((2,) * 6, (3,) * 6, (5,) * 6, (2, 3, 4, 3, 2, 2)),
        "6x5x4:3x8": ((2,) * 6, (4,) * 6, (6,) * 6, (3, 2, 4, 2, 5, 3)),
        "8x8:8x8": ((2,) * 5, (4,) * 5, (6, 3, 2, 3, 6)),
        "3x5:4x6": ((2,) * 5, (3,) * 5),
        "4x4x4x4:4x4x4": ((3,) * 8, (10, 2, 2, 2, 2, 2, 2, 10)),
        "16:5x7": ((2,) * 4, (3, 2, 3, 3)),
        "2x3x2:3x2": ((2,) * 6,),
        "9:4x6": ((2,) * 4,),
    }.items()
    for ranks in all_ranks
    for kind in ("normal",)
] + [("6x5x4:3x8", (3,) * 6, "uniform"), ("4x4x4:4x4", (4,) * 6, "uniform"), ("12:30", (3,) * 3, "normal")]


def _ring(modes, ranks):
    in_modes, out_modes = (tuple(map(int, side.split("x"))) for side in modes.split(":"))
    return TensorRing(in_modes, out_modes, tuple(ranks))


def _cores(ring, seed=0, kind="normal"):
    make = torch.randn if kind == "normal" else torch.rand
    generator = torch.Generator().manual_seed(seed)
    return [make(shape, generator=generator, dtype=torch.float64) for shape in ring.core_shapes]


def _noise(outputs, inputs, seed=0):
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("modes", "ranks", "kind"), PLANTED)
def test_planted_rings_are_recovered(modes, ranks, kind):
    ring = _ring(modes, ranks)
    weight = ring.to_dense(_cores(ring, seed=sum(ranks), kind=kind)).t()
    found = decompose(weight, ring)
    dense = ring.to_dense(found.cores)
    assert float((dense - weight.t()).norm() / weight.norm()) < 1e-6
    assert found.error < 1e-6
    assert found.bound <= found.error


def test_there_are_at_least_twenty_planted_rings():
    assert len(set(PLANTED)) >= 20


def test_a_planted_ring_in_float32_is_recovered_to_its_own_rounding():
    ring = _ring("6x5x4:3x8", (3,) * 6)
    weight = ring.to_dense(_cores(ring)).t().float()
    assert decompose(weight, ring).error < 1e-6


@pytest.mark.parametrize("k", range(5))
def test_one_core_update_is_the_least_squares_solution(k):
    ring = _ring("3x4:4x3x2", (2, 3, 2, 3, 2, 2))
    cores, weight = _cores(ring), _noise(24, 12)
    objective = Objective(InMemoryMatrix(weight), ring)
    n = len(ring.in_modes)
    half = objective.input_half(cores) if k < n else objective.output_half(cores)
    chain = cores[:n] if k < n else cores[n:]
    # Make one core the last to be updated: sweep over a copy, but keep the others as they are afterwards.
    place = k if k < n else k - n
    swept, _ = _sweep_only(half, chain, place)
    design = reference.ring_design_matrix(ring, cores, k)
    expected = torch.linalg.lstsq(design, weight.t().reshape(-1, 1)).solution.view_as(cores[k])
    torch.testing.assert_close(swept, expected, rtol=1e-6, atol=1e-8)


def _sweep_only(half, chain, place):
    from trcompress.decomposition import half as module
    from trcompress.formats.chain import merge

    target, gram = half.target, half.gram
    for core in chain[:place]:
        target, gram = module._absorb_target(target, core), module.absorb_gram(gram, core)
    right = merge(chain[place + 1 :]) if place + 1 < len(chain) else None
    return module._update(chain[place], target, gram, right)


@pytest.mark.parametrize("ranks", [(2, 3, 2, 3, 2, 2), (9, 2, 7, 2, 2, 9), (1, 8, 1, 5, 2, 1)])
def test_a_step_returns_the_true_error_and_never_raises_it(ranks):
    ring = _ring("3x4:4x3x2", ranks)
    cores, weight = _cores(ring), _noise(24, 12)
    objective = Objective(InMemoryMatrix(weight), ring)
    before = float((weight.t() - ring.to_dense(cores)).square().sum())
    for _ in range(4):
        cores, squared = als.step(objective, cores, 2, torch.float64)
        true = float((weight.t() - ring.to_dense(cores)).square().sum())
        assert squared == pytest.approx(true, rel=1e-8)
        assert true <= before * (1 + 1e-12)
        before = true


@given(
    sizes=st.lists(st.integers(1, 4), min_size=4, max_size=5),
    ranks=st.lists(st.integers(1, 4), min_size=5, max_size=5),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_the_error_never_rises_and_never_falls_below_the_bound(sizes, ranks, seed):
    n = 2
    ranks = [*ranks[: len(sizes)], ranks[0]]
    ring = TensorRing(tuple(sizes[:n]), tuple(sizes[n:]), tuple(ranks))
    rows, columns = ring.to_dense(_cores(ring)).shape
    weight = _noise(columns, rows, seed)
    found = decompose(weight, ring, seed=seed, restarts=1)
    assert list(found.history) == sorted(found.history, reverse=True)
    assert found.bound <= found.error <= 1 + 1e-9
    svd = decompose(weight, ring, init="tr-svd")
    assert found.error <= svd.error * (1 + 1e-6) + 1e-9


def test_the_same_seed_gives_the_same_cores_and_another_seed_others():
    ring, weight = _ring("6x6:4x4", (3, 4, 3, 4, 3)), _noise(16, 36)
    first, again, other = (decompose(weight, ring, seed=seed) for seed in (1, 1, 2))
    for mine, same, different in zip(first.cores, again.cores, other.cores, strict=True):
        assert torch.equal(mine, same)
        assert not torch.allclose(mine, different)


def test_progress_is_told_in_order_and_ends_at_one():
    told = []
    decompose(_noise(16, 36), _ring("6x6:4x4", (2,) * 5), progress=lambda what, done: told.append(done))
    assert told[-1] == 1.0
    assert min(told) >= 0.0


def test_random_cores_have_the_norm_of_w_and_its_variance():
    ring = _ring("4x2x5x2:4x4x2", (3, 2, 2, 2, 2, 2, 2, 3))
    weight = 0.05 * _noise(32, 80)
    found = decompose(weight, ring, init="random", seed=3)
    dense = ring.to_dense(found.cores)
    assert float(dense.norm()) == pytest.approx(float(weight.norm()), rel=1e-9)


def test_the_norm_of_a_ring_is_found_without_its_dense_matrix():
    ring = _ring("3x4:4x3", (2, 3, 4, 3, 2))
    cores = _cores(ring)
    assert ring_squared_norm(ring, cores) == pytest.approx(float(ring.to_dense(cores).square().sum()))


@pytest.mark.parametrize("keep", [1, 20, 1 << 20])
def test_rows_of_the_input_factor_are_made_in_pieces(keep):
    ring = _ring("3x4x2:4x3", (2, 3, 4, 3, 2, 2))
    cores = _cores(ring)
    rows_of = InputRows(ring, cores, keep)
    whole = ring.input_factor(cores)
    for start, stop in ((0, 24), (5, 6), (7, 20), (23, 24)):
        torch.testing.assert_close(rows_of(start, stop), whole[start:stop])


def test_gauss_newton_normal_matrix_and_gradient_are_those_of_the_jacobian():
    ring = _ring("3x2:2x4", (2, 3, 2, 4, 2))
    cores, weight = _cores(ring), _noise(8, 6)
    jacobian = reference.ring_jacobian(ring, cores)
    torch.testing.assert_close(gauss_newton.normal_matrix(cores), jacobian.t() @ jacobian)
    squared, gradient = Objective(InMemoryMatrix(weight), ring).gradients(cores)
    residual = weight.t().flatten() - ring.to_dense(cores).flatten()
    assert squared == pytest.approx(float(residual.square().sum()))
    torch.testing.assert_close(gradient, jacobian.t() @ residual)


def test_gauss_newton_never_raises_the_error():
    ring, weight = _ring("4x4:4x4", (3,) * 5), _noise(16, 16)
    objective = Objective(InMemoryMatrix(weight), ring)
    cores = random_cores(objective, torch.Generator().manual_seed(0))
    fit = als.run(objective, Fit(cores, float("inf"), [], ""), 3, 1e-9)
    gauss_newton.polish(objective, fit, 40, 1e-6)
    assert list(fit.history) == sorted(fit.history, reverse=True)
    assert objective.squared_error(fit.cores) == pytest.approx(fit.squared)


def test_a_warm_start_of_the_same_ranks_is_not_made_worse():
    ring, weight = _ring("6x6:4x4", (3, 4, 3, 4, 3)), _noise(16, 36)
    before = decompose(weight, ring)
    after = decompose(weight, ring, warm_start=before.cores, starts=1)
    assert after.error <= before.error * (1 + 1e-9)
    assert after.start in ("warm start", "svd")


@pytest.mark.parametrize("ranks", [(2, 3, 2, 3, 2), (4, 5, 4, 5, 4)])
def test_a_warm_start_of_other_ranks_is_cut_or_widened(ranks):
    weight = _noise(16, 36)
    before = decompose(weight, _ring("6x6:4x4", (3, 4, 3, 4, 3)))
    after = decompose(weight, _ring("6x6:4x4", ranks), warm_start=before.cores, starts=1)
    assert after.start == "warm start"
    if min(ranks) > 2:
        assert after.error < before.error


def test_a_bond_wider_than_its_core_can_fill_is_cut_and_means_the_same():
    """Core 1 is (2, 2, 7): it fills four of the seven, and six are wanted."""
    wide, narrow = _ring("3x2:4x2", (3, 2, 7, 3, 3)), _ring("3x2:4x2", (3, 2, 6, 3, 3))
    cores = _cores(wide)
    cut = adapted(cores, narrow, torch.Generator().manual_seed(0))
    assert [tuple(core.shape) for core in cut] == list(narrow.core_shapes)
    dense = wide.to_dense(cores)
    assert (narrow.to_dense(cut) - dense).norm() < 0.1 * dense.norm()


def test_a_warm_start_of_other_modes_is_refused():
    weight = _noise(16, 36)
    before = decompose(weight, _ring("6x6:4x4", (2,) * 5))
    with pytest.raises(ValueError, match="warm start must have the ring's modes"):
        decompose(weight, _ring("4x9:4x4", (2,) * 5), warm_start=before.cores)
    with pytest.raises(ValueError, match="one core"):
        decompose(weight, _ring("36:4x4", (2,) * 4), warm_start=before.cores)


def test_an_interrupt_passes_through():
    def interrupt(what, done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decompose(_noise(16, 36), _ring("6x6:4x4", (2,) * 5), progress=interrupt)


@pytest.mark.parametrize("init", ["tr-als", "tr-svd", "random"])
def test_a_zero_matrix_is_met_exactly(init):
    found = decompose(torch.zeros(16, 36), _ring("6x6:4x4", (2,) * 5), init=init)
    assert found.error == 0.0
    assert found.bound == 0.0


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scale_does_not_matter(scale):
    ring = _ring("6x6:4x4", (3, 4, 3, 4, 3))
    weight = _noise(16, 36)
    assert decompose(weight * scale, ring).error == pytest.approx(decompose(weight, ring).error, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_weights_are_decomposed_in_float64(dtype):
    ring = _ring("6x6:4x4", (3, 4, 3, 4, 3))
    weight = _noise(16, 36).to(dtype)
    found = decompose(weight, ring)
    assert all(core.dtype == torch.float64 for core in found.cores)
    dense = weight.double().t()
    assert found.error == pytest.approx(float((dense - ring.to_dense(found.cores)).norm() / dense.norm()), rel=1e-9)


def test_padded_modes_are_noted_and_the_padding_counts_as_zeros():
    ring = _ring("5x8:4x5", (3, 3, 3, 3, 3))
    weight = _noise(18, 37)
    found = decompose(weight, ring)
    padded = torch.zeros(40, 20, dtype=torch.float64)
    padded[:37, :18] = weight.t()
    assert found.error == pytest.approx(float((padded - ring.to_dense(found.cores)).norm() / weight.norm()))
    assert "inputs zero-padded from 37 to 40" in found.notes
    assert "outputs zero-padded from 18 to 20" in found.notes
