"""What passes by once is summed up, and cores are the best in the metric that it gives."""

import pytest
import torch
from calibration_cases import narrow_inputs, small_weight
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from reference import metric_error

from trcompress.calibration.bias import bias_shift
from trcompress.calibration.solve import solve
from trcompress.calibration.token_weights import token_factors, token_sensitivity, weighted_factors
from trcompress.decomposition import InMemoryMatrix, Metric
from trcompress.decomposition.factors import metric_factors
from trcompress.decomposition.weight import decompose_weight
from trcompress.formats import TensorRing
from trcompress.network.moments import Sketch, weighted_moments


@pytest.mark.parametrize("keep", [None, 24])
def test_sketch_holds_the_moments(keep, monkeypatch):
    if keep:
        monkeypatch.setattr("trcompress.network.moments.EXACT_WIDTH", 10)
    x = torch.from_numpy(narrow_inputs(50, 4, 30, 10)).flatten(0, 1)
    sketch = Sketch(30, keep or 512)
    for block in x.split(17):
        sketch.add(block)
    found, exact = sketch.moments(), x.double()
    assert torch.allclose(found.mean, exact.mean(0), atol=1e-6)
    for rows, wanted in ((found.rows, exact.T @ exact / len(x)), (found.centred, exact.T.cov(correction=0))):
        assert (rows.T @ rows - wanted).norm() < 1e-5 * wanted.norm()
    assert keep is None or len(found.rows) <= keep


def test_sketch_that_is_too_narrow_keeps_the_strongest_directions(monkeypatch):
    monkeypatch.setattr("trcompress.network.moments.EXACT_WIDTH", 10)
    torch.manual_seed(0)
    x = torch.randn(400, 40) * torch.logspace(0, -3, 40)
    sketch = Sketch(40, 12)
    for block in x.split(50):
        sketch.add(block)
    rows, wanted = sketch.moments().rows, x.double().T @ x.double() / 400
    best = torch.linalg.eigvalsh(wanted)[:-12].norm()
    assert (rows.T @ rows - wanted).norm() < 3 * best


def test_use_weights_a_table_like_the_rows_it_is_used_for():
    table, use = torch.randn(4, 6), torch.tensor([3, 0, 5, 1])
    found = weighted_moments(table, use, floor=0.0)
    seen = table.double().repeat_interleave(use, 0)
    assert torch.allclose(found.mean, seen.mean(0))
    assert torch.allclose(found.rows.T @ found.rows, seen.T @ seen / 9)
    assert torch.allclose(found.centred.T @ found.centred, seen.T.cov(correction=0))
    assert weighted_moments(table, use).rows[1].norm() > 0, "a row that is never used may not become anything"


def closed_form_oracle(dense, rank, rows, ridge, gates):
    """Error of the best matrix of a rank, by whitening both sides."""
    second = rows.T @ rows + ridge * torch.eye(rows.shape[1], dtype=rows.dtype)
    values = torch.linalg.svdvals(torch.linalg.cholesky(second).T @ dense @ gates)
    return float(values[rank:].norm())


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 6), st.sampled_from([0.01, 1.0]), st.integers(0, 99))
def test_two_mode_rings_are_best_in_their_metric(inputs, outputs, rank, ridge, seed):
    torch.manual_seed(seed)
    dense, rows = torch.randn(inputs, outputs).double(), torch.randn(5, inputs).double()
    root = torch.randn(outputs, outputs).double()
    gates = root @ root.T + 0.1 * torch.eye(outputs)
    left, right = metric_factors(InMemoryMatrix(dense.T), rank, Metric(rows, ridge, gates))
    rest = (dense - left @ right) @ gates
    error = float(((rows @ rest).square().sum() + ridge * rest.square().sum()).sqrt())
    best = closed_form_oracle(dense, rank, rows, ridge, gates)
    assert left.shape[1] <= rank
    assert error <= best * (1 + 1e-6) + 1e-6 * float(dense.norm())


def test_no_ridge_is_exact_as_soon_as_the_inputs_are_spanned():
    dense, rows = torch.randn(20, 12).double(), torch.randn(4, 20).double()
    left, right = metric_factors(InMemoryMatrix(dense.T), 5, Metric(rows))
    assert left.shape == (20, 4)
    assert torch.allclose(rows @ left @ right, rows @ dense, atol=1e-10)


