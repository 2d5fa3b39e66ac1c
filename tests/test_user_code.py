"""The user's own code: losses for their loop, callbacks, and faults told in one line with their last frame."""

import copy
import sys

import pytest
import small_task
import torch
from command import run
from torch import nn

import trcompress
from trcompress import DistillLoss, Plan
from trcompress.errors import UsageError, UserCodeError
from trcompress.util.user_code import find_function


class Tagger(nn.Module):
    """Embedding, packed biLSTM, a cell, scores per step."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(12, 8, bidirectional=True, batch_first=True)
        self.cell = nn.GRUCell(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        steps, _ = self.rnn(x)
        state = x.new_zeros(len(x), 8)
        for t in range(x.shape[1]):
            state = self.cell(steps[:, t], state)
        return {"scores": self.head(state)}


def pair():
    torch.manual_seed(0)
    teacher = Tagger()
    student = copy.deepcopy(teacher)
    trcompress.compress_(student, Plan.of("4x3:4x2", 2, layer="rnn*"))
    return student, teacher


@torch.no_grad()
def distance(student, teacher, x):
    """Squared distance of the scores over their variance, and the share of equal answers."""
    mine, theirs = student(x)["scores"], teacher(x)["scores"]
    spread = (theirs - theirs.mean((0, 1))).square().sum()
    same = (mine.argmax(-1) == theirs.argmax(-1)).float().mean()
    return float((mine - theirs).square().sum() / spread), float(same)


def test_distillation_in_ones_own_loop_teaches_a_student_that_knows_nothing():
    torch.manual_seed(0)
    teacher, student = (
        Tagger(),
        Tagger(),
    )  # another draw of values: what it gives has nothing to do with the teacher
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(2)
    trcompress.compress_(student, Plan.of("12:32", "1,8", layer="rnn*"))
    unseen = torch.randn(256, 6, 12)
    before = distance(student, teacher, unseen)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    with DistillLoss(student, teacher, temperature=1.0) as distill:
        for _ in range(60):
            x = torch.randn(64, 6, 12)
            optimizer.zero_grad()
            distill(student(x), x).backward()
            optimizer.step()
    after = distance(student, teacher, unseen)
    assert before[0] > 0.8
    assert before[1] < 0.4
    assert after[0] < 0.35
    assert after[1] > 0.6
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.rnn._forward_hooks
    assert not student.rnn._forward_hooks


def test_the_loss_is_zero_where_both_agree_and_counts_each_term():
    teacher = Tagger()
    student = copy.deepcopy(teacher)
    x = torch.randn(3, 6, 12)
    distill = DistillLoss(student, teacher)
    assert float(distill(student(x), x)) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        student.head.bias += torch.arange(5.0)
    scores = student(x)["scores"]
    mine, theirs = scores.log_softmax(1), teacher(x)["scores"].log_softmax(1)
    wanted = (theirs.exp() * (theirs - mine)).sum(1).mean()
    only_scores = DistillLoss(student, teacher, hidden=0, temperature=1.0, logits=2.0)
    assert float(only_scores(student(x), x)) == pytest.approx(2 * float(wanted), rel=1e-5)


def test_other_passes_between_two_calls_of_the_loss_do_not_count():
    student, teacher = pair()
    x, others = torch.randn(3, 6, 12), torch.randn(5, 6, 12)
    distill = DistillLoss(student, teacher)
    wanted = float(distill(student(x), x))
    for _ in range(2):  # as a validation loop between two epochs
        student(others)
        teacher(others)
    assert float(distill(student(x), x)) == pytest.approx(wanted)


def test_what_cannot_be_compared_is_named():
    student, teacher = pair()
    with pytest.raises(UsageError, match="nothing was recorded"):
        DistillLoss(student, teacher)({"scores": torch.zeros(2, 5)}, torch.randn(2, 6, 12))
    del teacher.rnn
    with pytest.raises(UsageError, match="the teacher has no recurrent layer 'rnn'"):
        DistillLoss(student, teacher)
    DistillLoss(student, teacher, hidden=0)


def test_on_epoch_is_called_after_each_epoch_with_its_record(tmp_path):
    files = small_task.write_files(tmp_path)
    seen = []
    options = {"epochs": 3, "batch_size": 16, "device": "cpu"}
    result = trcompress.finetune(
        files["ring"], files["data"], tmp_path / "a.safetensors", **options, on_epoch=seen.append
    )
    assert [one["epoch"] for one in seen] == [0, 1, 2, 3]
    assert {"loss", "accuracy", "lr"} <= seen[1].keys()
    assert seen[-1] == result.history[-1]

    def stop(record):
        if record["epoch"] == 2:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        trcompress.finetune(files["ring"], files["data"], tmp_path / "b.safetensors", **options, on_epoch=stop)
    again = trcompress.finetune(files["ring"], files["data"], tmp_path / "b.safetensors", **options, resume=True)
    assert again.epochs == 3


FAULTY = """
import numpy as np
import small_task
from torch import nn


