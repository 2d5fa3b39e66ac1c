"""Fine-tuning: it learns, keeps the best by validation, writes everything back, and each setting does its part."""

import json

import numpy as np
import pytest
import small_task
import torch
from command import run
from safetensors.torch import load_file
from small_task import FAST
from torch import nn

from trcompress.artifact.changed import AS_FOUND
from trcompress.artifact.file import Artifact, read_artifact
from trcompress.artifact.write import write_artifact
from trcompress.data import from_arrays
from trcompress.errors import InputFileError, OutputFileError, UsageError
from trcompress.network.read_classifier import read_classifier
from trcompress.training.dense import train_dense
from trcompress.training.evaluate import evaluate
from trcompress.training.finetune import finetune
from trcompress.training.parameters import select_parameters
from trcompress.training.settings import FinetuneSettings

# ---- the whole run


def test_fine_tuning_recovers_what_decomposition_lost(files, tune):
    before = evaluate(files["ring"], files["data"])
    result = tune(teacher=files["dense"])
    after = evaluate(result.out, files["data"])
    assert after.loss < 0.7 * before.loss
    assert after.accuracy >= before.accuracy
    assert result.metrics["accuracy_before"] == before.accuracy
    assert result.metrics["accuracy_after"] == after.accuracy
    assert result.metrics["accuracy_teacher"] == evaluate(files["dense"], files["data"]).accuracy
    assert result.metrics["measured_on"] == "test part of arrays, 30 sequences"


def test_output_is_an_artifact_with_every_name_and_the_history(files, tune):
    result = tune(command="trcompress finetune x")
    before, after = read_artifact(files["ring"]), read_artifact(result.out)
    assert after.tensors.keys() == before.tensors.keys()
    changed = {key for key in before.tensors if not torch.equal(before.tensors[key], after.tensors[key])}
    assert changed == {key for key in before.tensors if not key.startswith("norm.")}
    told = [(one.error, one.notes) for one in after.header.weights]
    assert told == [(one.error, (*one.notes, AS_FOUND)) for one in before.header.weights]
    assert [step.verb for step in after.header.lineage] == ["decompose", "finetune"]
    step = after.header.lineage[-1]
    assert (step.command, step.seed) == ("trcompress finetune x", 0)
    assert step.settings["epochs"] == 6
    assert after.header.metrics["accuracy_after"] == result.metrics["accuracy_after"]
    assert load_file(result.out).keys() == before.tensors.keys()


def test_metrics_file_and_log_hold_every_epoch(tune):
    result = tune(settings={"epochs": 3})
    record = json.loads(result.metrics_path.read_text())
    lines = [json.loads(line) for line in (result.run_folder / "metrics.jsonl").read_text().splitlines()]
    assert record["history"] == lines
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert {"loss", "accuracy", "validation_accuracy", "validation_loss", "lr", "sequences_per_s"} <= lines[
        1
    ].keys()
    assert record["settings"]["epochs"] == 3
    assert not (result.run_folder / "state.safetensors").exists()


def test_best_epoch_is_chosen_by_validation_accuracy_then_loss(tune):
    result = tune(settings={"epochs": 8, "lr": 3e-2})
    best = max(result.history, key=lambda one: (one["validation_accuracy"], -one["validation_loss"]))
    assert result.best_epoch == best["epoch"]
    figures = evaluate(result.out, small_task.data_set(), split="validation")
    assert figures.accuracy == best["validation_accuracy"]
    assert figures.loss == pytest.approx(best["validation_loss"], rel=1e-5)


