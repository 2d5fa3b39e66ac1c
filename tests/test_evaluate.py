"""Evaluation: every figure against a slow count, the gates, and faults that say what to do."""

import json

import numpy as np
import pytest
import small_task
import torch
from command import run as trcompress
from torch import nn

from trcompress.data import from_arrays
from trcompress.errors import InputFileError, QualityGateError, UsageError
from trcompress.network.read_classifier import read_classifier
from trcompress.training.distributed import Team
from trcompress.training.evaluate import Evaluation, check_gates, describe, evaluate
from trcompress.training.tally import Tally

TEAM = Team(0, 1, torch.device("cpu"))


def scores_of(path, x):
    found = read_classifier(path)
    found.module.eval()
    with torch.no_grad():
        return found.module(torch.from_numpy(x)).double().numpy()


def test_every_figure_against_a_slow_count(files):
    arrays = small_task.arrays()
    found = evaluate(files["ring"], files["data"], teacher=files["dense"], batch_size=7)
    scores, y = scores_of(files["ring"], arrays["x_test"]), arrays["y_test"]
    teacher = scores_of(files["dense"], arrays["x_test"])
    confusion = np.zeros((3, 3), int)
    loss = 0.0
    for row, label in zip(scores, y, strict=True):
        confusion[label, row.argmax()] += 1
        loss -= row[label] - np.log(np.exp(row).sum())
    assert found.confusion == tuple(map(tuple, confusion.tolist()))
    assert found.accuracy == np.mean(scores.argmax(1) == y)
    assert found.loss == pytest.approx(loss / len(y), rel=1e-5)
    assert found.agreement == np.mean(scores.argmax(1) == teacher.argmax(1))
    assert found.sequences == 30
    assert found.top5 is None
    for k, one in enumerate(found.per_class):
        hits = confusion[k, k]
        assert one.sequences == confusion[k].sum()
        assert one.recall == pytest.approx(hits / confusion[k].sum())
        assert one.precision == pytest.approx(hits / confusion[:, k].sum())
        assert one.f1 == pytest.approx(2 * hits / (confusion[k].sum() + confusion[:, k].sum()))


def test_top5_counts_the_five_highest_scores():
    torch.manual_seed(0)
    logits, y = torch.randn(50, 8), torch.randint(0, 8, (50,))
    tally = Tally(8, TEAM.device)
    for part in range(0, 50, 9):
        chunk = slice(part, part + 9)
        tally.add(logits[chunk], y[chunk], torch.ones(len(y[chunk])))
    ranks = [(row > row[label]).sum().item() for row, label in zip(logits, y, strict=True)]
    found = tally.result(TEAM)
    assert found.top5 == pytest.approx(np.mean([rank < 5 for rank in ranks]))
    assert found.accuracy == pytest.approx(np.mean([rank == 0 for rank in ranks]))


def test_masked_rows_do_not_count():
    tally = Tally(2, TEAM.device)
    tally.add(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
    found = tally.result(TEAM)
    assert (found.sequences, found.accuracy) == (1, 1.0)


def test_a_vocabulary_of_classes_is_counted_without_every_pair():
    words = 100_000  # every pair would take 80 GB
    tally = Tally(words, TEAM.device)
    logits = torch.zeros(3, words)
    logits[torch.arange(3), torch.tensor([7, 99_999, 5])] = 1
    tally.add(logits, torch.tensor([7, 99_999, 4]), torch.ones(3))
    found = tally.result(TEAM)
    assert (found.sequences, found.accuracy, found.confusion) == (3, 2 / 3, ())


def test_a_class_never_answered_or_never_seen_has_no_figure(files):
    data = small_task.data_set()
    figures = Tally(3, TEAM.device)
    figures.add(torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]), torch.tensor([0, 1]), torch.ones(2))
    first, second, third = describe(figures.result(TEAM), "m", data, "test").per_class
    assert (first.precision, first.recall) == (0.5, 1.0)
    assert (second.precision, second.recall, second.f1) == (None, 0.0, 0.0)
    assert (third.precision, third.recall, third.f1) == (None, None, None)


def test_batch_size_and_split_are_respected(files):
    data = small_task.data_set()
    one = evaluate(files["ring"], data, split="validation", batch_size=1)
    many = evaluate(files["ring"], data, split="validation", batch_size=64)
    assert one.confusion == many.confusion
    assert one.sequences == len(data.validation)
    with pytest.raises(UsageError, match=r"the data has no test part: arrays has train"):
        evaluate(
            files["ring"], from_arrays({k: v for k, v in small_task.arrays().items() if "train" in k}, split="none")
        )


def test_data_of_another_size_or_with_other_classes_is_refused(files):
    arrays = small_task.arrays()
    wide = arrays | {f"x_{part}": np.repeat(arrays[f"x_{part}"], 2, axis=2) for part in ("train", "test")}
    with pytest.raises(InputFileError, match=r"has 24 values per step, .*ring.safetensors takes 12"):
        evaluate(files["ring"], from_arrays(wide))
    more = arrays | {"y_train": np.arange(60) % 5}
    with pytest.raises(InputFileError, match=r"classify.weight 3 x 16 for data of 5 classes"):
        evaluate(files["ring"], from_arrays(more))