def broken():
    return nn.LSTM(12, 8, hidden_sized=3)


def sized(hidden):
    return nn.LSTM(12, hidden)


class Net(small_task.Network):
    def forward(self, x, lengths=None):
        return x[:, 99]
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "faulty_code.py").write_text(FAULTY)
    (tmp_path / "cannot_import.py").write_text("import torch\n1 / 0\n")
    (tmp_path / "parses_arguments.py").write_text("import sys\nsys.exit(7)\n")
    (tmp_path / "lacks_another.py").write_text("import not_installed_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("faulty_code", "cannot_import", "parses_arguments", "lacks_another"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("faulty_code:Net", None, ()),
        ("faulty_code:Nett", UsageError, ("Nett is missing", "did you mean 'Net'")),
        ("faulty_code:n", UsageError, ("n is missing in faulty_code",)),  # nn and np are modules
        ("faulty_cod:Net", UsageError, ("no module 'faulty_cod'",)),
        ("faulty_code", UsageError, ("package.module:function",)),
        ("cannot_import:f", UserCodeError, ("ZeroDivisionError", "cannot_import.py", "line 2", "1 / 0")),
        ("parses_arguments:f", UserCodeError, ("SystemExit: 7", "parses_arguments.py", "sys.exit(7)")),
        ("lacks_another:f", UserCodeError, ("not_installed_at_all", "lacks_another.py")),
    ],
)
def test_functions_are_found_or_the_fault_is_told(module, spec, error, words):
    if error is None:
        assert callable(find_function(spec, "a model factory"))
        return
    with pytest.raises(error) as told:
        find_function(spec, "a model factory")
    assert all(word in str(told.value) for word in words)


@pytest.mark.parametrize(
    ("name", "words"), [("broken", ("hidden_sized", "in broken")), ("Net", ("in forward", "99"))]
)
def test_faults_of_the_users_network_are_one_line_and_exit_3(module, name, words):
    files = small_task.write_files(module)
    done = run("evaluate", files["ring"], "--data", files["data"], "--model", f"faulty_code:{name}")
    assert done.code == 3
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in ("your code failed", "faulty_code.py", *words))


def test_a_network_that_fails_at_once_leaves_nothing_behind(module):
    files = small_task.write_files(module)
    before = set(module.iterdir())
    options = (
        "--data",
        files["data"],
        "--model",
        "faulty_code:Net",
        "--epochs",
        "1",
        "--out",
        module / "a.safetensors",
    )
    assert run("finetune", files["ring"], *options, "--out", module / "a.safetensors").code == 3
    assert set(module.iterdir()) - before <= {module / "__pycache__"}


def test_a_factory_that_takes_arguments_is_refused_by_its_signature(module):
    files = small_task.write_files(module)
    done = run("evaluate", files["ring"], "--data", files["data"], "--model", "faulty_code:sized")
    assert done.code == 2
    assert "faulty_code:sized(hidden) must take what it is called with, no arguments" in done.stderr
    assert "your code failed" not in done.stderr


OWN = '''
import torch
from torch import nn


class Net(nn.Module):
    """What a file alone does not describe: a convolution in front, attention behind, a cell of its own kind."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(6, 12, 3, padding=1)
        self.rnn = nn.LSTM(12, 16, batch_first=True, bidirectional=True)
        self.score, self.head = nn.Linear(32, 1), nn.Linear(32, 5)

    def forward(self, x):
        steps, _ = self.rnn(self.conv(x.transpose(1, 2)).transpose(1, 2))
        return self.head((steps * self.score(steps).softmax(1)).sum(1))


def loader(rows=96):
    torch.manual_seed(0)
    x = torch.randn(rows, 7, 6)
    return torch.utils.data.DataLoader(list(zip(x, torch.zeros(rows))), batch_size=32)


def broken_loader():
    yield torch.randn(4, 7, 6)
    raise ValueError("the disk is gone")
'''


