"""What goes into a user's network that is exported: found, or an example; its names; no noise beside it."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from command import run
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import trcompress
from trcompress import TRGRU, export

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size"),
]


class Waves(nn.Module):
    """A convolution over (B, channels, T) in front; a dict comes out."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(5, 12, 3, padding=1)
        self.rnn = TRGRU(12, 8, shape="4x3:4x2", ranks="2", batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, wave):
        steps, state = self.rnn(self.conv(wave).transpose(1, 2))
        return {"scores": self.out(steps.mean(1)), "state": state}


class Speakers(nn.Module):
    """Three inputs: frames, their lengths, and who speaks."""

    def __init__(self):
        super().__init__()
        self.rnn = TRGRU(12, 8, shape="4x3:4x2", ranks="2", batch_first=True)
        self.who, self.out = nn.Embedding(4, 8), nn.Linear(8, 3)

    def forward(self, frames, lengths, speaker):
        packed = pack_padded_sequence(frames, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.out(self.rnn(packed)[1][-1] + self.who(speaker))


class FixedLength(nn.Module):
    """A head over all steps at once: nine, and no others."""

    def __init__(self):
        super().__init__()
        self.rnn = TRGRU(12, 8, shape="4x3:4x2", ranks="2", batch_first=True)
        self.out = nn.Linear(72, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0].flatten(1))


def example():
    return torch.randn(3, 7, 12), torch.tensor([7, 2, 5]), torch.tensor([3, 0, 2])


def made(kind):
    torch.manual_seed(0)
    return kind().eval()


def names_of(values):
    return {one.name: one.shape for one in values}


def test_channels_before_steps_are_found_and_a_dict_keeps_its_names(tmp_path, capfd):
    model = made(Waves)
    found = export(model, onnx=tmp_path / "a.onnx")
    assert "batch and time are dynamic" in found.notes[-1]
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
    assert names_of(session.get_inputs()) == {"wave": ["batch", 5, "time"]}
    assert list(names_of(session.get_outputs())) == ["scores", "state"]
    wave = torch.randn(4, 5, 13)
    given, wanted = session.run(None, {"wave": wave.numpy()}), model(wave)
    for mine, other in zip(given, wanted.values(), strict=True):
        assert torch.allclose(torch.from_numpy(mine), other, atol=1e-5)
    assert capfd.readouterr() == ("", "")


def test_three_inputs_by_an_example(tmp_path, capfd):
    model = made(Speakers)
    found = export(model, onnx=tmp_path / "a.onnx", example=example())
    assert "batch and time are dynamic" in found.notes[-1]
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
    assert names_of(session.get_inputs()) == {
        "frames": ["batch", "time", 12],
        "lengths": ["batch"],
        "speaker": ["batch"],
    }
    inputs = torch.randn(5, 9, 12), torch.tensor([9, 1, 3, 8, 2]), torch.tensor([0, 1, 2, 3, 0])
    named = dict(zip(("frames", "lengths", "speaker"), (one.numpy() for one in inputs), strict=True))
    assert torch.allclose(torch.from_numpy(session.run(None, named)[0]), model(*inputs), atol=1e-5)
    assert capfd.readouterr() == ("", "")


def test_a_fixed_number_of_steps_is_said(tmp_path):
    found = export(made(FixedLength), onnx=tmp_path / "a.onnx", example=torch.randn(2, 9, 12))
    assert "frozen: time at 9 steps" in found.notes[-1]
    assert {one.steps for one in found.parity} == {9}


MODULE = """
from test_export_inputs import Speakers, example as made_example

def example():
    return made_example()
"""


def test_the_command_line_takes_an_example(tmp_path, monkeypatch):
    (tmp_path / "spoken.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    trcompress.save(made(Speakers), tmp_path / "ring.safetensors")
    words = ("export", tmp_path / "ring.safetensors", "--model", "spoken:Speakers", "--onnx", tmp_path / "a.onnx")
    refused = run(*words)
    assert refused.code == 2
    assert "no input could be made up for Speakers: give --example" in refused.stderr
    done = run(*words, "--example", "spoken:example")
    assert done.code == 0, done.stderr
    again = run(*words, "--example", "spoken:example")
    assert f"the output exists: {tmp_path / 'a.onnx'}; choose another path, or allow --overwrite" in again.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("text", "an example is named package.module:function"),
        ([], "must be tensors, batch first"),
        ([torch.zeros(2, 3, 12), None], "must be tensors, batch first"),
        (torch.zeros(2, 9, 11), "the network, called with `example`"),
    ],
)
def test_what_is_no_example_is_refused(tmp_path, given, message):
    with pytest.raises(trcompress.TrcompressError, match=message):
        export(made(FixedLength), onnx=tmp_path / "a.onnx", example=given)
    assert not (tmp_path / "a.onnx").exists()