def test_the_given_weights_are_kept_if_training_only_harms(files, tune):
    good = tune(teacher=files["dense"]).out
    result = tune(
        ring=good, name="again.safetensors", settings={"lr": 1.0, "clip": 0, "warmup_epochs": 0, "epochs": 2}
    )
    assert result.best_epoch == 0
    before, after = load_file(good), load_file(result.out)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_test_rows_have_no_part_in_training(tune):
    arrays = small_task.arrays()
    shuffled = arrays | {"y_test": arrays["y_test"][::-1].copy(), "x_test": arrays["x_test"] * 5}
    first = tune(from_arrays(arrays, validation_fraction=0.25))
    second = tune(from_arrays(shuffled, validation_fraction=0.25), name="second.safetensors")
    one, two = load_file(first.out), load_file(second.out)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert first.metrics["accuracy_after"] != second.metrics["accuracy_after"]


def test_same_seed_same_result_other_seed_another(tune):
    found = [
        load_file(tune(name=f"{name}.safetensors", settings={"seed": seed, "dropout": 0.3}).out)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert any(not torch.equal(found[0][key], found[2][key]) for key in found[0])


def test_a_run_leaves_the_callers_random_numbers_alone(tune):
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(2), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    tune(settings={"epochs": 1})
    assert torch.equal(torch.rand(2), expected[0])
    assert np.random.rand() == expected[1]


def test_without_validation_the_last_epoch_is_kept_and_said(tune):
    result = tune(small_task.data_set(validation_fraction=0))
    assert result.best_epoch == 6
    assert "no validation part: kept the last epoch" in result.notes


def test_patience_needs_a_validation_part(tune):
    with pytest.raises(UsageError, match=r"`patience=3` needs a validation part .*validation_fraction"):
        tune(small_task.data_set(validation_fraction=0), settings={"patience": 3})


def test_what_is_left_open_depends_on_start_and_teacher(files, tune, tmp_path):
    def chosen(**options):
        settings = {"epochs": 0} | options.pop("settings", {})
        record = json.loads(tune(overwrite=True, settings=settings, **options).metrics_path.read_text())
        return record["settings"]["core_lr_scale"], record["settings"]["distill"]["hidden"]

    small = nn.ModuleDict({"rnn": nn.LSTM(12, 8), "fc": nn.Linear(8, 3)})
    torch.save(small.state_dict(), tmp_path / "small.pt")
    assert chosen() == (5.0, 0.0)
    assert chosen(teacher=files["dense"]) == (5.0, 1.0)
    assert chosen(teacher=tmp_path / "small.pt") == (5.0, 0.0)
    assert chosen(teacher=files["dense"], settings={"start": "scratch"}) == (1.0, 1.0)
    assert chosen(settings={"core_lr_scale": 2, "distill": {"hidden": 0.5}}) == (2.0, 0.5)


def test_patience_stops_early(tune):
    result = tune(settings={"epochs": 200, "patience": 3, "lr": 3e-2})
    assert result.stopped == "patience"
    assert result.epochs < 200
    assert result.epochs - result.best_epoch == 3


def test_half_precision_artifacts_keep_their_dtype(files, tune, tmp_path):
    artifact = read_artifact(files["ring"])
    half = {key: value.bfloat16() for key, value in artifact.tensors.items()}
    write_artifact(tmp_path / "half.safetensors", Artifact(half, artifact.header))
    result = tune(ring=tmp_path / "half.safetensors")
    assert {value.dtype for value in load_file(result.out).values()} == {torch.bfloat16}


def test_tied_tensors_stay_tied(tmp_path, tune):
    torch.manual_seed(0)
    network = small_task.Network()
    state = network.state_dict() | {"twin.weight": network.classify.weight}
    torch.save(state, tmp_path / "tied.pt")
    ring = small_task.write_ring(tmp_path / "tied.pt", tmp_path / "tied.safetensors")
    tensors = read_artifact(tune(ring=ring).out).tensors
    assert torch.equal(tensors["twin.weight"], tensors["classify.weight"])
    assert not torch.equal(tensors["twin.weight"], network.classify.weight)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "GRU", "layers": 2, "bidirectional": True},
        {"kind": "LSTM", "proj_size": 5},
        {"kind": "RNN", "bias": False},
    ],
    ids=str,
)
def test_other_networks_and_variable_lengths_train(tmp_path, tune, options):
    small_task.write_network(tmp_path / "m.pt", **options)
    ring = small_task.write_ring(tmp_path / "m.pt", tmp_path / "m.safetensors")
    result = tune(
        small_task.data_set(variable=True),
        ring=ring,
        teacher=tmp_path / "m.pt",
        settings={"distill": {"hidden": 1.0}},
    )
    assert result.history[-1]["loss"] < result.history[1]["loss"]


