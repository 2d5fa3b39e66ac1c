"""Files for other runtimes compute what the network does, at every size, and say what is frozen."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command import run
from small_task import Network
from torch import nn

import trcompress
from trcompress.deploy import to_plain
from trcompress.deploy.export import export
from trcompress.deploy.onnx_graph import build_onnx
from trcompress.deploy.parity import Parity, check
from trcompress.deploy.sequence import READOUTS, SequenceNetwork
from trcompress.errors import TrcompressError, UsageError

SIZES = ((1, 1), (7, 3), (20, 5))


def stack(kind, *, ring, bidirectional, inputs=24, layers=2, **options):
    cls = getattr(trcompress, f"TR{kind}") if ring else getattr(nn, kind)
    modes = {"shape": f"{inputs // 4}x4:4x2", "ranks": "2"} if ring else {}
    return to_plain(cls(inputs, 8, layers, batch_first=True, bidirectional=bidirectional, **options, **modes))


def inputs_of(network, steps, batch):
    lengths = torch.randint(1, steps + 1, (batch,))
    lengths[0] = steps
    if network.embedding is not None:
        return torch.randint(network.embedding.num_embeddings, (batch, steps)), lengths
    return torch.randn(batch, steps, 24), lengths


def assert_alike(network):
    model = build_onnx(network.eval())
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0].name
    for steps, batch in SIZES:
        x, lengths = inputs_of(network, steps, batch)
        with torch.no_grad():
            wanted = network(x, lengths)
        given = session.run(None, {first: x.numpy(), "lengths": lengths.numpy()})
        assert len(wanted) == len(given)
        for mine, other in zip(wanted, given, strict=True):
            assert torch.allclose(mine, torch.from_numpy(other), atol=1e-5)
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("ring", [False, True])
def test_stacks_of_every_kind(kind, bidirectional, ring):
    torch.manual_seed(0)
    both = [
        stack(kind, ring=ring, bidirectional=bidirectional),
        stack(kind, ring=False, bidirectional=bidirectional, inputs=8 * (1 + bidirectional), layers=1),
    ]
    assert kind in assert_alike(SequenceNetwork(None, both, None, "final"))


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("bias", [True, False])
def test_every_readout(readout, bias):
    torch.manual_seed(0)
    head = nn.Linear(16, 5, bias=bias)
    table = nn.Embedding(30, 24)
    operators = assert_alike(SequenceNetwork(table, [stack("GRU", ring=True, bidirectional=True)], head, readout))
    assert {"Gather", "MatMul", "GRU"} <= operators


def test_without_biases_and_with_relu():
    torch.manual_seed(0)
    assert_alike(SequenceNetwork(None, [stack("LSTM", ring=True, bidirectional=True, bias=False)], None, "final"))
    assert_alike(
        SequenceNetwork(None, [stack("RNN", ring=False, bidirectional=True, nonlinearity="relu")], None, "final")
    )


def test_batch_and_time_are_open_and_operators_standard(files, tmp_path):
    done = run("export", files["ring"], "--onnx", tmp_path / "a.onnx", "--opset", 15)
    assert done.code == 0, done.stderr
    model = onnx.load(tmp_path / "a.onnx")
    assert [one.version for one in model.opset_import if not one.domain] == [15]
    assert {node.domain for node in model.graph.node} == {""}
    (x, lengths) = model.graph.input
    assert [one.dim_param for one in x.type.tensor_type.shape.dim][:2] == ["batch", "time"]
    assert lengths.name == "lengths"
    assert "nothing is frozen" in done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("onnx ")]) == 3


def test_the_file_of_a_dense_checkpoint_has_its_scores(files, tmp_path):
    found = export(files["dense"], onnx=tmp_path / "dense.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "dense.onnx"))
    network = Network()
    network.load_state_dict(torch.load(files["dense"]))
    x, lengths = torch.randn(4, 6, 12), torch.tensor([6, 2, 3, 1])
    with torch.no_grad():
        wanted = network.eval()(x, lengths)
    (scores,) = session.run(None, {"x": x.numpy(), "lengths": lengths.numpy()})
    assert torch.allclose(torch.from_numpy(scores), wanted, atol=1e-5)
    assert found.file_bytes["onnx"] == (tmp_path / "dense.onnx").stat().st_size


def test_an_embedding_in_the_file_makes_tokens_the_input(tmp_path):
    torch.manual_seed(0)
    parts = {"embed": nn.Embedding(40, 12), "rnn": nn.GRU(12, 8, bidirectional=True), "out": nn.Linear(16, 4)}
    torch.save(nn.ModuleDict(parts).state_dict(), tmp_path / "tagger.pt")
    done = run("export", tmp_path / "tagger.pt", "--onnx", tmp_path / "t.onnx", "--readout", "every")
    assert done.code == 0, done.stderr
    session = onnxruntime.InferenceSession(str(tmp_path / "t.onnx"))
    assert [one.name for one in session.get_inputs()] == ["tokens", "lengths"]
    (scores,) = session.run(None, {"tokens": [[3, 5, 7]], "lengths": [3]})
    assert scores.shape == (1, 3, 4)
    run("export", tmp_path / "tagger.pt", "--onnx", tmp_path / "v.onnx", "--embedding", "none", "--head", "none")
    session = onnxruntime.InferenceSession(str(tmp_path / "v.onnx"))
    assert [one.name for one in session.get_outputs()] == ["output", "h_n"]


@pytest.mark.parametrize("tied", [True, False])
def test_an_encoder_beside_a_decoder_is_its_embedding_before_and_after_compression(tied, tmp_path):
    torch.manual_seed(0)
    parts = {"encoder": nn.Embedding(8, 24), "rnn": nn.LSTM(24, 24), "decoder": nn.Linear(24, 8)}
    if tied:
        parts["decoder"].weight = parts["encoder"].weight
    torch.save(nn.ModuleDict(parts).state_dict(), tmp_path / "lm.pt")
    tokens = np.random.default_rng(0).integers(0, 8, (40, 9))
    np.savez(tmp_path / "lm.npz", x_train=tokens[:, :-1], y_train=tokens[:, 1:])
    small = (
        "compress",
        tmp_path / "lm.pt",
        "--calibrate",
        tmp_path / "lm.npz",
        "--readout",
        "every",
        "--target-ratio-model",
    )
    for ratio in (2, 6):
        done = run(*small, ratio, "-o", tmp_path / f"{ratio}.safetensors")
        assert done.code == 0, done.stderr
    for name in ("lm.pt", "2.safetensors", "6.safetensors"):
        done = run(
            "export", tmp_path / name, "--onnx", tmp_path / f"{name}.onnx", "--readout", "every", "--format", "json"
        )
        assert "embedding: encoder.weight; the input is tokens" in done.json["notes"]
        session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"))
        (scores,) = session.run(None, {"tokens": [[3, 5, 7]], "lengths": [3]})
        assert scores.shape == (1, 3, 8)


def test_int8_is_smaller_and_its_distance_is_told(files, tmp_path):
    found = run("export", files["dense"], "--onnx", tmp_path / "a.onnx", "--int8", "--format", "json").json
    assert found["file_bytes"]["onnx int8"] == (tmp_path / "a.onnx").stat().st_size
    rounded = [one for one in found["parity"] if one["file"] == "onnx int8"]
    exact = [one for one in found["parity"] if one["file"] == "onnx"]
    assert len(rounded) == len(exact) == 3
    assert max(one["difference"] for one in rounded) > max(one["difference"] for one in exact)
    assert found["files"] == {"onnx int8": str(tmp_path / "a.onnx")}


def test_int8_of_a_large_layer_is_nearly_four_times_smaller(tmp_path):
    torch.manual_seed(0)
    network = SequenceNetwork(None, [nn.LSTM(96, 96, batch_first=True)], None, "final")
    found = export(network, onnx=tmp_path / "a.onnx", int8=True)
    assert found.file_bytes["onnx"] > 3.5 * found.file_bytes["onnx int8"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "needs a file to write"),
        (("--torch-export", "a.pt2", "--int8"), "goes with --onnx"),
        (("--onnx", "a.onnx", "--opset", 9), "--opset must be 14 or later"),
        (("--onnx", "a.onnx", "--steps", 0), "--steps must be at least 1"),
        (("--onnx", "a.onnx", "--opset", 99), "try another --opset"),
        (("--onnx", "a.onnx", "--embedding", "nonsense"), "embedding"),
        (("--onnx", "a.onnx", "--head", "nonsense"), "--head must name a matrix"),
    ],
)
def test_what_cannot_be_is_said(files, tmp_path, words, message):
    done = run("export", files["ring"], *words, cwd=tmp_path)
    assert done.code == 2, done.stderr
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_projections_have_no_operator(tmp_path):
    network = SequenceNetwork(None, [nn.LSTM(12, 16, proj_size=4, batch_first=True)], None, "final")
    with pytest.raises(UsageError, match="no operator for an LSTM with projections"):
        export(network, onnx=tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_refused():
    check([Parity("onnx", 1, 1, 1e-6, 1.0)])
    with pytest.raises(TrcompressError, match=r"at 7 steps and 3 sequences it is off by 0\.5"):
        check([Parity("onnx", 1, 1, 1e-6, 1.0), Parity("onnx", 7, 3, 0.5, 1.0)])


def test_bench_times_both_in_onnxruntime(files):
    words = ("bench", files["ring"], "--baseline", files["dense"], "--batch", "1,4", "--seconds", 0.01, "--onnx")
    for timing in run(*words, "--format", "json").json["timings"]:
        assert timing["baseline_onnx_ms"] > 0
        assert timing["artifact_onnx_ms"] > 0
    assert "as ONNX files in onnxruntime" in run(*words).stdout