def test_a_file_is_calibrated_in_the_users_own_network_on_their_own_batches(tmp_path, monkeypatch):
    (tmp_path / "own_network.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    import own_network

    torch.manual_seed(0)
    net = own_network.Net().eval()
    torch.save(net.state_dict(), tmp_path / "m.pt")
    out = tmp_path / "m.tr.safetensors"
    mine = ("--model", "own_network:Net", "--calibrate", "own_network:loader")
    try:
        done = run("decompose", tmp_path / "m.pt", "--shape", "12:64", "--ranks", "1,4", *mine, "-o", out)
        assert done.code == 0, done.stderr
        again = trcompress.load_(out, own_network.Net()).eval()
        plain = trcompress.decompose(tmp_path / "m.pt", Plan.of("12:64", (1, 4)), init="tr-svd")
        other = trcompress.load_(plain, own_network.Net()).eval()
        x = torch.randn(64, 7, 6)
        errors = [float((model(x) - net(x)).square().sum()) for model in (again, other)]
        assert errors[0] <= errors[1]
        planned = run("plan", tmp_path / "m.pt", "--target-ratio", 3, "--effort", "low", *mine)
        assert planned.code == 0, planned.stderr
        broken = (*mine[:2], "--calibrate", "own_network:broken_loader")
        faulty = run("plan", tmp_path / "m.pt", "--target-ratio", 3, *broken)
        assert faulty.code == 3
        assert "the disk is gone" in faulty.stderr
        assert "in broken_loader" in faulty.stderr
        alone = run("plan", tmp_path / "m.pt", "--target-ratio", 3, *mine[:2])
        assert alone.code == 2
        assert "--model would not be used without --calibrate" in alone.stderr
    finally:
        sys.modules.pop("own_network", None)


LOADERS = """
import torch
from trcompress.data import from_arrays


def drawn(wide=12):
    torch.manual_seed(0)
    return torch.randn(96, 7, wide)


def pairs():
    x = drawn()
    return torch.utils.data.DataLoader(list(zip(x, torch.zeros(96))), batch_size=16)


def lengths_too():
    for part in drawn().split(16):
        yield part, torch.arange(16) % 7 + 1, torch.zeros(16)


def named():
    parts = [part[:, : 3 + number % 4] for number, part in enumerate(drawn().split(16))]
    return [{"x": part, "labels": None, "label_ids": torch.zeros(16)} for part in parts]


def data_set():
    x = drawn().numpy()
    y = (x[:, 0, 0] > 0).astype(int)
    return from_arrays({"x_train": x, "y_train": y, "x_test": x[:8], "y_test": y[:8]})


def too_wide():
    return drawn(13).split(16)


def empty():
    return []


def broken():
    yield drawn()[:16]
    raise ValueError("the disk is gone")


def of_four():
    return [(drawn(), 1, 2, 3)]
"""


@pytest.fixture
def described(tmp_path, monkeypatch):
    """A file that describes its network, and a module of loaders for it."""
    (tmp_path / "own_loaders.py").write_text(LOADERS)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    net = nn.ModuleDict({"rnn": nn.LSTM(12, 16), "fc": nn.Linear(16, 2)})
    torch.save(net.state_dict(), tmp_path / "m.pt")
    yield tmp_path
    sys.modules.pop("own_loaders", None)


def verbs(folder):
    out = folder / "out.safetensors"
    yield "plan", folder / "m.pt", "--target-ratio", 3, "--effort", "low"
    yield "plan", folder / "m.pt", "--target-size", "4KB"
    yield "decompose", folder / "m.pt", "--shape", "12:64", "--ranks", "1,4", "-o", out, "--overwrite"
    yield "compress", folder / "m.pt", "--target-size", "4KB", "-o", out, "--overwrite"


@pytest.mark.parametrize("loader", ["pairs", "lengths_too", "named", "data_set"])
def test_every_verb_takes_batches_and_data_sets_without_a_model(described, loader):
    for words in verbs(described):
        done = run(*words, "--calibrate", f"own_loaders:{loader}")
        assert done.code == 0, (words, done.stderr)


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        ("too_wide", "13 values a step"),
        ("empty", "at least one batch"),
        ("broken", "the disk is gone"),
        ("of_four", r"must be x, (x, labels)"),
    ],
)
def test_every_verb_refuses_data_that_does_not_fit_before_anything_slow(described, loader, words, monkeypatch):
    from trcompress.passes import decompose, whole_file
    from trcompress.search import plan

    for module, slow in ((plan, "search_weights"), (decompose, "ranks_for_error"), (whole_file, "whole_")):
        monkeypatch.setattr(module, slow, lambda *_, **__: pytest.fail("slow work began"))
    by_error = ("decompose", described / "m.pt", "--shape", "12:64", "--max-error", 0.3, "-o", described / "o")
    for verb in (*verbs(described), by_error):
        done = run(*verb, "--calibrate", f"own_loaders:{loader}")
        assert done.code == 3, (verb, done.stderr)
        assert words in " ".join(done.stderr.split())
