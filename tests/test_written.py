"""What is written is read back before it takes its name; errors are the file's; ties are stored once."""

import json

import numpy
import pytest
import torch
from command import run
from safetensors.torch import load_file, save_file
from torch import nn

import trcompress
from trcompress import Plan
from trcompress.artifact import write
from trcompress.artifact.file import Artifact, read_artifact
from trcompress.artifact.tensor_file import save_tensors
from trcompress.checkpoint.safetensors_file import DTYPES
from trcompress.errors import InputFileError, OutputFileError, UsageError

HEAD = {"fc.weight": torch.zeros(4, 8), "fc.bias": torch.zeros(4)}


def file_of(path, module, prefix="rnn.", **more):
    torch.save({prefix + key: value for key, value in module.state_dict().items()} | more, path)
    return path


@pytest.mark.parametrize("names", [("b", "a"), ('é\n\x1b"', "\U0001f600")])
def test_files_are_those_that_safetensors_writes(names, tmp_path):
    shared = torch.arange(12.0).reshape(3, 4)
    dtypes = [dtype for dtype in DTYPES.values() if not dtype.is_complex]
    tensors = {f"{dtype}{name}": torch.ones(3, 2).to(dtype) for dtype in dtypes for name in names}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "view": shared.T, "shared": shared[1:]}
    save_tensors(tensors, tmp_path / "ours", {"format": "pt"})
    save_file(
        {key: one.clone().contiguous() for key, one in tensors.items()}, tmp_path / "theirs", {"format": "pt"}
    )
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]


def test_what_safetensors_cannot_hold_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"safetensors holds no torch.complex128: big is one"):
        save_tensors({"big": torch.zeros(2, dtype=torch.complex128)}, tmp_path / "out", {})


def error_in(path, dense, name="rnn.weight_ih_l0"):
    artifact = read_artifact(path)
    rebuilt = artifact.weight_plans()[name].to_dense([core.double() for core in artifact.cores(name)])
    return float((dense.double() - rebuilt).norm() / dense.double().norm())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("init", ["tr-als", "tr-svd"])
def test_the_error_printed_is_that_of_the_file_as_written(dtype, init, tmp_path):
    torch.manual_seed(0)
    rank1 = torch.outer(torch.randn(32), torch.randn(12))
    source = file_of(tmp_path / "m.pt", nn.LSTM(12, 8), **{"rnn.weight_ih_l0": rank1})
    out = tmp_path / "m.tr.safetensors"
    line = ("--shape", "4x3:4x2", "--ranks", "2", "--dtype", dtype, "--init", init, "-o", out)
    told = run("decompose", source, *line, "--format", "json").json["weights"][0]
    assert told["error"] == pytest.approx(error_in(out, rank1), rel=1e-9)
    assert told["error"] >= told["bound"] - 1e-6


@pytest.mark.parametrize("scale", [1e38, 1e30, 1e-38])
@pytest.mark.parametrize("init", ["tr-als", "tr-svd"])
def test_huge_and_tiny_values_give_finite_cores_or_one_line(scale, init, tmp_path):
    torch.manual_seed(0)
    weight = torch.randn(32, 12) * scale
    source = file_of(tmp_path / "m.pt", nn.LSTM(12, 8), **{"rnn.weight_ih_l0": weight})
    out = tmp_path / "m.tr.safetensors"
    done = run("decompose", source, "--shape", "4x3:4x2", "--ranks", "3", "--init", init, "-o", out)
    if done.code == 0:
        assert all(torch.isfinite(tensor).all() for tensor in load_file(out).values())
    else:
        assert done.code == 3
        assert "not finite" in done.stderr or "finite" in done.stderr
        assert not out.exists()


def test_half_precision_that_overflows_is_refused(tmp_path):
    torch.manual_seed(0)
    weight = torch.randn(32, 12) * 1e18
    source = file_of(tmp_path / "m.pt", nn.LSTM(12, 8), **{"rnn.weight_ih_l0": weight})
    out = tmp_path / "m.tr.safetensors"
    done = run("decompose", source, "--shape", "12:32", "--ranks", "1,8", "--dtype", "float16", "-o", out)
    assert (done.code, out.exists()) == (3, False)
    assert "not finite in float16" in done.stderr


