"""Calibration: what weighs, which candidate is kept, and that labels are never looked at."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from calibration_cases import narrow_inputs, small_weight
from file_networks import save_network
from torch import nn

from trcompress.artifact.file import read_artifact
from trcompress.artifact.write import write_artifact
from trcompress.calibration import LiveNetwork, calibrate
from trcompress.calibration.examples import swapped_tokens
from trcompress.calibration.file_network import file_network
from trcompress.calibration.live import HeldOut
from trcompress.calibration.metrics import candidates
from trcompress.calibration.select import Candidate, rank
from trcompress.calibration.sensitivity import Sensitivity, gate_sensitivity
from trcompress.calibration.share import cost, share_ranks
from trcompress.calibration.solve import contains
from trcompress.checkpoint import read_checkpoint
from trcompress.decomposition.weight import CompressedWeight, weight_source
from trcompress.errors import UsageError
from trcompress.formats import TensorRing
from trcompress.model.layer import input_matrices
from trcompress.model.plan import Plan
from trcompress.network.layerwise import Substitute
from trcompress.network.moments import Sketch
from trcompress.network.outputs import Outputs
from trcompress.passes.calibrated import decompose_calibrated
from trcompress.search.allocation import equal_ranks, proportional_ranks

CALIBRATED = ("rnn.bias_ih_l0", "rnn.bias_ih_l1")


def calibrated(checkpoint, plans, data, **options):
    """Weights chosen on a data file, and the biases by their keys in the checkpoint."""
    sources = {plan.name: weight_source(checkpoint, plan.matrix) for plan in plans}
    live = file_network(checkpoint, data)
    found = calibrate(live, plans, sources, **options)
    keys = {name: key for key, name in live.names.items()}
    return replace(found, biases={keys[name]: bias for name, bias in found.biases.items()})


@pytest.fixture
def classifier(tmp_path):
    """A two-layer LSTM with a head, and inputs that fill 3 of 12 directions."""
    torch.manual_seed(0)
    checkpoint = save_network(tmp_path / "model.safetensors", rnn=nn.LSTM(12, 8, 2), fc=nn.Linear(8, 3))
    x = narrow_inputs(80, 6, 12, 3)
    np.savez(tmp_path / "x.npz", x=x)
    return checkpoint, tmp_path / "x.npz", x


def plans_of(checkpoint, plan):
    return plan.resolve(input_matrices(checkpoint.layers))


# sensitivity and outputs


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_sensitivity_is_the_gradient_at_the_gates(kind, gates):
    torch.manual_seed(0)
    rnn = getattr(nn, kind)(5, 4)
    x = torch.randn(6, 3, 5)
    everything = Outputs("values", lambda result: result[0])
    live = LiveNetwork.of(rnn, [x], outputs=everything)
    drawn = torch.randn((18, 4), generator=torch.Generator().manual_seed(0))
    found = gate_sensitivity(rnn, live.run, everything, [x])["weight_ih_l0"]
    size = 4 * gates
    free = getattr(nn, kind)(size, 4)
    free.load_state_dict(rnn.state_dict() | {"weight_ih_l0": torch.eye(size)})
    entering = (x @ rnn.weight_ih_l0.T).detach().requires_grad_()
    (gradient,) = torch.autograd.grad((drawn * free(entering)[0].reshape(-1, 4)).sum(), entering)
    flat = gradient.reshape(-1, size).double()
    assert torch.allclose(found.gates.double(), flat.T @ flat, rtol=1e-4, atol=1e-7)
    assert found.tokens is None


def test_distance_of_outputs_is_zero_for_the_same_and_grows(classifier):
    checkpoint, data, _ = classifier
    live = file_network(checkpoint, data)
    name = live.names["rnn.weight_ih_l0"]
    dense = live.model.get_parameter(name)
    assert live.distance({}) == pytest.approx(0, abs=1e-6)
    distances = [live.distance({name: Substitute(dense + size)}) for size in (0.1, 1.0)]
    assert 1e-5 < distances[0] < distances[1]
    assert live.model.get_parameter(name) is dense
    scored = file_network(checkpoint, data, outputs="scores")
    assert 1e-6 < scored.distance({name: Substitute(dense + 0.1)}) != distances[0]


@pytest.mark.parametrize(
    ("options", "measure"),
    [
        ({}, "relative squared distance of the outputs"),
        ({"outputs": "scores"}, "divergence of the class scores"),
        ({"outputs": "states"}, "relative squared distance of the hidden states"),
        ({"head": ""}, "relative squared distance of the hidden states"),
    ],
)
def test_what_is_compared_is_what_is_known_or_said(options, measure, classifier):
    checkpoint, data, _ = classifier
    live = file_network(checkpoint, data, **options)
    assert live.recording.outputs.measure == measure
    assert any("are compared" in note for note in live.recording.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compare": "sometimes"}, "compare must be one of"),
        ({"head": "fd"}, "head"),
        ({"outputs": "score"}, "outputs must be one of"),
    ],
)
def test_outputs_that_do_not_exist_are_refused(options, message, classifier):
    checkpoint, data, _ = classifier
    with pytest.raises(UsageError, match=message):
        file_network(checkpoint, data, **options)


def test_answers_that_are_too_large_to_keep_are_computed_again(classifier, monkeypatch):
    checkpoint, data, _ = classifier
    live = file_network(checkpoint, data)
    name = live.names["rnn.weight_ih_l0"]
    moved = {name: Substitute(live.model.get_parameter(name) * 0.5)}
    kept = HeldOut(live, live.recording.held_out).distance(moved)
    monkeypatch.setattr("trcompress.calibration.live.KEPT_BYTES", 10)
    assert HeldOut(live, live.recording.held_out).distance(moved) == kept


def test_variants_swap_some_tokens_and_no_padding():
    torch.manual_seed(0)
    embedding = nn.Embedding(9, 4, padding_idx=0)
    model = nn.Sequential(embedding, nn.LSTM(4, 3, batch_first=True))
    tokens = torch.randint(0, 9, (50, 20))
    live = LiveNetwork.of(model, [tokens])
    with swapped_tokens(live, 5):
        first = embedding(tokens)
    with swapped_tokens(live, 5):
        assert torch.equal(embedding(tokens), first)
    changed = (first != embedding(tokens)).any(-1)
    assert 0.02 < changed.float().mean() < 0.08
    assert not changed[tokens == 0].any()
    with swapped_tokens(live, 0):
        assert torch.equal(embedding(tokens), model[0](tokens))


# choosing


def candidate(metric, score, bias=None):
    weight = CompressedWeight(small_weight(TensorRing((12,), (32,), (1, 1, 1))), (), 0.5, 0.4, "tr-svd", ())
    return Candidate(metric, weight, bias, score)


def test_the_plain_metric_is_left_only_for_enough():
    plain, bias, other = candidate("weights", 1.0), torch.zeros(1), candidate("inputs", 0.6)
    assert rank([plain, other], least=0.5) == [plain]
    assert rank([plain, other], least=0.9) == [other, plain]
    assert rank([plain, candidate("weights", 0.99, bias)], 0.9) == [plain]
    better = candidate("weights", 0.9, bias)
    assert rank([plain, better], 0.5) == [better, plain]
    exact, shifted = candidate("inputs with their mean", 1e-12), candidate("inputs", 1e-13, bias)
    assert rank([plain, shifted, exact], 0.5)[0] is exact


def test_structures_compete_for_one_weight(classifier):
    checkpoint, data, _ = classifier
    matrices = input_matrices(checkpoint.layers)
    plans = [Plan.of("12:32", ranks, layer="*l0").resolve(matrices)[0] for ranks in ("1,1", "1,4")]
    (weight,) = calibrated(checkpoint, plans, data).weights
    assert weight.plan == plans[1]
    assert {row["parameters"] for row in weight.candidates} == {44, 176}


def test_nothing_but_cores_and_input_biases_changes(classifier, tmp_path):
    checkpoint, data, _ = classifier
    plan = Plan.of("12:32", "1,3", layer="*l0")
    artifact = decompose_calibrated(checkpoint, plan, data, refine_steps=3, seed=5)
    again = decompose_calibrated(checkpoint, plan, data, refine_steps=3, seed=5)
    kept = read_artifact(write_artifact(tmp_path / "out.tr.safetensors", artifact))
    changed = set()
    for key, tensor in checkpoint.tensors():
        if key in kept.tensors and not torch.equal(kept.tensors[key], tensor):
            changed.add(key)
    assert changed <= {"rnn.bias_ih_l0"}
    assert changed, "the mean of these inputs is far from zero"
    assert all(torch.equal(artifact.tensors[key], again.tensors[key]) for key in artifact.tensors)
    settings = kept.header.lineage[0].settings["calibration"]
    assert settings["data"] == "x.npz"
    assert len(settings["data_sha256"]) == 64
    assert settings["examples_fitted"] + settings["examples_held_out"] == 80
    assert len(kept.header.weights[0].candidates) > 10


def test_labels_are_never_looked_at(classifier, tmp_path):
    checkpoint, _, x = classifier
    plans = plans_of(checkpoint, Plan.of("12:32", "1,2", layer="*l0"))
    found = []
    for y in (np.zeros(80, int), np.arange(80) % 3):
        np.savez(tmp_path / "labelled.npz", x_train=x, y_train=y)
        found.append(calibrated(checkpoint, plans, tmp_path / "labelled.npz", refine_steps=2))
    for mine, other in zip(found[0].weights[0].cores, found[1].weights[0].cores, strict=True):
        assert torch.equal(mine, other)


def test_weights_that_nothing_feeds_are_named(tmp_path):
    torch.manual_seed(0)
    checkpoint = save_network(tmp_path / "m.safetensors", a=nn.LSTM(5, 4), b=nn.LSTM(7, 4))
    np.savez(tmp_path / "x.npz", x_a=narrow_inputs(30, 4, 5, 3))
    plans = plans_of(checkpoint, Plan((*Plan.of("5:16", "1,2").rules, *Plan.of("7:16", "1,2").rules)))
    fed, unfed = calibrated(checkpoint, plans, tmp_path / "x.npz").weights
    assert fed.candidates
    assert not unfed.candidates
    assert any("nothing is known to feed it" in note for note in unfed.notes)
    with pytest.raises(UsageError, match="nothing to calibrate"):
        calibrated(checkpoint, plans[1:], tmp_path / "x.npz")


def test_a_bias_that_is_tied_stays(tmp_path):
    torch.manual_seed(0)
    rnn = nn.GRU(6, 4)
    state = dict(rnn.state_dict())
    state["bias_hh_l0"] = state["bias_ih_l0"]
    torch.save(state, tmp_path / "m.pt")
    checkpoint = read_checkpoint(tmp_path / "m.pt")
    np.savez(tmp_path / "x.npz", x=narrow_inputs(30, 4, 6, 2))
    found = calibrated(checkpoint, plans_of(checkpoint, Plan.of("6:12", "1,2")), tmp_path / "x.npz", refine_steps=2)
    assert not found.biases


@pytest.mark.parametrize("options", [{"bias": False}, {"proj_size": 3}, {"bidirectional": True}], ids=str)
def test_every_kind_of_layer_is_calibrated(options, tmp_path):
    torch.manual_seed(0)
    checkpoint = save_network(tmp_path / "m.safetensors", rnn=nn.LSTM(6, 5, **options))
    np.savez(tmp_path / "x.npz", x=narrow_inputs(30, 4, 6, 2))
    plans = plans_of(checkpoint, Plan.of("3x2:5x4", "2"))
    found = calibrated(checkpoint, plans, tmp_path / "x.npz", refine_steps=4)
    assert len(found.weights) == (2 if options.get("bidirectional") else 1)
    assert found.facts["difference_refined"] <= found.facts["difference_chosen"] <= found.facts["difference_plain"]


def test_half_precision_is_calibrated_and_kept(tmp_path):
    torch.manual_seed(0)
    checkpoint = save_network(tmp_path / "m.safetensors", rnn=nn.LSTM(6, 5).half())
    np.savez(tmp_path / "x.npz", x=narrow_inputs(30, 4, 6, 2))
    artifact = decompose_calibrated(checkpoint, Plan.of("6:20", "1,2"), tmp_path / "x.npz")
    assert {tensor.dtype for tensor in artifact.tensors.values()} == {torch.float16}


# refining and sharing


def test_ranks_go_where_the_outputs_need_them(tmp_path):
    torch.manual_seed(0)
    quiet, loud = nn.LSTM(12, 8), nn.LSTM(8, 8)
    with torch.no_grad():
        loud.weight_ih_l0.mul_(4)
    checkpoint = save_network(tmp_path / "m.safetensors", rnn1=quiet, rnn2=loud)
    np.savez(tmp_path / "x.npz", x=narrow_inputs(60, 5, 12, 1, shift=0.0))
    live = file_network(checkpoint, tmp_path / "x.npz")
    matrices = input_matrices(checkpoint.layers)
    weights = [(matrix, weight_source(checkpoint, matrix)) for matrix in matrices]
    budget = 44 * 4 + 40 * 4
    starts = {"equal": equal_ranks(matrices, budget), "same ratio": proportional_ranks(matrices, budget)}
    shared = share_ranks(live, weights, budget, starts, passes=60)
    assert shared.distance <= min(shared.tried.values())
    assert shared.distance < shared.tried["equal"]
    assert sum(cost(matrix, shared.ranks[matrix.key]) for matrix in matrices) <= budget
    assert shared.ranks["rnn1.weight_ih_l0"] < 3 < (shared.ranks["rnn2.weight_ih_l0"] or 8)


def test_a_weight_that_everything_hangs_on_stays_dense(tmp_path):
    torch.manual_seed(0)
    first, second = nn.LSTM(6, 16), nn.LSTM(16, 16)
    with torch.no_grad():
        first.weight_ih_l0.mul_(4)
        second.weight_ih_l0.copy_(4 * torch.outer(torch.randn(64), torch.randn(16)) / 16)
    checkpoint = save_network(tmp_path / "m.safetensors", rnn1=first, rnn2=second)
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(60, 5, 6)).astype(np.float32))
    live = file_network(checkpoint, tmp_path / "x.npz")
    matrices = input_matrices(checkpoint.layers)
    weights = [(matrix, weight_source(checkpoint, matrix)) for matrix in matrices]
    budget = matrices[0].parameters + 3 * cost(matrices[1], 1)
    shared = share_ranks(live, weights, budget, {"equal": equal_ranks(matrices, budget)}, passes=60)
    assert shared.ranks["rnn1.weight_ih_l0"] is None
    assert sum(cost(matrix, shared.ranks[matrix.key]) for matrix in matrices) <= budget


def test_a_larger_ring_of_the_same_modes_contains_a_smaller_one():
    small, large = TensorRing((12,), (32,), (1, 1, 1)), TensorRing((12,), (32,), (1, 2, 1))
    assert contains(large, small)
    assert not contains(small, large)
    assert not contains(TensorRing((4, 3), (32,), (2, 2, 2, 2)), small)


def test_candidates_are_listed_plain_first():
    moments = Sketch(4)
    moments.add(torch.randn(20, 4))
    gates = Sensitivity(torch.eye(8).double())
    names = [metric.name for metric in candidates(moments.moments(), gates)]
    assert names[0] == "weights"
    assert len(names) == len(set(names)) == 13
    assert [metric.name for metric in candidates(moments.moments(), None, ridges=(0.1,))] == [
        "weights",
        "inputs, ridge 0.1",
    ]
