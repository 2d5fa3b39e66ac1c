"""The methods of the paper's experiments: what they fit, and what they cost."""

from itertools import pairwise
from math import prod
from statistics import fmean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trcompress.formats import BlockTerm, TensorRing, TensorTrain
from trcompress.reproduce.context import Context
from trcompress.reproduce.counting import PeakMemory, cost_of
from trcompress.reproduce.paper_order import apply_in_order
from trcompress.reproduce.random_features import random_network
from trcompress.reproduce.recipe import read_recipe
from trcompress.reproduce.recipe_fields import PaperReading
from trcompress.reproduce.regression import Samples, adam, als, core_design, linear_regression, random_cores
from trcompress.reproduce.synthetic import (
    METHODS,
    draw_samples,
    expected_linear_rmse,
    run_synthetic,
    structure_of,
    true_weight,
)

STRUCTURES = (
    TensorRing((3, 2), (2, 4), (2, 3, 2, 3, 2)),
    TensorTrain((3, 2), (2, 4), (1, 3, 1)),
    BlockTerm((3, 2), (2, 4), 2, 2),
)


def literal(**changes):
    return PaperReading(**({"name": "a", "about": "", "weight": "ring", "weight_rank": 2, "rank": 2} | changes))


def samples(structure, *, count=60, noise=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cores = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in structure.core_shapes]
    weight = structure.to_dense(cores)
    x = torch.randn(count, weight.shape[0], generator=generator, dtype=torch.float64)
    return weight, Samples(x, x @ weight + noise * torch.randn(count, weight.shape[1], generator=generator))


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda one: one.kind)
def test_core_design_is_the_derivative_of_the_dense_weight(structure):
    generator = torch.Generator().manual_seed(0)
    cores = random_cores(structure, generator, 1.0)
    for k, core in enumerate(cores):
        design = core_design(structure, cores, k)
        rebuilt = torch.einsum("p,pio->io", core.flatten(), design)
        torch.testing.assert_close(rebuilt, structure.to_dense(cores))


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda one: one.kind)
def test_als_recovers_what_it_can_represent(structure):
    weight, drawn = samples(structure)
    fits = [als(drawn, structure, sweeps=100, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    best = min(fits, key=lambda fit: fit.loss)
    assert (best.weight - weight).norm() < 1e-3 * weight.norm()


def test_als_error_never_rises():
    structure = TensorRing((3, 3), (3, 3), (2,) * 5)
    _, drawn = samples(TensorRing((3, 3), (3, 3), (4,) * 5), noise=0.5)
    losses = [
        als(drawn, structure, sweeps=n, generator=torch.Generator().manual_seed(1)).loss for n in range(1, 12)
    ]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(losses))


def test_adam_descends_for_a_free_matrix_and_a_ring_alike():
    structure = TensorRing((3, 2), (2, 4), (2, 2, 2, 2, 2))
    weight, drawn = samples(structure, count=200)
    for fitted in (None, structure):
        fit = adam(drawn, fitted, steps=800, batch_size=32, lr=0.05, generator=torch.Generator().manual_seed(0))
        assert (fit.weight - weight).norm() < 0.2 * weight.norm()


def test_linear_regression_errs_as_theory_says():
    reading = literal(weight="matrix", samples=400)
    errors = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        weight = true_weight(reading, generator)
        drawn = draw_samples(weight, reading.samples, 0.5, 0.05, generator)
        errors.append(float((linear_regression(drawn).weight - weight).square().mean().sqrt()))
    assert fmean(errors) == pytest.approx(expected_linear_rmse(reading, 0.5, 0.05), rel=0.03)


def test_the_printed_0_16_cannot_be_least_squares_on_3200_samples():
    assert expected_linear_rmse(literal(), 0.5, 0.05) == pytest.approx(0.00566, abs=1e-5)
    assert expected_linear_rmse(literal(rms=0.0354, error="relative"), 0.5, 0.05) == pytest.approx(0.16, abs=5e-4)


@pytest.mark.parametrize(("weight", "rank"), [("ring", 81), ("matrix", 3), ("picture", 4)])
def test_true_weights_have_the_size_and_rank_that_the_reading_says(weight, rank):
    drawn = true_weight(literal(weight=weight, weight_rank=3, rms=0.25), torch.Generator().manual_seed(0))
    assert drawn.square().mean().sqrt() == pytest.approx(0.25)
    assert int(torch.linalg.matrix_rank(drawn)) == min(rank, 9 if weight == "ring" else rank)


def test_every_method_fits_an_81_by_81_weight():
    for method in METHODS:
        structure = structure_of(method, 2)
        if structure is not None:
            assert prod(structure.in_modes) == prod(structure.out_modes) == 81


def test_the_synthetic_runner_judges_each_reading_by_itself(tmp_path):
    recipe = read_recipe("synthetic-fig5").resolve(quick=True)
    told = []
    findings = run_synthetic(recipe, Context(tmp_path, lambda what, share: told.append(share)))
    rows = {row.name: row.measured for row in findings.rows}
    ring, linear, train = (
        rows[f"planted-ring: absolute RMSE, {m}"] for m in ("tensor-ring", "linear", "tensor-train")
    )
    assert ring < 0.002 < 0.005 < linear < 0.007 < 0.3 < train
    verdicts = {claim.text.partition(":")[0]: claim.holds for claim in findings.claims if "TR < LR" in claim.text}
    assert verdicts == {"planted-ring": True, "few-samples": False}
    assert [len(one.matrices) for one in findings.matrix_plots] == [5, 5]
    assert told == sorted(told)


@st.composite
def structures(draw):
    sizes = st.integers(1, 4)
    n, m = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["ring", "train", "block-term"]))
    in_modes = tuple(draw(sizes) for _ in range(n))
    if kind == "ring":
        out_modes = tuple(draw(sizes) for _ in range(m))
        ranks = [draw(st.integers(1, 3)) for _ in range(n + m)]
        return TensorRing(in_modes, out_modes, (*ranks, ranks[0]))
    out_modes = tuple(draw(sizes) for _ in range(n))
    if kind == "train":
        return TensorTrain(in_modes, out_modes, (1, *(draw(st.integers(1, 3)) for _ in range(n - 1)), 1))
    return BlockTerm(in_modes, out_modes, draw(st.integers(1, 3)), draw(st.integers(1, 2)))


