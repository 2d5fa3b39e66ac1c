"""expand: an artifact back into the checkpoint it came from, for a model that knows nothing of trcompress."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from command import run
from safetensors.torch import load_file
from torch import nn

import trcompress
from trcompress import Plan
from trcompress.errors import OutputFileError
from trcompress.model.header import PassRecord

MODEL = """
import sys, torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 12)
        self.rnn = nn.LSTM(12, 8, 2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 30)
        self.head.weight = self.embedding.weight
        self.norm = nn.BatchNorm1d(16)
"""
exec(MODEL)


def test_the_keys_nesting_dtypes_and_values_are_the_checkpoints(tmp_path):
    torch.manual_seed(0)
    model = Net().bfloat16()  # noqa: F821
    wrapped = {f"module._orig_mod.{key}": value for key, value in model.state_dict().items()}
    torch.save({"epoch": 3, "checkpoint": {"model_state": wrapped, "optimizer": {}}}, tmp_path / "m.pt")
    ring, out = tmp_path / "m.tr.safetensors", tmp_path / "dense.pt"
    line = ("--shape", "12:8", "--ranks", "full", "--dtype", "float32", "-o", ring)
    assert run("decompose", tmp_path / "m.pt", *line).code == 0
    done = run("expand", ring, "-o", out)
    assert done.code == 0, done.stderr
    assert "under checkpoint.model_state" in done.stdout
    again = torch.load(out, weights_only=True)
    assert list(again) == ["checkpoint"]
    found = again["checkpoint"]["model_state"]
    assert found.keys() == wrapped.keys()
    for key, value in wrapped.items():
        assert found[key].dtype == value.dtype
        torch.testing.assert_close(found[key], value, atol=2e-2 if "weight_ih_l0" in key else 0, rtol=0)
    tied = [found[f"module._orig_mod.{key}.weight"].data_ptr() for key in ("embedding", "head")]
    assert tied[0] == tied[1]


def test_it_loads_into_the_unmodified_model_where_trcompress_is_not_installed(tmp_path):
    torch.manual_seed(0)
    model = Net()  # noqa: F821
    trcompress.compress_(model, Plan.of("4x3:4x2", 3)).save(tmp_path / "m.tr.safetensors")
    trcompress.expand(tmp_path / "m.tr.safetensors", tmp_path / "dense.pt")
    code = (
        MODEL
        + """
sys.modules["trcompress"] = None
net = Net()
print(net.load_state_dict(torch.load(sys.argv[1], weights_only=True)))
torch.manual_seed(1)
print(float(net.eval().rnn(torch.randn(2, 5, 12))[0].sum()))
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "dense.pt")], capture_output=True, text=True, check=True
    )
    matched, total = done.stdout.splitlines()
    assert matched == "<All keys matched successfully>"
    torch.manual_seed(1)
    assert float(total) == pytest.approx(float(model.eval().rnn(torch.randn(2, 5, 12))[0].sum()), abs=1e-4)


def test_corrected_biases_come_along(tmp_path):
    torch.manual_seed(0)
    rnn = nn.LSTM(12, 8, batch_first=True)
    torch.save({f"rnn.{key}": value for key, value in rnn.state_dict().items()}, tmp_path / "m.pt")
    np.savez(tmp_path / "x.npz", x=(torch.randn(200, 6, 12) + 2).numpy())
    ring = tmp_path / "m.tr.safetensors"
    trcompress.decompose(tmp_path / "m.pt", Plan.of("12:32", "1,2"), ring, calibrate=tmp_path / "x.npz")
    held = trcompress.read_artifact(ring).tensors
    found = trcompress.expand(ring, tmp_path / "dense.pt").tensors
    changed = [key for key, value in rnn.state_dict().items() if not torch.equal(found[f"rnn.{key}"], value)]
    assert "bias_ih_l0" in changed
    assert torch.equal(found["rnn.bias_ih_l0"], held["rnn.bias_ih_l0"])


def test_safetensors_outputs_and_refusals(tmp_path):
    model = nn.Sequential(nn.LSTM(12, 8))
    path = trcompress.compress_(model, Plan.of("4x3:4x2", 2)).save(tmp_path / "m.tr.safetensors")
    made = trcompress.expand(path, tmp_path / "dense.safetensors")
    assert load_file(made.path).keys() == nn.Sequential(nn.LSTM(12, 8)).state_dict().keys()
    with pytest.raises(OutputFileError, match="exists"):
        trcompress.expand(path, tmp_path / "dense.safetensors")


def test_fewer_units_say_which_arguments_change(tmp_path):
    model = nn.ModuleDict({"rnn": nn.GRU(12, 8, 2), "fc": nn.Linear(8, 3)})
    records = (PassRecord(kind="units", name="rnn", before="16 units", after="8 units"),)
    original = {"rnn.weight_hh_l0": (48, 16), "rnn.weight_ih_l1": (48, 16), "fc.weight": (3, 16)}
    path = trcompress.save(model, tmp_path / "m.safetensors", passes=records, original=original)
    assert trcompress.expand(path, tmp_path / "dense.pt").notes == (
        "construct rnn with hidden_size=8 instead of 16",
        "construct fc with in_features=8 instead of 16",
    )


class Words(nn.Module):
    """Fewer words than values each: the embedding can be folded."""

    def __init__(self, tied):
        super().__init__()
        self.encoder, self.rnn = nn.Embedding(12, 24), nn.LSTM(24, 24, 2, batch_first=True)
        self.decoder = nn.Linear(24, 12)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, tokens):
        return self.decoder(self.rnn(self.encoder(tokens))[0])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("live", [False, True])
def test_a_folded_embedding_loads_into_the_unmodified_model(tmp_path, tied, live):
    torch.manual_seed(0)
    model = Words(tied)
    tokens = torch.randint(0, 12, (64, 7))
    dense, small, out = tmp_path / "lit.ckpt", tmp_path / "small.safetensors", tmp_path / "expanded.pt"
    state = {f"net.{key}": value for key, value in model.state_dict().items()}
    torch.save({"epoch": 1, "pytorch-lightning_version": "2.4.0", "state_dict": state}, dense)
    np.savez(tmp_path / "tokens.npz", x=tokens.numpy())
    wanted = model(tokens).detach()
    if live:
        trcompress.compress_(model, target_size="31KB", calibrate=list(tokens.split(16))).save(small)
    else:
        line = (
            "--calibrate",
            tmp_path / "tokens.npz",
            "--target-size",
            "31KB",
            "--storage",
            "float16",
            "-o",
            small,
        )
        assert run("compress", dense, *line).code == 0
    kinds = {one.kind for one in trcompress.read_artifact(small).header.passes}
    assert ("fold" in kinds) is not tied
    assert run("expand", small, "-o", out).code == 0
    found = torch.load(out, weights_only=True)
    if not live:
        found = {key.removeprefix("net."): value for key, value in found["state_dict"].items()}
    again = Words(tied)
    again.load_state_dict(found)
    assert float((again(tokens) - wanted).norm() / wanted.norm()) < 1e-2