class Attending(nn.Module):
    """Optional lengths, a mask made of them, a dict as the answer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.rnn = TRGRU(12, 8, shape="4x3:4x2", ranks="2", batch_first=True)
        self.score, self.out = nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, tokens, lengths=None):
        steps = self.embed(tokens)
        if lengths is None:
            steps = self.rnn(steps)[0]
            scores = self.score(steps)
        else:
            packed = pack_padded_sequence(steps, lengths.cpu(), batch_first=True, enforce_sorted=False)
            steps, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=tokens.shape[1])
            valid = torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(1)
            scores = self.score(steps).masked_fill(~valid.unsqueeze(-1), -1e9)
        weights = torch.softmax(scores, 1)
        return {"scores": self.out((weights * steps).sum(1)), "weights": weights}


class Stepper(nn.Module):
    """One step of a decoder: the state goes in and comes out."""

    def __init__(self):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(30, 12), trcompress.TRLSTM(12, 8, 2, shape="4x3:4x2", ranks="2")
        self.out = nn.Linear(8, 30)

    def forward(self, tokens, h, c):
        steps, (h, c) = self.rnn(self.embed(tokens).transpose(0, 1), (h, c))
        return self.out(steps).transpose(0, 1), h, c


class StepsFirst(nn.Module):
    """torch.nn's own layout, (T, B, I)."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = TRGRU(12, 8, shape="4x3:4x2", ranks="2"), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0][-1])


class Loop(nn.Module):
    """A cell in a loop: the same weights once a step."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = trcompress.TRLSTMCell(12, 8, shape="4x3:4x2", ranks="2"), nn.Linear(8, 3)

    def forward(self, x):
        state = (x.new_zeros(x.shape[0], 8), x.new_zeros(x.shape[0], 8))
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.out(state[0])


def test_optional_lengths_and_a_dict(tmp_path):
    model = made(Attending)
    found = export(model, onnx=tmp_path / "a.onnx", torch_export=tmp_path / "a.pt2")
    assert "batch and time are dynamic" in found.notes[-2]
    assert found.notes[-1].endswith("it takes no lengths: torch.export cannot follow packed sequences")
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
    tokens, lengths = torch.randint(30, (4, 9)), torch.tensor([2, 9, 1, 5])
    given = session.run(["scores", "weights"], {"tokens": tokens.numpy(), "lengths": lengths.numpy()})
    for mine, other in zip(given, model(tokens, lengths).values(), strict=True):
        assert torch.allclose(torch.from_numpy(mine), other, atol=1e-5)
    program = torch.export.load(tmp_path / "a.pt2").module()
    assert torch.allclose(
        program(torch.ones(3, 16, dtype=torch.long))["scores"], model(torch.ones(3, 16).long())["scores"]
    )


def test_states_have_their_sequences_second(tmp_path):
    model = made(Stepper)
    inputs = torch.randint(30, (2, 5)), torch.zeros(2, 2, 8), torch.zeros(2, 2, 8)
    found = export(model, onnx=tmp_path / "a.onnx", example=inputs)
    assert "batch and time are dynamic" in found.notes[-1]
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
    assert names_of(session.get_inputs())["h"] == [2, "batch", 8]
    assert [*names_of(session.get_outputs()).values()] == [["batch", "time", 30], [2, "batch", 8], [2, "batch", 8]]


def test_steps_before_sequences_are_told_apart(tmp_path):
    export(made(StepsFirst), onnx=tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
    assert names_of(session.get_inputs()) == {"x": ["time", "batch", 12]}


def test_int8_of_a_cell_in_a_loop(tmp_path):
    found = export(made(Loop), onnx=tmp_path / "a.onnx", int8=True)
    assert "frozen: time at 16 steps" in found.notes[-1]
    rounded = [one for one in found.parity if one.file == "onnx int8"]
    assert 0 < max(one.difference for one in rounded) < 0.02
