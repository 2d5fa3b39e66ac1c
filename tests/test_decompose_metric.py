"""Decomposing in the metric of the data: against the formula with L written out."""

import numpy as np
import pytest
import reference
import torch
from samples import sample

from trcompress.decomposition import InMemoryMatrix, Metric, als, decompose
from trcompress.decomposition import weighted as weighted_module
from trcompress.decomposition.objective import Objective
from trcompress.decomposition.starts import random_cores
from trcompress.errors import InputFileError, ShapeError, UsageError
from trcompress.formats import TensorRing

I, O = 12, 18  # noqa: E741


def _noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _weights():
    return torch.rand(O, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.1


METRICS = {
    "few rows": Metric(_noise(4, I), 0.1),
    "many rows": Metric(_noise(40, I), 0.01),
    "outputs": Metric(output_weights=_weights()),
    "both": Metric(_noise(4, I), 0.1, _weights()),
    "no ridge": Metric(_noise(5, I), 0.0),
}
RINGS = [TensorRing((3, 4), (6, 3), (2, 3, 2, 3, 2)), TensorRing((12,), (3, 2, 3), (2, 3, 2, 2, 2))]


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
@pytest.mark.parametrize("ring", RINGS, ids=["four modes", "one input mode"])
@pytest.mark.parametrize("dense_limit", [1 << 24, 0], ids=["normal equations", "conjugate gradients"])
def test_a_step_lowers_the_error_of_the_formula_and_knows_it(metric, ring, dense_limit, monkeypatch):
    monkeypatch.setattr(weighted_module, "MAX_VALUES", dense_limit)
    weight = _noise(O, I, seed=1)
    objective = Objective(InMemoryMatrix(weight), ring, metric)
    cores = random_cores(objective, torch.Generator().manual_seed(0))
    before = _formula(weight, ring, cores, metric)
    assert objective.squared_error(cores) == pytest.approx(before**2, rel=1e-9)
    for _ in range(3):
        cores, squared = als.step(objective, cores, 1, torch.float64)
        after = _formula(weight, ring, cores, metric)
        assert squared == pytest.approx(after**2, rel=1e-6, abs=1e-9 * objective.squared_norm)
        assert after <= before * (1 + 1e-9)
        before = after


def _formula(weight, ring, cores, metric):
    dense, approximation = weight.t(), ring.to_dense(cores)
    return reference.metric_error(dense, approximation, metric.input_rows, metric.ridge, metric.output_weights)


def test_both_ways_of_solving_one_core_agree(monkeypatch):
    weight, ring, metric = _noise(O, I, seed=1), RINGS[0], METRICS["both"]
    objective = Objective(InMemoryMatrix(weight), ring, metric)
    cores = random_cores(objective, torch.Generator().manual_seed(0))
    formed, _ = als.step(objective, cores, 1, torch.float64)
    monkeypatch.setattr(weighted_module, "MAX_VALUES", 0)
    monkeypatch.setattr(weighted_module, "STEPS", 500)
    iterated, _ = als.step(objective, cores, 1, torch.float64)
    torch.testing.assert_close(ring.to_dense(iterated), ring.to_dense(formed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init", ["tr-svd", "tr-als"])
@pytest.mark.parametrize("shape", [(O, I), (I, O)], ids=["wide", "tall"])
@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_two_modes_reach_the_optimum_of_the_metric(shape, ridge, init):
    weight = _noise(*shape, seed=1)
    rows, weights = _noise(5, shape[1]), torch.linspace(0.2, 2.0, shape[0], dtype=torch.float64)
    ring = TensorRing((shape[1],), (shape[0],), (2, 3, 2))
    found = decompose(weight, ring, init=init, metric=Metric(rows, ridge, weights))
    best = reference.best_metric_error(weight.t(), 6, rows, ridge, weights)
    error = reference.metric_error(weight.t(), ring.to_dense(found.cores), rows, ridge, weights)
    assert error == pytest.approx(best, rel=1e-7)
    scale = reference.metric_error(weight.t(), 0 * weight.t(), rows, ridge, weights)
    assert found.metric_error == pytest.approx(error / scale, rel=1e-7)
    assert found.error == pytest.approx(float((weight.t() - ring.to_dense(found.cores)).norm() / weight.norm()))


@pytest.mark.parametrize("ridge", [0.0, 1e-13])
@pytest.mark.parametrize("init", ["tr-svd", "tr-als"])
def test_inputs_of_few_directions_are_served_exactly(ridge, init):
    weight, directions = _noise(O, I, seed=1), _noise(4, I)
    inputs = _noise(50, 4, seed=2) @ directions
    ring = TensorRing((I,), (O,), (2, 2, 2))
    found = decompose(weight, ring, init=init, metric=Metric(inputs, ridge))
    exact = inputs @ weight.t()
    torch.testing.assert_close(inputs @ ring.to_dense(found.cores), exact, rtol=1e-10, atol=1e-10)
    assert found.error > 0.1


@pytest.mark.parametrize(("side", "rank"), [("enc", 29), ("dec", 74)])
def test_pretrained_weights_are_exact_on_the_span_of_their_embeddings(side, rank):
    with np.load(sample("g2p/checkpoint20.npz"), allow_pickle=False) as arrays:
        weight = torch.from_numpy(arrays[f"{side}_w_ih"])
        embeddings = torch.from_numpy(arrays[f"{side}_emb"]).double()
    ring = TensorRing((256,), (768,), (1, rank, 1))
    found = decompose(weight, ring, metric=Metric(embeddings, 0.0))
    wanted = embeddings @ weight.double().t()
    got = embeddings @ ring.to_dense(found.cores)
    assert float((wanted - got).norm() / wanted.norm()) < 1e-12
    plain = decompose(weight, ring)
    assert float((wanted - embeddings @ ring.to_dense(plain.cores)).norm() / wanted.norm()) > 0.01


def test_padded_modes_take_a_metric_of_the_true_sizes():
    weight, ring = _noise(17, 11, seed=1), TensorRing((3, 4), (6, 3), (3, 3, 3, 3, 3))
    metric = Metric(_noise(5, 11), 0.1, torch.linspace(0.5, 1.5, 17, dtype=torch.float64))
    found = decompose(weight, ring, metric=metric)
    dense = ring.to_dense(found.cores)
    inside = reference.metric_error(weight.t(), dense[:11, :17], metric.input_rows, 0.1, metric.output_weights)
    scale = reference.metric_error(weight.t(), 0 * weight.t(), metric.input_rows, 0.1, metric.output_weights)
    assert found.metric_error >= inside / scale - 1e-9
    assert found.metric_error < 1


def test_an_output_that_does_not_count_stays_finite():
    weights = torch.ones(O, dtype=torch.float64)
    weights[3] = 0.0
    found = decompose(_noise(O, I), TensorRing((I,), (O,), (1, 4, 1)), metric=Metric(output_weights=weights))
    assert all(bool(torch.isfinite(core).all()) for core in found.cores)
    assert found.error < 10


def test_a_metric_that_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match="one column per input: got 5, 12 expected"):
        decompose(_noise(O, I), RINGS[0], metric=Metric(_noise(3, 5)))
    with pytest.raises(ShapeError, match="one value per output: got 3, 18 expected"):
        decompose(_noise(O, I), RINGS[0], metric=Metric(output_weights=torch.ones(3)))
    with pytest.raises(ShapeError, match=r"input_rows must have 2 dimension\(s\)"):
        Metric(torch.ones(3))
    with pytest.raises(InputFileError, match="input_rows must be finite"):
        Metric(torch.full((2, 2), float("nan")))
    with pytest.raises(UsageError, match="must not be all zeros"):
        Metric(torch.zeros(2, 2))
    with pytest.raises(UsageError, match="must not be negative"):
        Metric(torch.ones(2, 2), -1.0)
