"""Data of every shape: tokens, masks, several inputs; a class a step, and numbers to be met."""

import sys

import numpy as np
import pytest
import torch
from command import run
from torch import nn

import trcompress
from trcompress import Plan, Wiring
from trcompress.data import from_arrays
from trcompress.errors import InputFileError, UsageError

FAST = {"epochs": 2, "batch_size": 16, "device": "cpu", "lr": 0.01}
RNG = np.random.default_rng(0)
MODELS = """
import torch
from torch import nn


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.rnn = nn.LSTM(12, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens, attention_mask=None):
        return self.head(self.rnn(self.embedding(tokens))[0])


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(12, 8, batch_first=True)
        self.speaker = nn.Embedding(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x, speaker, lengths=None):
        steps = self.rnn(x)[0]
        last = steps[:, -1] if lengths is None else steps[torch.arange(len(x)), lengths.to(x.device) - 1]
        return self.head(last + self.speaker(speaker))
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    (tmp_path / "models_of_tasks.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    import models_of_tasks

    yield models_of_tasks
    sys.modules.pop("models_of_tasks", None)


def write(folder, model, arrays, shape="4x3:4x2", ranks=2):
    torch.save(model.state_dict(), folder / "m.pt")
    np.savez(folder / "d.npz", **arrays)
    trcompress.decompose(folder / "m.pt", Plan.of(shape, ranks), folder / "m.tr.safetensors")
    return folder / "m.tr.safetensors", folder / "d.npz"


def both(x, y, **more):
    parts = {"x": x, "y": y, **more}
    return {f"{name}_{part}": values for part in ("train", "test") for name, values in parts.items()}


def test_tokens_are_looked_up_in_the_files_embedding_and_trained(tmp_path):
    torch.manual_seed(0)
    model = nn.ModuleDict({"emb": nn.Embedding(20, 12), "rnn": nn.LSTM(12, 8), "fc": nn.Linear(8, 3)})
    x = RNG.integers(0, 20, (48, 6))
    ring, data = write(tmp_path, model, both(x, x[:, 0] % 3, length=RNG.integers(1, 7, 48)))
    found = trcompress.evaluate(tmp_path / "m.pt", data)
    lengths = torch.from_numpy(np.load(data)["length_test"])
    packed = nn.utils.rnn.pack_padded_sequence(
        model["emb"](torch.from_numpy(x)), lengths, batch_first=True, enforce_sorted=False
    )
    model["rnn"].batch_first = True
    right = model["fc"](model["rnn"](packed)[1][0][0]).argmax(1).numpy() == x[:, 0] % 3
    assert found.accuracy == right.mean()
    result = trcompress.finetune(ring, data, teacher=tmp_path / "m.pt", **FAST)
    before, after = (trcompress.read_artifact(path).tensors["emb.weight"] for path in (ring, result.out))
    assert not torch.equal(before, after)
    assert run("evaluate", result.out, "--data", data).code == 0


@pytest.mark.parametrize(("highest", "error"), [(25, "tokens must be 0..19"), (-1, "tokens must be 0..19")])
def test_tokens_beyond_the_embedding_are_named(tmp_path, highest, error):
    model = nn.ModuleDict({"emb": nn.Embedding(20, 12), "rnn": nn.LSTM(12, 8), "fc": nn.Linear(8, 3)})
    x = RNG.integers(0, 20, (12, 6))
    x[3, 2] = highest
    ring, data = write(tmp_path, model, both(x, x[:, 0] % 3))
    with pytest.raises(InputFileError, match=error):
        trcompress.evaluate(ring, data)
    plain = nn.ModuleDict({"rnn": nn.LSTM(12, 8), "fc": nn.Linear(8, 3)})
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    done = run("evaluate", tmp_path / "plain.pt", "--data", data)
    assert done.code == 3
    assert "no embedding of width 12" in done.stderr


def test_a_class_for_each_step_counts_valid_steps_alone(tmp_path):
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.LSTM(12, 8, bidirectional=True), "fc": nn.Linear(16, 3)})
    x = RNG.normal(size=(40, 7, 12)).astype(np.float32)
    y = (x[:, :, 0] > 0).astype(np.int64) + (x[:, :, 1] > 1)
    y[:, 2] = -100
    lengths = RNG.integers(3, 8, 40)
    ring, data = write(tmp_path, model, both(x, y, length=lengths))
    found = trcompress.evaluate(tmp_path / "m.pt", data)
    model["rnn"].batch_first = True
    right = total = 0
    for row, label, length in zip(x, y, lengths, strict=True):
        answer = model["fc"](model["rnn"](torch.from_numpy(row[None, :length]))[0]).argmax(-1)[0].numpy()
        valid = label[:length] >= 0
        right, total = right + (answer == label[:length])[valid].sum(), total + valid.sum()
    assert (found.task, found.sequences) == ("labelling", total)
    assert found.accuracy == pytest.approx(right / total)
    result = trcompress.finetune(ring, data, teacher=tmp_path / "m.pt", **FAST)
    assert run("evaluate", result.out, "--data", data, "--baseline", tmp_path / "m.pt").code == 0


def test_numbers_are_met(tmp_path):
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.GRU(12, 8), "fc": nn.Linear(8, 2)})
    x = RNG.normal(size=(60, 5, 12)).astype(np.float32)
    y = np.stack((x.mean((1, 2)), x[:, -1, 0]), 1)
    ring, data = write(tmp_path, model, both(x, y))
    found = trcompress.evaluate(tmp_path / "m.pt", data)
    model["rnn"].batch_first = True
    error = model["fc"](model["rnn"](torch.from_numpy(x))[1][0]).detach().numpy() - y
    assert found.rmse == pytest.approx(float(np.sqrt((error**2).mean())), rel=1e-5)
    assert found.r2 == pytest.approx(1 - (error**2).sum() / ((y - y.mean(0)) ** 2).sum(), rel=1e-4)
    assert found.accuracy is None
    result = trcompress.finetune(ring, data, teacher=tmp_path / "m.pt", **FAST)
    done = run("evaluate", result.out, "--data", data, "--baseline", tmp_path / "m.pt")
    assert done.code == 0, done.stderr
    assert "RMSE" in done.stdout
    gated = run("evaluate", result.out, "--data", data, "--min-accuracy", 0.5)
    assert gated.code == 2
    assert "numbers to be met" in gated.stderr
    assert run("report", result.out).code == 0


def divided(x, y, tested):
    """Rows to train on, and others to test on."""
    return {"x_train": x[:-tested], "y_train": y[:-tested], "x_test": x[-tested:], "y_test": y[-tested:]}


def test_labelling_is_learnt_so_that_unseen_steps_are_right(tmp_path):
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.LSTM(12, 16, bidirectional=True), "fc": nn.Linear(32, 3)})
    x = np.random.default_rng(0).normal(size=(240, 7, 12)).astype(np.float32)
    y = (x[:, :, 0] > 0).astype(np.int64) + (x[:, :, 1] > 0)
    ring, data = write(tmp_path, model, divided(x, y, 40), "4x3:4x4", 3)
    metrics = trcompress.finetune(ring, data, **(FAST | {"epochs": 20, "lr": 0.03})).metrics
    assert metrics["accuracy_before"] < 0.55, "the commonest class is right for half of the steps"
    assert metrics["accuracy_after"] > 0.85


def test_regression_is_learnt_so_that_unseen_rows_are_met(tmp_path):
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.GRU(12, 16), "fc": nn.Linear(16, 2)})
    x = np.random.default_rng(0).normal(size=(300, 4, 12)).astype(np.float32)
    y = np.tanh(np.stack((x[:, -1, 1] + x[:, -2, 1], x[:, -1, 0]), 1))
    ring, data = write(tmp_path, model, divided(x, y, 60), "12:48", "1,4")
    metrics = trcompress.finetune(ring, data, **(FAST | {"epochs": 25, "lr": 0.03})).metrics
    assert metrics["r2_before"] < 0.1
    assert metrics["r2_after"] > 0.5
    assert metrics["rmse_after"] < 0.7 * metrics["rmse_before"]


def test_a_network_of_ones_own_gets_tokens_masks_and_other_inputs_by_name(tmp_path, models):
    torch.manual_seed(0)
    x, mask = RNG.integers(0, 20, (24, 6)), RNG.random((24, 6)) > 0.3
    mask[:, 0] = True
    ring, data = write(tmp_path, models.Tagger(), both(x, x % 3, mask=mask))
    wiring = Wiring(model="models_of_tasks:Tagger")
    result = trcompress.finetune(ring, data, wiring=wiring, **FAST)
    assert result.metrics["accuracy_after"] >= 0


def test_several_inputs_reach_the_network_and_those_it_does_not_take_are_named(tmp_path, models):
    torch.manual_seed(0)
    x, speaker = RNG.normal(size=(24, 6, 12)).astype(np.float32), RNG.integers(0, 4, 24)
    lengths = RNG.integers(1, 7, 24)
    model = models.TwoInputs()
    ring, data = write(tmp_path, model, both(x, speaker % 3, input_speaker=speaker, length=lengths))
    wiring = Wiring(model="models_of_tasks:TwoInputs")
    found = trcompress.evaluate(tmp_path / "m.pt", data, wiring=wiring)
    tensors = [torch.from_numpy(one) for one in (x, speaker, lengths)]
    tensors[0][torch.arange(6) >= tensors[2].unsqueeze(1)] = 0
    assert found.accuracy == (model(*tensors).argmax(1).numpy() == speaker % 3).mean()
    assert trcompress.finetune(ring, data, wiring=wiring, **FAST).epochs == 2
    with pytest.raises(UsageError, match=r"takes x and lengths: the data also holds speaker.*`model="):
        trcompress.evaluate(ring, data, wiring=Wiring(head="head"))
    again = dict(np.load(data)) | {"input_age_train": lengths, "input_age_test": lengths}
    with pytest.raises(UsageError, match="input_age: the network's forward must take arguments of these names"):
        trcompress.evaluate(ring, from_arrays(again), wiring=wiring)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y_train": np.zeros((8, 4)) + 0.5, "y_test": np.zeros(8)}, "y must have equally many"),
        ({"y_train": np.full(8, np.nan)}, "must be finite"),
        ({"mask_train": np.ones((8, 4), bool)}, "mask_train must be"),
        ({"input_age_train": np.ones(7)}, "input_age_train must be numbers for each of 8 rows"),
        ({"y_train": np.zeros(8)}, "task=regression"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, words):
    arrays = both(np.zeros((8, 5, 2), np.float32), np.arange(8) % 2)
    with pytest.raises(InputFileError, match=words):
        from_arrays(arrays | change)


def test_whole_numbers_are_met_where_the_user_says_so():
    arrays = both(np.zeros((8, 5, 2), np.float32), np.arange(8.0))
    data = from_arrays(arrays, task="regression")
    assert (data.task, data.classes) == ("regression", ("0",))
    assert data.train.batch([2, 3])[1].tolist() == [[float(row)] for row in data.train.rows[2:4]]
