"""Calibration: what layers are fed, what weighs, which candidate is kept, and that labels are never looked at."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from file_networks import first_batch, network_of, save_network
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from reference import metric_error
from torch import nn

from trcompress.artifact.file import read_artifact
from trcompress.artifact.write import write_artifact
from trcompress.calibration import LiveNetwork, calibrate
from trcompress.calibration.bias import bias_shift
from trcompress.calibration.examples import swapped_tokens
from trcompress.calibration.file_network import file_network
from trcompress.calibration.live import HeldOut
from trcompress.calibration.metrics import candidates
from trcompress.calibration.select import Candidate, rank
from trcompress.calibration.sensitivity import Sensitivity, gate_sensitivity
from trcompress.calibration.share import cost, share_ranks
from trcompress.calibration.solve import contains, solve
from trcompress.calibration.token_weights import token_factors, token_sensitivity, weighted_factors
from trcompress.checkpoint import read_checkpoint
from trcompress.decomposition import InMemoryMatrix, Metric
from trcompress.decomposition.factors import metric_factors
from trcompress.decomposition.weight import CompressedWeight, decompose_weight, weight_source
from trcompress.errors import InputFileError, UsageError
from trcompress.formats import TensorRing
from trcompress.model.kinds import kind_of_gates
from trcompress.model.layer import input_matrices
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Plan
from trcompress.model.weight_plan import WeightPlan
from trcompress.network.layerwise import Substitute
from trcompress.network.moments import Sketch, weighted_moments
from trcompress.network.outputs import Outputs
from trcompress.network.record import record
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


def narrow_inputs(count, steps, size, rank, seed=0, shift=1.0):
    """Sequences in a few directions around a mean that is not zero."""
    random = np.random.default_rng(seed)
    basis = random.normal(size=(rank, size))
    return (random.normal(size=(count, steps, rank)) @ basis + shift * random.normal(size=size)).astype(np.float32)


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


# what passes by once


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


# best in a metric


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


def small_weight(structure, per_gate=False, inputs=12, hidden=8, gates=4):
    matrix = Matrix.input_to_hidden("weight_ih_l0", kind_of_gates(gates).name, inputs, hidden)
    return WeightPlan(matrix, structure, per_gate)


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


# what feeds which layer


def test_layers_are_fed_what_the_dense_network_feeds_them(tmp_path):
    torch.manual_seed(0)
    rnn = nn.GRU(5, 4, 3, bidirectional=True)
    x = torch.randn(7, 9, 5)
    checkpoint = save_network(tmp_path / "m.safetensors", rnn=rnn)
    wanted, state = rnn(x.transpose(0, 1))
    for compare, rows in (
        ("every", wanted.transpose(0, 1).flatten(0, 1)),
        ("final", torch.cat(tuple(state[-2:]), -1)),
    ):
        network, data = network_of(checkpoint, {"x": x.numpy()}, tmp_path, compare=compare)
        (found,) = network(first_batch(data, 7))
        assert torch.allclose(found, rows, atol=1e-6)
    names = network.weights
    assert record(network, data.batches(np.arange(7), 7)).inputs[names["rnn.weight_ih_l2_reverse"]].count == 63


def test_steps_after_the_end_of_a_sequence_do_not_count(tmp_path):
    torch.manual_seed(0)
    rnn = nn.LSTM(5, 4, bidirectional=True)
    x, lengths = torch.randn(3, 9, 5), np.array([9, 2, 5])
    checkpoint = save_network(tmp_path / "m.safetensors", rnn=rnn)
    arrays = {"x": x.numpy(), "length": lengths}
    every, data = network_of(checkpoint, arrays, tmp_path)
    final, _ = network_of(checkpoint, arrays, tmp_path, compare="final")
    alone = [rnn(one[:length].unsqueeze(1)) for one, length in zip(x, lengths, strict=True)]
    assert len(every(first_batch(data, 3))[0]) == lengths.sum()
    (found,) = final(first_batch(data, 3))
    for place, (_, (hidden, _)) in enumerate(alone):
        assert torch.allclose(found[place], hidden[:, 0].flatten(), atol=1e-6)


def test_a_chain_of_stacks_is_followed(tmp_path):
    torch.manual_seed(0)
    first, second = nn.LSTM(5, 6), nn.GRU(6, 4)
    checkpoint = save_network(tmp_path / "m.safetensors", rnn1=first, rnn2=second)
    x = torch.randn(3, 7, 5)
    network, data = network_of(checkpoint, {"x": x.numpy()}, tmp_path)
    wanted = second(first(x.transpose(0, 1))[0])[0].transpose(0, 1).flatten(0, 1)
    assert torch.allclose(network(first_batch(data, 3))[0], wanted, atol=1e-6)
    assert any("rnn2 is fed what rnn1 gives" in note for note in network.notes)


def encoder_decoder(tmp_path):
    torch.manual_seed(0)
    parts = {
        "enc": nn.GRUCell(6, 5),
        "dec": nn.GRUCell(6, 5),
        "enc_emb": nn.Embedding(9, 6),
        "dec_emb": nn.Embedding(7, 6),
        "out": nn.Linear(5, 7),
    }
    random = np.random.default_rng(0)
    arrays = {
        "enc": random.integers(0, 9, (40, 8)),
        "length_enc": random.integers(1, 9, 40),
        "x_dec": random.integers(0, 7, (40, 5)),
        "state_dec": np.array("enc"),
    }
    return parts, save_network(tmp_path / "m.safetensors", **parts), arrays


def test_a_decoder_starts_where_its_encoder_ends(tmp_path):
    parts, checkpoint, arrays = encoder_decoder(tmp_path)
    network, data = network_of(checkpoint, arrays, tmp_path)
    hidden = torch.zeros(40, 5)
    for step in range(8):
        moved = parts["enc"](parts["enc_emb"](torch.from_numpy(arrays["enc"][:, step])), hidden)
        hidden = torch.where(torch.from_numpy(arrays["length_enc"] > step).unsqueeze(1), moved, hidden)
    wanted = []
    for step in range(5):
        hidden = parts["dec"](parts["dec_emb"](torch.from_numpy(arrays["x_dec"][:, step])), hidden)
        wanted.append(parts["out"](hidden))
    (found,) = network(first_batch(data, 40))
    assert torch.allclose(found.view(40, 5, 7), torch.stack(wanted, 1), atol=1e-6)
    assert network.outputs.kind == "scores", "the head has one row for each token"
    assert any("out.weight" in note and "each step" in note for note in network.notes)
    keys = network.file_keys
    assert set(keys.values()) == set(checkpoint.shapes)
    state = network.state_dict()
    assert all(torch.equal(state[name], checkpoint.tensor(key)) for name, key in keys.items())


def test_padding_of_tokens_is_minus_one(tmp_path):
    _, checkpoint, arrays = encoder_decoder(tmp_path)
    arrays["x_dec"][3, 2:] = -1
    network, data = network_of(checkpoint, arrays, tmp_path)
    assert len(network(first_batch(data, 40))[0]) == 40 * 5 - 3


def test_time_is_folded_to_what_the_layer_takes(tmp_path):
    checkpoint = save_network(tmp_path / "m.safetensors", rnn=nn.LSTM(12, 4))
    x = np.random.default_rng(0).normal(size=(5, 8, 3)).astype(np.float32)
    _, data = network_of(checkpoint, {"x": x}, tmp_path)
    assert np.array_equal(first_batch(data, 5)["fed"]["rnn"][0].numpy().reshape(-1, 12), x.reshape(-1, 12))
    assert "folded into 2 steps" in data.notes[0]


def test_only_training_rows_of_a_labelled_file_are_read(tmp_path):
    checkpoint = save_network(tmp_path / "m.safetensors", rnn=nn.LSTM(3, 4), fc=nn.Linear(4, 2))
    x = np.arange(20, dtype=np.float32).reshape(20, 1, 1).repeat(3, 2)
    arrays = {"x": x, "y": np.arange(20) % 2, "group": np.arange(20) // 2}
    _, data = network_of(checkpoint, arrays, tmp_path, split="group", test_groups="3,4")
    values = data.feeds["rnn"].read(np.arange(data.count))[0][:, 0, 0]
    assert sorted(values.tolist()) == [0, 1, 2, 3, 4, 5, *range(10, 20)]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros((3, 2, 5))}, "must hold x or x_train"),
        ({"x": np.zeros((3, 2, 7))}, r"7 values a step, but rnn takes 5"),
        ({"x": np.zeros((3, 2), int)}, "need an embedding"),
        ({"x": np.full((3, 2, 5), np.nan)}, "must be finite"),
        ({"x": np.zeros((3, 2, 5)), "length": np.array([1, 2, 9])}, "length must be 1 to 2: got 1 to 9"),
        ({"x_rmn": np.zeros((3, 2, 5))}, r"x_rmn names no recurrent stack \(did you mean 'rnn'\?\)"),
        ({"x_rnn": np.zeros((3, 2, 5)), "state_rnn": np.zeros((3, 9))}, r"\(N, 1, 4\) values"),
        ({"x_rnn": np.zeros((3, 2, 5)), "state_rnn": np.array("enc")}, "state_rnn must name another stack"),
    ],
)
def test_data_that_does_not_fit_is_refused(arrays, message, tmp_path):
    checkpoint = save_network(tmp_path / "m.safetensors", rnn=nn.LSTM(5, 4))
    with pytest.raises(InputFileError, match=message):
        network_of(checkpoint, arrays, tmp_path)


def test_tokens_must_say_which_stack_they_are_for(tmp_path):
    _, checkpoint, arrays = encoder_decoder(tmp_path)
    with pytest.raises(UsageError, match="x_dec, x_enc"):
        network_of(checkpoint, {"x": arrays["enc"]}, tmp_path)
    with pytest.raises(InputFileError, match="rows"):
        network_of(checkpoint, {"enc": arrays["enc"], "dec": arrays["x_dec"][:9]}, tmp_path)


def test_an_embedding_is_found_by_name_or_named(tmp_path):
    _, checkpoint, arrays = encoder_decoder(tmp_path)
    assert network_of(checkpoint, arrays, tmp_path)[1].feeds["dec"].embedding_key == "dec_emb.weight"
    named = arrays | {"embedding_dec": np.array("enc_emb.weight")}
    assert network_of(checkpoint, named, tmp_path)[1].feeds["dec"].embedding_key == "enc_emb.weight"
    with pytest.raises(InputFileError, match="embedding of dec"):
        network_of(checkpoint, arrays | {"embedding_dec": np.array("out.weight")}, tmp_path)


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
    assert torch.allclose(found.gates, flat.T @ flat, rtol=1e-4, atol=1e-7)
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
