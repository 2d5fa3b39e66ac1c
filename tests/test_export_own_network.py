"""The user's own network through torch's exporters."""

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command import run
from small_task import Network
from torch import nn

import trcompress
from trcompress.deploy.export import export
from trcompress.deploy.quantize import quantize_onnx
from trcompress.errors import TrcompressError, UsageError

FACTORY = """
import torch
from torch import nn
from small_task import Network

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.rnn = nn.LSTM(12, 16, batch_first=True, bidirectional=True)
        self.score, self.out = nn.Linear(32, 1), nn.Linear(32, 3)

    def forward(self, tokens):
        steps, _ = self.rnn(self.embed(tokens))
        return self.out((torch.softmax(self.score(steps), 1) * steps).sum(1))

def make():
    torch.manual_seed(0)
    return Attention()
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    (tmp_path / "export_factory.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "export_factory:make"
    sys.modules.pop("export_factory", None)


def test_a_users_own_network_goes_through_torchs_exporter(factory, tmp_path):
    import export_factory

    model = export_factory.make()
    torch.save(model.state_dict(), tmp_path / "dense.pt")
    words = ("--shape", "4x3:4x4", "--ranks", "2", "-o", tmp_path / "ring.safetensors")
    assert run("decompose", tmp_path / "dense.pt", *words).code == 0
    out = tmp_path / "own.onnx"
    done = run("export", tmp_path / "ring.safetensors", "--model", factory, "--onnx", out)
    assert done.code == 0, done.stderr
    assert "batch and time are dynamic" in done.stderr
    assert "LSTM" in {node.op_type for node in onnx.load(out).graph.node}
    session = onnxruntime.InferenceSession(str(out))
    trcompress.load_(tmp_path / "ring.safetensors", model)
    tokens = torch.randint(30, (5, 9))
    with torch.no_grad():
        wanted = model.eval()(tokens)
    (scores,) = session.run(None, {session.get_inputs()[0].name: tokens.numpy()})
    assert torch.allclose(torch.from_numpy(scores), wanted, atol=1e-5)


def test_a_network_that_takes_lengths_keeps_them(tmp_path):
    torch.manual_seed(0)
    model = Network().eval()
    export(model, onnx=tmp_path / "own.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "own.onnx"))
    x, lengths = torch.randn(4, 9, 12), torch.tensor([9, 2, 3, 1])
    with torch.no_grad():
        wanted = model(x, lengths)
    names = [one.name for one in session.get_inputs()]
    (scores,) = session.run(None, dict(zip(names, (x.numpy(), lengths.numpy()), strict=True)))
    assert torch.allclose(torch.from_numpy(scores), wanted, atol=1e-5)


def test_torch_export_says_what_it_froze(files, tmp_path):
    done = run("export", files["ring"], "--torch-export", tmp_path / "ring.pt2", "--steps", 6)
    assert done.code == 0, done.stderr
    assert "frozen: time at 6 steps" in done.stderr
    program = torch.export.load(tmp_path / "ring.pt2").module()
    assert program(torch.randn(9, 6, 12))[0].shape == (9, 3)


class ReadsPadded(nn.Module):
    """Gives every padded step, so that its outputs are as long as the longest of the lengths."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(12, 8, 2, batch_first=True, bidirectional=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]


@pytest.mark.parametrize("opset", [15, 21])
def test_lengths_of_the_users_example_follow_the_steps(tmp_path, opset):
    torch.manual_seed(0)
    example = (torch.randn(3, 7, 12), torch.tensor([7, 2, 5]))
    found = export(ReadsPadded().eval(), onnx=tmp_path / "a.onnx", example=example, opset=opset)
    assert [(one.steps, one.batch) for one in found.parity] == [(1, 1), (7, 3), (20, 16)]
    (version,) = {one.version for one in onnx.load(tmp_path / "a.onnx").opset_import if one.domain == ""}
    assert version == opset
    assert not [note for note in found.notes if "opset" in note]


def test_projections_in_a_users_network_are_refused_by_name(tmp_path, capfd):
    model = nn.Sequential(nn.LSTM(12, 16, proj_size=4, batch_first=True))
    with pytest.raises(UsageError, match=r"projections \(0: proj_size=4\)"):
        export(model, onnx=tmp_path / "a.onnx", example=(torch.randn(2, 5, 12),))
    assert capfd.readouterr() == ("", "")