def test_scores_that_are_not_finite_are_refused(tmp_path):
    network = small_task.write_network(tmp_path / "model.pt")
    state = network.state_dict()
    state["classify.bias"][0] = float("inf")
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(InputFileError, match="finite"):
        evaluate(tmp_path / "bad.pt", small_task.data_set())


def figure(accuracy):
    return Evaluation("m", "d", "test", 100, accuracy, None, 0.1, ("a", "b"), ((1, 0), (0, 1)), ())


def test_gates():
    check_gates(figure(0.9), min_accuracy=0.9, baseline=figure(0.91), max_drop=0.01)
    with pytest.raises(QualityGateError, match=r"0.8900 is below `min_accuracy=0.9`"):
        check_gates(figure(0.89), min_accuracy=0.9)
    with pytest.raises(QualityGateError, match=r"0.0200 below the baseline's 0.9100, more than `max_drop=0.01`"):
        check_gates(figure(0.89), baseline=figure(0.91), max_drop=0.01)
    with pytest.raises(QualityGateError, match=r"min_accuracy.*; .*max_drop"):
        check_gates(figure(0.5), min_accuracy=0.9, baseline=figure(0.91), max_drop=0.01)
    with pytest.raises(UsageError, match="`baseline`"):
        check_gates(figure(0.5), max_drop=0.1)


def run(*arguments):
    return trcompress("evaluate", *arguments)


def test_command_prints_json_and_gates_after_printing(files):
    found = run(files["ring"], "--data", files["data"], "--baseline", files["dense"], "--format", "json")
    record = found.json
    assert record["drop"] == pytest.approx(record["baseline"]["accuracy"] - record["accuracy"])
    assert record["agreement"] is not None
    missed = run(files["ring"], "--data", files["data"], "--min-accuracy", 1, "--format", "json")
    assert missed.code == 5
    assert json.loads(missed.stdout)["sequences"] == 30


def test_command_prints_tables(files):
    found = run(files["ring"], "--data", files["data"], "--baseline", files["dense"])
    assert found.code == 0, found.stderr
    for word in ("accuracy", "agreement", "baseline", "per class", "confusion", "precision", "points"):
        assert word in found.stdout
    assert "the only recurrent stack" in found.stderr


def test_command_refuses_a_gate_without_a_baseline(files):
    assert run(files["ring"], "--data", files["data"], "--max-drop", 0.1).code == 2


def test_users_own_network_is_measured(files, monkeypatch):
    monkeypatch.syspath_prepend(str(small_task.__file__).rpartition("/")[0])
    plain = evaluate(files["ring"], files["data"])
    from trcompress.network.classifier import Wiring

    own = evaluate(files["ring"], files["data"], wiring=Wiring(model="small_task:Network"))
    assert own.confusion == plain.confusion


class Narrow(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.rnn = nn.LSTM(12, 16)
        self.normal = nn.LayerNorm(4)
        self.classify = nn.Linear(16, 3)


def test_wrong_keys_of_the_users_network_are_named_with_the_nearest(files):
    from trcompress.network.classifier import Wiring

    wiring = Wiring(model="test_evaluate:Narrow")
    for path in (files["ring"], files["dense"]):
        with pytest.raises(InputFileError, match=r"missing normal.weight \(did you mean 'norm.weight'\?\)"):
            evaluate(path, files["data"], wiring=wiring)


def test_a_relu_network_is_told_by_its_kind_and_what_is_assumed_is_said_where_it_is_run(tmp_path):
    found = small_task.arrays()
    torch.manual_seed(0)
    network = small_task.Network("RNN", nonlinearity="relu")
    torch.save(network.state_dict(), tmp_path / "relu.pt")
    np.savez(tmp_path / "data.npz", **found)
    words = ("evaluate", tmp_path / "relu.pt", "--data", tmp_path / "data.npz", "--format", "json")
    assumed, told = trcompress(*words), trcompress(*words, "--kind", "rnn-relu")
    assert any("tanh assumed" in note and "rnn_relu" in note for note in assumed.json["notes"])
    assert not any("assumed" in note for note in told.json["notes"])
    shown = trcompress(*words[:-2])
    assert "tanh assumed" in shown.stderr
    assert "--kind rnn_relu" in shown.stderr
    ring = ("decompose", tmp_path / "relu.pt", "--target-ratio", "1.2", "--dry-run")
    assert "tanh assumed" in trcompress(*ring).stderr
    assert "assumed" not in trcompress(*ring, "--kind", "rnn-relu").stderr
    wanted = nn.functional.cross_entropy(
        network(torch.from_numpy(found["x_test"])), torch.from_numpy(found["y_test"])
    )
    assert told.json["loss"] == pytest.approx(float(wanted), rel=1e-4)
    assert assumed.json["loss"] != pytest.approx(float(wanted), rel=1e-3)
    wrong = trcompress(*words, "--kind", "encoder.rnn=relu")
    assert wrong.code == 2
    assert "rnn_relu" in wrong.stderr