@pytest.mark.parametrize(
    ("plan", "inputs"),
    [
        (small_weight(TensorRing((4, 3), (8, 4), (2, 2, 3, 2, 2))), 12),
        (small_weight(TensorRing((4, 3), (2, 4), (2, 2, 2, 2, 2)), per_gate=True), 12),
        (small_weight(TensorRing((12,), (32,), (1, 4, 1))), 12),
        (small_weight(TensorRing((4, 3), (12, 3), (2, 2, 3, 2, 2)), inputs=11), 11),
        (small_weight(TensorRing((12,), (36,), (1, 4, 1)), inputs=11), 11),
    ],
    ids=["ring", "per-gate", "two-mode", "padded", "two-mode-padded"],
)
def test_a_metric_lowers_its_own_error(plan, inputs):
    torch.manual_seed(1)
    dense = torch.randn(32, inputs)
    plain = decompose_weight(plan, InMemoryMatrix(dense), restarts=0)
    rows = torch.randn(3, inputs).double()
    weights = torch.logspace(0, 1, 32).double()
    found = solve(plain, InMemoryMatrix(dense), Metric(rows, 0.01, weights))

    def error(one):
        return metric_error(dense.T.double(), plan.to_dense(one.cores).T, rows, 0.01, weights)

    assert error(found) < 0.8 * error(plain)
    assert found.error > plain.error
    rebuilt = plan.to_dense(found.cores)
    assert found.error == pytest.approx(float((dense - rebuilt).norm() / dense.norm()), rel=1e-6)


def test_corrected_bias_keeps_the_mean_of_the_gates():
    plan = small_weight(TensorRing((4, 3), (12, 3), (2, 2, 2, 2, 2)), inputs=11)
    dense, x = torch.randn(32, 11).double(), torch.randn(50, 11).double() + 2
    found = decompose_weight(plan, InMemoryMatrix(dense), init="tr-svd")
    shift = bias_shift(plan, InMemoryMatrix(dense), found.cores, x.mean(0))
    moved = x @ plan.to_dense(found.cores).T + shift
    assert torch.allclose(moved.mean(0), (x @ dense.T).mean(0), atol=1e-9)


@hypothesis_settings(max_examples=15, deadline=None)
@given(st.integers(3, 9), st.integers(3, 9), st.integers(1, 3), st.integers(0, 99))
def test_entries_that_weigh_alike_are_met_as_by_the_svd_and_others_better(rows, columns, rank, seed):
    torch.manual_seed(seed)
    target, weights = torch.randn(rows, columns).double(), torch.rand(rows, columns).double() + 0.01
    left, right = weighted_factors(target, torch.ones_like(target), rank)
    best = torch.linalg.svdvals(target)[rank:].square().sum()
    assert float((target - left @ right).square().sum()) == pytest.approx(float(best), abs=1e-6)
    u, s, vh = torch.linalg.svd(target, full_matrices=False)
    plain = (u[:, :rank] * s[:rank]) @ vh[:rank]
    left, right = weighted_factors(target, weights, rank)
    found = float((weights * (target - left @ right).square()).sum())
    assert found <= float((weights * (target - plain).square()).sum()) + 1e-9


def test_tokens_are_told_apart_by_what_the_outputs_answer():
    torch.manual_seed(0)
    table, dense = torch.randn(6, 9), torch.randn(9, 8).double()
    places = torch.tensor([0, 1, 2, 3, 4, 5] * 6)
    seen = token_sensitivity(table, places, torch.randn(36, 8) * (1 + 10 * (places == 3).unsqueeze(1)))
    assert torch.allclose(seen.share, torch.full((6,), 1 / 6).double())
    left, right = token_factors(dense, 2, seen)
    rest = (table.double() - table.double().mean(0)) @ (dense - left @ right)
    assert rest[3].norm() < 0.5 * rest.norm(dim=1).mean(), "one token that everything hangs on"
    exact = token_factors(dense, 6, seen)
    centred = table.double() - table.double().mean(0)
    assert torch.allclose(centred @ exact[0] @ exact[1], centred @ dense, atol=1e-5)
