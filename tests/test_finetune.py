"""Fine-tuning: it learns, keeps the best by validation, writes everything back, and each setting does its part."""

import json
from itertools import pairwise

import numpy as np
import pytest
import small_task
import torch
from command import run
from safetensors.torch import load_file
from torch import nn

from trcompress.artifact.changed import AS_FOUND
from trcompress.artifact.file import Artifact, read_artifact
from trcompress.artifact.write import write_artifact
from trcompress.data import from_arrays
from trcompress.errors import InputFileError, OutputFileError, UsageError
from trcompress.network.classifier import Wiring
from trcompress.network.read_classifier import read_classifier
from trcompress.training.batches import ordered_requests, read_batches, shuffled_requests
from trcompress.training.dense import train_dense
from trcompress.training.distributed import Team
from trcompress.training.evaluate import evaluate
from trcompress.training.finetune import finetune
from trcompress.training.learner import Learner, class_weights
from trcompress.training.parameters import select_parameters
from trcompress.training.schedule import lr_factor, make_optimizer, set_lr
from trcompress.training.settings import DistillSettings, FinetuneSettings, read_settings
from trcompress.training.teacher import Teacher, View

FAST = {"epochs": 6, "batch_size": 16, "lr": 1e-2, "device": "cpu"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return small_task.write_files(tmp_path_factory.mktemp("task"))


@pytest.fixture
def tune(files, tmp_path):
    """Fine-tune the ring; returns (result, output path)."""

    def run(data=None, name="out.safetensors", ring=None, **options):
        settings = FinetuneSettings(**(FAST | options.pop("settings", {})))
        data = small_task.data_set() if data is None else data
        return finetune(ring or files["ring"], data, tmp_path / name, settings=settings, **options)

    return run


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


# ---- settings


def test_frozen_parts_keep_their_values(files, tune):
    before = load_file(files["ring"])
    after = load_file(tune(settings={"freeze": "hh,head", "epochs": 2}).out)
    kept = {key for key in before if torch.equal(before[key], after[key])}
    frozen = {"classify.weight", "classify.bias", "encoder.rnn.weight_hh_l0", "encoder.rnn.bias_hh_l0"}
    assert kept == frozen | {"norm.weight", "norm.bias"}


def test_accumulated_batches_equal_one_large_batch(tune):
    options = {"dropout": 0.0, "epochs": 3, "class_weights": "balanced", "label_smoothing": 0.1}
    whole = load_file(tune(name="a.safetensors", settings=options | {"batch_size": 24}).out)
    parts = load_file(tune(name="b.safetensors", settings=options | {"batch_size": 8, "accumulate": 3}).out)
    for key in whole:
        torch.testing.assert_close(parts[key], whole[key], rtol=1e-4, atol=1e-5)


def learner_loss(files, settings, teacher=None, data=None):
    student = read_classifier(files["ring"])
    data = data or small_task.data_set()
    weights = class_weights(settings.class_weights, data.train, 3)
    learner = Learner(student, settings, weights, teacher)
    team = Team(0, 1, torch.device("cpu"))
    batch = next(read_batches(data.train, ordered_requests(data.train, 10), team))
    return learner, batch, student


def test_label_loss_is_pytorchs_own(files):
    settings = FinetuneSettings(class_weights=(1.0, 2.0, 5.0), label_smoothing=0.2)
    learner, batch, _ = learner_loss(files, settings)
    weights = torch.tensor([1.0, 2.0, 5.0])
    loss, logits = learner(batch, float(weights[batch.y].sum()), 10)
    wanted = nn.functional.cross_entropy(logits, batch.y, weights, label_smoothing=0.2)
    torch.testing.assert_close(loss.detach(), wanted)


def slow_terms(student, dense, batch):
    """Distances written out sequence by sequence, on PyTorch's plain modules."""
    rnn = dense.encoder.rnn
    hidden, logits = [], []
    for row in range(len(batch.x)):
        length = int(batch.lengths[row]) if batch.lengths is not None else batch.x.shape[1]
        x = batch.x[row : row + 1, :length]
        own, other = student.recurrent["encoder.rnn"], rnn
        steps, wanted = own(x)[0], other(x)[0]
        hidden.append(((steps - wanted) ** 2).sum() / (wanted**2).sum())
        logits.append(dense(x)[0])
    return torch.stack(hidden), torch.stack(logits)


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("options", [{}, {"layers": 2, "bidirectional": True}], ids=["plain", "deep"])
def test_distillation_terms_against_slow_ones(tmp_path, options, variable):
    network = small_task.write_network(tmp_path / "m.pt", **options)
    files = {"ring": small_task.write_ring(tmp_path / "m.pt", tmp_path / "m.safetensors")}
    teacher = Teacher(read_classifier(tmp_path / "m.pt"), torch.device("cpu"))
    data = small_task.data_set(variable=variable)
    weights = {"labels": 0.0, "logits": 0.0, "hidden": 0.0, "temperature": 3.0}
    found = {}
    for name in ("logits", "hidden"):
        settings = FinetuneSettings(distill=DistillSettings(**(weights | {name: 2.0})))
        learner, batch, student = learner_loss(files, settings, teacher, data)
        student.module.eval()
        loss, logits = learner(batch, 10.0, 10)
        found[name] = loss.detach() / 2
        learner.close()
    with torch.no_grad():
        hidden, wanted = slow_terms(student, network, batch)
    softened = (wanted / 3).softmax(1)
    divergence = (softened * (softened.log() - (logits / 3).log_softmax(1))).sum(1).mean() * 9
    torch.testing.assert_close(found["hidden"], hidden.mean(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["logits"], divergence, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2])
def test_remembered_answers_are_the_teachers_and_random_rows_are_not_remembered(files, size):
    teacher = Teacher(read_classifier(files["dense"]), torch.device("cpu"))
    for data, kept in (
        (small_task.data_set(variable=True), True),
        (from_arrays(small_task.arrays(), frames=4), False),
    ):
        parts = []
        for rank in range(size):
            teacher.remember(data.train, SimulatedTeam(rank, size, torch.device("cpu")), batch_size=7)
            parts.append(teacher._known)
        assert all((part is not None) == kept for part in parts)
        if kept:  # what the processes would add up
            logits = sum(part.logits for part in parts)
            hidden = {name: sum(part.hidden[name] for part in parts) for name in parts[0].hidden}
            teacher._known = View(logits, hidden)
        requests = shuffled_requests(data.train, 5, seed=0, epoch=0)
        for batch in read_batches(data.train, requests, Team(0, 1, torch.device("cpu"))):
            known, fresh = teacher.recall(batch), teacher.look(batch)
            torch.testing.assert_close(known.logits, fresh.logits)
            wanted = fresh.hidden["encoder.rnn"]
            torch.testing.assert_close(known.hidden["encoder.rnn"][:, : wanted.shape[1]], wanted)
        teacher._known = None


class SimulatedTeam(Team):
    """A process whose sums are added up by the test."""

    def sum_(self, *tensors):
        pass


def test_each_distillation_term_brings_the_student_nearer(files, tune):
    def agreement(**terms):
        weights = {"labels": 0.0, "logits": 0.0, "hidden": 0.0} | terms
        result = tune(teacher=files["dense"], overwrite=True, settings={"distill": weights, "epochs": 10})
        return evaluate(result.out, small_task.data_set(), teacher=files["dense"], split="train").agreement

    start = evaluate(files["ring"], small_task.data_set(), teacher=files["dense"], split="train").agreement
    assert start < 0.95
    for term in ("logits", "hidden"):
        assert agreement(**{term: 1.0}) > start, term


def test_scratch_start_forgets_the_weights(files, tune):
    result = tune(settings={"start": "scratch", "epochs": 0})
    before, after = load_file(files["ring"]), load_file(result.out)
    assert all(not torch.equal(before[key], after[key]) for key in before if not key.startswith("norm."))


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains(tune, amp):
    result = tune(settings={"amp": amp, "epochs": 8})
    assert result.history[-1]["loss"] < 0.8 * result.history[1]["loss"]
    assert {value.dtype for value in load_file(result.out).values()} == {torch.float32}


def test_learning_rate_warms_up_and_falls_to_nothing():
    factors = [lr_factor(step, 100, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factors[10] == 1
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert factors[-1] < 0.001
    assert lr_factor(55, 100, 10) == pytest.approx(0.5)


def test_biases_do_not_decay_and_cores_have_their_own_rate(files):
    network = read_classifier(files["ring"]).module
    optimizer = make_optimizer(network, network.parameters(), weight_decay=0.5, core_lr_scale=4.0)
    set_lr(optimizer, 0.1)
    found = {id(p): (g["weight_decay"], g["lr"]) for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in network.named_parameters():
        decay = 0.0 if "bias" in name else 0.5
        assert found[id(parameter)] == (decay, pytest.approx(0.4 if ".core." in name else 0.1)), name


def test_balanced_class_weights_give_each_class_the_same_sum():
    data = small_task.data_set()
    labels = np.array([0] * 6 + [1] * 3 + [2])
    from dataclasses import replace

    split = replace(data.train, labels=labels, rows=np.arange(10), groups=None)
    weights = class_weights("balanced", split, 3)
    torch.testing.assert_close(weights * torch.tensor([6.0, 3.0, 1.0]), torch.full((3,), 10 / 3))
    with pytest.raises(UsageError, match="one number per class: got 2 for 3"):
        class_weights((1.0, 2.0), split, 3)


def test_settings_report_all_faults_at_once():
    with pytest.raises(UsageError) as caught:
        read_settings({"epoch": 3, "lr": -1, "amp": "int8", "distill": {"logit": 1, "hidden": -2}})
    text = str(caught.value)
    for word in (
        "epoch is unknown (did you mean 'epochs'?)",
        "lr",
        "amp",
        "did you mean 'logits'",
        "distill.hidden",
    ):
        assert word in text


def test_settings_read_text_as_the_command_line_gives_it():
    found = read_settings({"epochs": "7", "lr": "1e-3", "freeze": "hh, head", "class_weights": "1,2.5"})
    assert (found.epochs, found.lr, found.freeze, found.class_weights) == (7, 1e-3, ("hh", "head"), (1.0, 2.5))


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


# ---- the user's own network


def test_users_own_network_is_swapped_and_trained(files, tune):
    wiring = Wiring(model="small_task:Network")
    result = tune(teacher=files["dense"], wiring=wiring, settings={"distill": {"hidden": 1.0}})
    before, after = read_artifact(files["ring"]), read_artifact(result.out)
    assert after.tensors.keys() == before.tensors.keys()
    assert evaluate(result.out, files["data"], wiring=wiring).accuracy == result.metrics["accuracy_after"]
    assert result.history[-1]["loss"] < result.history[1]["loss"]


class Fixed(small_task.Network):
    def __init__(self):
        super().__init__()
        self.classify.requires_grad_(False)

    def forward(self, x):
        return {"logits": 1} if x is None else (super().forward(x), None)


def test_what_the_users_network_froze_stays_frozen(files, tune):
    wiring = Wiring(model="test_finetune:Fixed")
    before, after = load_file(files["ring"]), load_file(tune(wiring=wiring).out)
    assert torch.equal(before["classify.weight"], after["classify.weight"])
    assert not torch.equal(before["encoder.rnn.weight_hh_l0"], after["encoder.rnn.weight_hh_l0"])
    with pytest.raises(UsageError, match=r"take \(x, lengths\), or a mask; Fixed.forward takes x alone"):
        tune(small_task.data_set(variable=True), wiring=wiring, overwrite=True)


def test_head_of_the_users_network_is_named_by_the_user(files, tune):
    with pytest.raises(UsageError, match="name it with `head`"):
        tune(wiring=Wiring(model="small_task:Network"), settings={"freeze": "head"})
    wiring = Wiring(model="small_task:Network", head="classify")
    after = load_file(tune(wiring=wiring, settings={"freeze": "head"}, overwrite=True).out)
    assert torch.equal(after["classify.weight"], load_file(files["ring"])["classify.weight"])


@pytest.mark.parametrize("model", ["small_task:Netwerk", "nowhere.at_all:Network", "small_task:CLASSES"])
def test_factories_that_do_not_exist_are_refused(files, model):
    with pytest.raises(UsageError):
        evaluate(files["ring"], files["data"], wiring=Wiring(model=model))


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


def test_tensorboard_needs_its_package(files, tmp_path):
    from trcompress.errors import MissingExtraError
    from trcompress.training.display import NoDisplay, TensorBoardDisplay

    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match="pip install tensorboard"):
            TensorBoardDisplay(tmp_path, NoDisplay())
    else:
        display = TensorBoardDisplay(tmp_path, NoDisplay())
        display.epoch({"epoch": 1, "phase": "end-to-end", "loss": 0.5})
        display.close()
        assert list(tmp_path.iterdir())


def test_input_dropout_hides_values_from_the_student_only(files):
    settings = FinetuneSettings(input_dropout=0.5)
    learner, batch, student = learner_loss(files, settings)
    seen = []
    student.module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    learner.train()
    learner(batch, 10.0, 10)
    learner.eval()
    learner(batch, 10.0, 10)
    hidden = seen[0] == 0
    assert 0.4 < hidden.float().mean() < 0.6
    torch.testing.assert_close(seen[0][~hidden], 2 * batch.x[~hidden])
    assert torch.equal(seen[1], batch.x)