class FollowsValues(nn.Module):
    """Goes on as long as its input says: what no exporter can follow."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(12, 8, batch_first=True)

    def forward(self, x):
        steps = x
        while float(steps.abs().max()) > 0.1:
            steps = steps / 2
        return self.rnn(steps)[0][:, -1].tolist()


def test_what_exporters_say_is_quoted_in_one_plain_line(tmp_path):
    with pytest.raises(TrcompressError, match="exporters cannot follow") as caught:
        export(FollowsValues(), onnx=tmp_path / "a.onnx", example=(torch.randn(2, 5, 12),))
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "step 1/3" not in str(caught.value)


class AttendsToItself(nn.Module):
    """A head behind a mean is a Gemm in ONNX, which the quantizer transposes."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(12, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        steps = self.rnn(x)[0]
        return self.head(self.attention(steps, steps, steps, need_weights=False)[0].mean(1))


@pytest.mark.slow
def test_int8_of_a_network_with_attention(tmp_path):
    torch.manual_seed(0)
    example = (torch.randn(2, 6, 12),)
    found = export(AttendsToItself().eval(), onnx=tmp_path / "a.onnx", example=example, int8=True)
    rounded = [one for one in found.parity if one.file == "onnx int8"]
    assert len(rounded) == 3
    assert 0 < max(one.difference for one in rounded) < 0.05
    assert found.file_bytes["onnx int8"] < found.file_bytes["onnx"]


def test_what_the_quantizer_says_is_one_line(tmp_path):
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(TrcompressError, match=r"cannot round this file: .*; ship it unrounded"):
        quantize_onnx(tmp_path / "empty.onnx", tmp_path / "out.onnx")


@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_and_a_head_of_equal_shapes_without_biases(tied, tmp_path):
    torch.manual_seed(0)
    embed, rnn, out = nn.Embedding(20, 12), nn.LSTM(12, 12, batch_first=True), nn.Linear(12, 20, bias=False)
    if tied:
        out.weight = embed.weight
    torch.save(nn.ModuleDict({"embed": embed, "rnn": rnn, "out": out}).state_dict(), tmp_path / "dense.pt")
    found = export(tmp_path / "dense.pt", onnx=tmp_path / "a.onnx", readout="every")
    assert any("head: out.weight" in note for note in found.notes)
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
    tokens = torch.randint(20, (3, 6))
    (scores,) = session.run(None, {"tokens": tokens.numpy(), "lengths": np.full(3, 6)})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(scores), out(rnn(embed(tokens))[0]), atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_a_folded_language_model_is_exported_and_expanded(tied, tmp_path):
    torch.manual_seed(0)
    make = lambda: nn.ModuleDict(  # noqa: E731
        {"embed": nn.Embedding(10, 24), "rnn": nn.LSTM(24, 24, batch_first=True), "out": nn.Linear(24, 10)}
    )
    net = make()
    if tied:
        net["out"].weight = net["embed"].weight
    torch.save(net.state_dict(), tmp_path / "dense.pt")
    tokens = torch.randint(10, (64, 6))
    np.savez(tmp_path / "data.npz", x=tokens.numpy(), y=tokens.numpy(), group=np.arange(64))
    small, onnx_file = tmp_path / "small.safetensors", tmp_path / "small.onnx"
    words = ("--target-ratio-model", 3, "--calibrate", tmp_path / "data.npz", "--readout", "every", "-o", small)
    done = run("compress", tmp_path / "dense.pt", *words)
    assert done.code == 0, done.stderr
    assert "nothing is held out" not in done.stderr
    expanded = make()
    trcompress.expand(small, tmp_path / "expanded.pt")
    expanded.load_state_dict(torch.load(tmp_path / "expanded.pt"))
    export(small, onnx=onnx_file, readout="every")
    session = onnxruntime.InferenceSession(str(onnx_file))
    (scores,) = session.run(None, {"tokens": tokens[:3].numpy(), "lengths": np.full(3, 6)})
    with torch.no_grad():
        wanted = expanded["out"](expanded["rnn"](expanded["embed"](tokens[:3]))[0])
    assert torch.allclose(torch.from_numpy(scores), wanted, atol=1e-5)