def test_nothing_not_finite_is_written_unless_it_is_named(tmp_path):
    model = nn.Sequential(nn.LSTM(12, 8))
    model.register_buffer("mask", torch.full((3,), float("-inf")))
    result = trcompress.compress_(model, Plan.of("4x3:4x2", 2))
    with pytest.raises(InputFileError, match=r"must be finite: mask hold NaN or Inf.*allow_nonfinite"):
        result.save(tmp_path / "a.safetensors")
    path = trcompress.save(model, tmp_path / "a.safetensors", allow_nonfinite=["mask"])
    assert torch.equal(load_file(path)["mask"], model.mask)
    with torch.no_grad():
        model[0].weight_ih_l0.core[0][0, 0, 0] = float("nan")
    with pytest.raises(InputFileError, match=r"must be finite: 0.weight_ih_l0.core.0"):
        trcompress.save(model, tmp_path / "b.safetensors", allow_nonfinite=["mask"])
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("fault", ["bits", "key", "header"])
def test_a_file_that_reads_back_differently_is_not_kept(fault, tmp_path, monkeypatch):
    """The disk, or the writer, lies: a bit, a tensor or the description is not what was meant."""
    model = nn.Sequential(nn.LSTM(12, 8))
    result = trcompress.compress_(model, Plan.of("4x3:4x2", 2))
    honest = write.read_artifact

    def lying(path):
        read = honest(path)
        if fault == "bits":
            read.tensors["0.bias_ih_l0"] = read.tensors["0.bias_ih_l0"].clone()
            read.tensors["0.bias_ih_l0"].view(torch.uint8)[0] ^= 1
        elif fault == "key":
            del read.tensors["0.bias_hh_l0"]
        else:
            return Artifact(read.tensors, read.header.model_copy(update={"weights": ()}), path)
        return read

    monkeypatch.setattr(write, "read_artifact", lying)
    with pytest.raises(OutputFileError, match=r"so it is not kept"):
        result.save(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def tied_directions():
    rnn = nn.LSTM(12, 8, bidirectional=True)
    rnn.weight_ih_l0_reverse, rnn.bias_ih_l0_reverse = rnn.weight_ih_l0, rnn.bias_ih_l0
    return nn.ModuleDict({"rnn": rnn})


def siamese():
    rnn = nn.LSTM(12, 8)
    return nn.ModuleDict({"left": rnn, "right": rnn, "head": nn.Linear(8, 2)})


def tied_embedding():
    model = nn.ModuleDict({"emb": nn.Embedding(30, 8), "rnn": nn.LSTM(12, 8), "out": nn.Linear(8, 30)})
    model["out"].weight = model["emb"].weight
    return model


@pytest.mark.parametrize("build", [tied_directions, siamese, tied_embedding])
def test_a_shared_weight_of_a_file_is_compressed_counted_and_stored_once(build, tmp_path):
    torch.manual_seed(0)
    model = build()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    out = tmp_path / "m.tr.safetensors"
    done = run("decompose", tmp_path / "m.pt", "--shape", "4x3:4x2", "--ranks", "2", "-o", out, "--format", "json")
    assert done.code == 0, done.stderr
    stored = load_file(out)
    distinct = {id(one): one.numel() for one in model.parameters()}
    ring = 2 * 2 * (4 + 3 + 16 + 2)
    assert sum(one.numel() for one in stored.values()) == sum(distinct.values()) - 12 * 32 + ring
    report = run("report", out, "--baseline", tmp_path / "m.pt", "--format", "json").json
    assert report["parameters_before"] == sum(distinct.values())
    assert report["parameters_after"] == sum(distinct.values()) - 12 * 32 + ring
    assert len(report["weights"]) == 1
    assert report["weights"][0]["error_now"] == pytest.approx(report["weights"][0]["error"], rel=1e-4)
    again = trcompress.load_(out, build())
    assert len({id(one) for one in again.parameters()}) == sum(1 for _ in again.parameters())
    assert sum(one.numel() for one in again.parameters()) == sum(distinct.values()) - 12 * 32 + ring
    loaded = nn.ModuleDict({name or "root": module for name, module in trcompress.load(out).items()})
    for key in stored:
        if ".core." in key:
            assert torch.equal(loaded.state_dict()[key], stored[key])
    assert json.dumps(report).count("NaN") == 0


def test_shared_weights_are_trained_as_one(tmp_path):
    """Fine-tuning a network with tied directions keeps them tied, and what is measured is what is written."""
    torch.manual_seed(0)
    rnn = nn.LSTM(12, 8, bidirectional=True)
    rnn.weight_ih_l0_reverse = rnn.weight_ih_l0
    model = nn.ModuleDict({"rnn": rnn, "fc": nn.Linear(16, 3)})
    torch.save(model.state_dict(), tmp_path / "m.pt")
    x, y = torch.randn(60, 5, 12).numpy(), torch.arange(60).remainder(3).numpy()
    numpy.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    trcompress.decompose(tmp_path / "m.pt", Plan.of("4x3:4x2", 2), tmp_path / "m.tr.safetensors")
    result = trcompress.finetune(tmp_path / "m.tr.safetensors", tmp_path / "d.npz", epochs=2, lr=0.02)
    before, after = read_artifact(tmp_path / "m.tr.safetensors"), read_artifact(result.out)
    for k in range(4):
        first = after.tensors[f"rnn.weight_ih_l0.core.{k}"]
        assert torch.equal(first, after.tensors[f"rnn.weight_ih_l0_reverse.core.{k}"])
        assert not torch.equal(first, before.tensors[f"rnn.weight_ih_l0.core.{k}"])
    accuracy = trcompress.evaluate(result.out, tmp_path / "d.npz").accuracy
    assert accuracy == result.metrics["accuracy_after"]
