"""The user's own network and batches through the compress verb; what its reports say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command import run
from safetensors.torch import save_file
from torch import nn

from trcompress import load_, read_artifact

OWN_CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv1d(40, 40, 1)
        self.rnn = nn.LSTM(40, 32, batch_first=True)
        self.fc = nn.Linear(32, 3)

    def forward(self, x):
        return self.fc(self.rnn(self.mix(x.transpose(1, 2)).transpose(1, 2))[1][0][-1])


def batches():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(16, 6, 40, generator=draw) for _ in range(8)]
"""


def test_the_users_own_network_on_batches_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_whole_net.py").write_text(OWN_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    from importlib import import_module

    own = import_module("own_whole_net")
    torch.manual_seed(0)
    save_file(own.Net().state_dict(), tmp_path / "own.safetensors")
    words = ("compress", tmp_path / "own.safetensors", "--target-size", "16KB", "-o", tmp_path / "small")
    found = run(*words, "--model", "own_whole_net:Net", "--calibrate", "own_whole_net:batches")
    assert found.code == 0, found.stderr
    assert (tmp_path / "small").stat().st_size <= 16_000
    model = load_(tmp_path / "small", own.Net())
    assert model(own.batches()[0]).shape == (16, 3)


UNFIT = """
import torch
from torch import nn
from own_whole_net import Net


class Two(Net):
    def forward(self, x, lengths):
        return super().forward(x)


def narrow():
    return [torch.randn(4, 6, 40), torch.randn(4, 6, 40)]


def breaks():
    yield torch.randn(4, 6, 40)
    raise KeyError("second batch")
"""


@pytest.mark.parametrize(
    ("network", "batches", "words"),
    [
        ("Two", "narrow", ("Two was called with (float32 (4, 6, 40))", "'lengths'", "loader", "unfit_code:Two")),
        ("Net", "breaks", ("your code failed", "KeyError", "unfit_code.py", "in breaks")),
    ],
)
@pytest.mark.parametrize("verb", ["compress", "plan", "decompose"])
def test_batches_that_the_users_network_does_not_take_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, network: str, batches: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "own_whole_net.py").write_text(OWN_CODE)
    (tmp_path / "unfit_code.py").write_text(UNFIT)
    monkeypatch.syspath_prepend(tmp_path)
    from importlib import import_module

    torch.manual_seed(0)
    save_file(import_module("own_whole_net").Net().state_dict(), tmp_path / "own.safetensors")
    goal = ("--target-size", "16KB") if verb == "compress" else ("--target-ratio", "2")
    code = ("--model", f"unfit_code:{network}", "--calibrate", f"unfit_code:{batches}")
    done = run(verb, tmp_path / "own.safetensors", *goal, *code)
    assert done.code == 3
    assert all(word in done.stderr for word in words), done.stderr


def test_numbers_to_be_met_are_not_taken_for_class_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 6, 40)).astype(np.float32), rng.normal(size=(80, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.GRU(40, 32, batch_first=True), "fc": nn.Linear(32, 3)})
    save_file(model.state_dict(), tmp_path / "dense.safetensors")
    words = (
        "compress",
        tmp_path / "dense.safetensors",
        "--target-ratio-model",
        4,
        "--calibrate",
        tmp_path / "data.npz",
    )
    measures = {}
    for told in (None, "scores", "states"):
        more = ("--outputs", told) if told else ()
        found = run(*words, *more, "-o", tmp_path / "small", "--overwrite", "--format", "json")
        measures[told] = found.json["measure"]
    assert measures[None] == "relative squared distance of the outputs"
    assert measures["scores"] == "divergence of the class scores"
    assert measures["states"] == "relative squared distance of the hidden states"


def test_errors_of_rings_and_bytes_before_are_the_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.LSTM(96, 96, batch_first=True), "fc": nn.Linear(96, 3)})
    save_file(model.state_dict(), tmp_path / "dense.safetensors")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(64, 5, 96)).astype(np.float32))
    words = (
        "compress",
        tmp_path / "dense.safetensors",
        "--calibrate",
        tmp_path / "data.npz",
        "--passes",
        "rings,rounding",
    )
    out = tmp_path / "ring.safetensors"
    assert run(*words, "--target-size", "60KB", "--storage", "float16,int8", "-o", out).code == 0
    (weight,) = run("report", out, "--format", "json").json["weights"]
    read, dense = read_artifact(out), model["rnn"].weight_ih_l0.detach().double()
    (plan,) = read.weight_plans().values()
    rebuilt = plan.to_dense([core.double() for core in read.cores(weight["name"])])
    assert weight["error"] == pytest.approx(float((dense - rebuilt).norm() / dense.norm()), rel=1e-6)
    tail = torch.linalg.svdvals(dense)[plan.structure.bottleneck :].norm() / dense.norm()
    assert weight["bound"] == pytest.approx(float(tail), rel=1e-4)
    small = tmp_path / "small.safetensors"
    assert run(*words, "--passes", "units,rounding", "--target-size", "9KB", "-o", small).code == 0
    known = run("report", small, "--format", "json").json
    assert known["source"] is None
    assert known["tensor_bytes_before"] == sum(one.nbytes for one in model.state_dict().values())
    assert "lineage: none in the file" in run("report", small).stdout
    assert "Eq. 7" not in run("report", small).stdout


def test_the_error_of_a_ring_that_is_rounded_or_trained_further_says_what_it_is_of(
    task: tuple[Path, Path], tmp_path: Path
) -> None:
    _, data = task
    dense, ring, again, tuned = (tmp_path / f"{name}.safetensors" for name in ("dense", "ring", "again", "tuned"))
    torch.manual_seed(0)
    save_file(nn.ModuleDict({"rnn": nn.LSTM(40, 96, batch_first=True), "fc": nn.Linear(96, 3)}).state_dict(), dense)
    assert run("decompose", dense, "--shape", "8x5:12x8", "--ranks", "6", "-o", ring).code == 0
    words = ("--target-ratio-model", "2.4", "--calibrate", data, "--storage", "float16", "--passes", "rounding")
    assert run("compress", ring, *words, "-o", again).code == 0
    assert run("finetune", ring, "--data", data, "--epochs", "1", "-o", tuned).code == 0
    found = run("report", ring, "--format", "json").json["weights"][0]
    assert found["error_of"] == "the file"
    for path in (again, tuned):
        (weight,) = run("report", path, "--baseline", dense, "--format", "json").json["weights"]
        assert weight["error_of"] == "the cores as found"
        assert weight["error"] == found["error"] != weight["error_now"]
        shown = run("report", path, "-v").stdout
        assert "error of the cores as found" in shown
        assert "as found" in run("report", path).stdout


@pytest.mark.parametrize("size", ["500KB", "500kB", "0.5MB", "500KiB", "512000", "1.5 MB"])
def test_sizes_are_read_as_people_write_them_and_the_bytes_printed_are_the_files(
    task: tuple[Path, Path], tmp_path: Path, size: str
) -> None:
    dense, data = task
    out = tmp_path / "small.safetensors"
    words = ("compress", dense, "--target-size", size, "--calibrate", data, "--passes", "fold", "-o", out)
    found = run(*words, "--format", "json").json
    assert found["file_bytes"] == found["ladder"][-1]["nbytes"] == out.stat().st_size