# ---- faults


def test_faults_name_the_remedy(files, tune, tmp_path):
    with pytest.raises(UsageError, match="dense checkpoint: decompose it first"):
        tune(ring=files["dense"])
    with pytest.raises(OutputFileError, match="must not replace the input"):
        finetune(files["ring"], small_task.data_set(), files["ring"], overwrite=True)
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    with pytest.raises(OutputFileError, match="exists"):
        tune(name="there.safetensors")
    assert not (tmp_path / "there.run").exists()
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"
    with pytest.raises(UsageError, match=r"no device 'cuda:9'"):
        tune(settings={"device": "cuda:9"})


def test_a_teacher_of_another_task_is_refused(tmp_path, files, tune):
    other = nn.ModuleDict({"rnn": nn.LSTM(5, 16), "fc": nn.Linear(16, 3)})
    torch.save(other.state_dict(), tmp_path / "other.pt")
    with pytest.raises(InputFileError, match=r"12 values per step, the teacher takes 5"):
        tune(teacher=tmp_path / "other.pt")
    renamed = nn.ModuleDict({"rnn": nn.LSTM(12, 16), "fc": nn.Linear(16, 3)})
    torch.save(renamed.state_dict(), tmp_path / "renamed.pt")
    with pytest.raises(UsageError, match="hidden-state distillation needs"):
        tune(teacher=tmp_path / "renamed.pt", settings={"distill": {"hidden": 1}})


def test_a_loss_that_is_not_finite_stops_the_run(tune):
    with pytest.raises(UsageError, match=r"loss must stay finite: .*lower the learning rate \(10"):
        tune(settings={"lr": 10.0, "clip": 0, "warmup_epochs": 0, "epochs": 300, "weight_decay": 10.0})


def test_freezing_everything_is_refused(files):
    student = read_classifier(files["ring"])
    with pytest.raises(UsageError, match="nothing is left to train"):
        select_parameters(student, [], ("hh",))


# ---- dense training and the command


def test_dense_networks_train_by_the_same_loop(tmp_path):
    out = tmp_path / "dense.safetensors"
    result = train_dense(small_task.data_set(), out, kind="gru", hidden_size=8, settings=FinetuneSettings(**FAST))
    assert result.history[-1]["loss"] < 0.7 * result.history[1]["loss"]
    assert evaluate(out, small_task.data_set()).accuracy == result.metrics["accuracy_after"]
    assert set(load_file(out)) == {
        "rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0", "fc.weight", "fc.bias",
    }  # fmt: skip


def test_command_trains_and_prints(files, tmp_path):
    out = tmp_path / "cli.safetensors"
    words = ["finetune", files["ring"], "--data", files["data"], "--teacher", files["dense"], "-o", out,
             "--epochs", 2, "--data-option", "validation_fraction=0.25", "--distill-hidden", 0.5,
             "--device", "cpu"]  # fmt: skip
    found = run(*words, "--format", "json")
    record = found.json
    assert record["out"] == str(out)
    assert record["epochs"] == 2
    assert found.stderr.count("epoch ") >= 2
    assert "finetune" in read_artifact(out).header.lineage[-1].verb
    again = run(*words, "--overwrite")
    assert again.code == 0, again.stderr
    assert "validation accuracy" in again.stdout
    assert str(out) in again.stdout


def test_command_refuses_unknown_values(files):
    found = run("finetune", files["ring"], "--data", "x.npz", "--amp", "int8", "--lr", "0")
    assert found.code == 2
    assert "amp" in found.stderr
    assert "lr" in found.stderr