@settings(deadline=None, max_examples=60)
@given(structure=structures(), batch=st.integers(1, 3))
def test_contraction_in_the_papers_order_is_the_dense_product(structure, batch):
    generator = torch.Generator().manual_seed(0)
    cores = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in structure.core_shapes]
    x = torch.randn(batch, prod(structure.in_modes), generator=generator, dtype=torch.float64)
    torch.testing.assert_close(apply_in_order(structure, x, cores), x @ structure.to_dense(cores))


def test_eq_11_in_the_papers_order_costs_what_design_measured():
    ring = TensorRing((4, 2, 5, 8, 6, 5, 3, 2), (16, 4, 2, 4, 2), (10, *[5] * 12, 10))

    def prepare():
        cores = [torch.zeros(shape, requires_grad=True) for shape in ring.core_shapes]
        return lambda x: apply_in_order(ring, x, cores)

    cost = cost_of(prepare, torch.zeros(1, 57600))
    assert 8.9e6 < cost.forward < 9.0e6
    assert cost.backward == 2 * cost.forward
    assert cost.forward_bytes >= 720_000 * 4


def test_operations_and_memory_are_counted_exactly():
    def prepare():
        weight = torch.ones(3, 5, requires_grad=True)
        return lambda x: x @ weight

    cost = cost_of(prepare, torch.ones(2, 3))
    assert (cost.forward, cost.backward) == (30, 60)
    assert cost.forward_bytes == 2 * 5 * 4
    assert cost.backward_bytes == 4 * (10 + 6 + 15), "the result, and the gradients of x and w"


def test_memory_that_is_let_go_is_not_counted_twice():
    memory = PeakMemory()
    with memory:
        for _ in range(5):
            value = torch.zeros(1000)
            del value
        kept = torch.zeros(10)
    assert memory.peak == 4000
    assert memory.alive == 40
    assert kept.numel() == 10


def test_the_random_network_is_the_same_everywhere_and_tells_places_apart():
    torch.manual_seed(5)
    images = torch.rand(4, 3, 120, 160)
    first = random_network(2048)(images)
    torch.manual_seed(6)
    torch.testing.assert_close(random_network(2048)(images), first)
    assert first.shape == (4, 2048)
    moved = torch.zeros(2, 3, 120, 160)
    moved[0, :, 10:30, 10:30] = moved[1, :, 80:100, 120:140] = 1
    one, other = random_network(2048)(moved)
    assert torch.cosine_similarity(one, other, dim=0) < 0.5
