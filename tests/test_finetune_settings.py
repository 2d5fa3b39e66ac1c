"""What training is made of: losses, settings, frozen parts, mixed precision."""

from itertools import pairwise

import numpy as np
import pytest
import small_task
import torch
from safetensors.torch import load_file
from torch import nn

from trcompress.data import from_arrays
from trcompress.errors import UsageError
from trcompress.network.read_classifier import read_classifier
from trcompress.training.batches import ordered_requests, read_batches, shuffled_requests
from trcompress.training.distributed import Team
from trcompress.training.evaluate import evaluate
from trcompress.training.learner import Learner, class_weights
from trcompress.training.schedule import lr_factor, make_optimizer, set_lr
from trcompress.training.settings import DistillSettings, FinetuneSettings, read_settings
from trcompress.training.teacher import Teacher, View


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
