"""`trcompress bench`: times and sizes of both models, and baselines that do not fit."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from command import process, run
from torch import nn

from trcompress.artifact.write import write_artifact
from trcompress.checkpoint import read_checkpoint
from trcompress.errors import InputFileError, UsageError
from trcompress.layers import TRLSTM
from trcompress.model.plan import Plan
from trcompress.passes.assemble import decompose_checkpoint
from trcompress.timing.bench import bench
from trcompress.util.memory import peak_extra_bytes
from trcompress.util.timing import side_by_side


class Net(nn.Module):
    def __init__(self, inputs=4096, hidden=64, kind=nn.LSTM, **options):
        super().__init__()
        self.rnn = kind(inputs, hidden, **options)
        self.second = nn.GRU(6, 4)
        self.fc = nn.Linear(hidden, 5)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bench")
    torch.save({"model": Net().state_dict(), "optimizer": {"seen": torch.zeros(999)}}, folder / "dense.pt")
    plan = Plan.of("64x64:16x4", "2", layer="rnn.*")
    artifact = decompose_checkpoint(read_checkpoint(folder / "dense.pt"), plan, init="random")
    write_artifact(folder / "small.safetensors", artifact)
    return folder / "small.safetensors", folder / "dense.pt"


def test_both_models_are_measured(files):
    threads = torch.get_num_threads()
    found = bench(*files, batches=(1, 8), steps=3, train=True, threads=1, seconds=0.1)
    assert [(one.stack, one.what, one.batch) for one in found.timings] == [
        ("rnn", "eval", 1),
        ("rnn", "eval", 8),
        ("rnn", "train", 1),
        ("rnn", "train", 8),
    ]
    assert all(one.speedup == one.baseline_ms / one.artifact_ms > 0 for one in found.timings)
    assert all(set(one.chosen) == {"weight_ih_l0"} for one in found.timings)
    assert (found.threads, torch.get_num_threads()) == (1, threads)
    recurrent = 4 * (64 * 256 + 2 * 256)
    (memory,) = found.memory
    assert memory.baseline_bytes == 4 * 4096 * 256 + recurrent
    assert memory.artifact_bytes == 4 * 2 * 2 * (64 + 64 + 64 + 4) + recurrent
    assert memory.kept_bytes > 0
    assert found.file_bytes == {"baseline": files[1].stat().st_size, "artifact": files[0].stat().st_size}
    assert found.tensor_bytes["baseline"] == sum(4 * value.numel() for value in Net().state_dict().values())
    assert any("second" in note and "not compressed" in note for note in found.notes)


def test_a_dense_training_step_takes_more_memory(files):
    found = bench(*files, batches=(4,), steps=2, train=True, seconds=0.01).timings[1]
    if found.baseline_peak_bytes is None:
        pytest.skip("this system does not tell peak memory")
    assert found.baseline_peak_bytes > 4 * 4096 * 256  # the gradient of the weight
    assert found.artifact_peak_bytes < found.baseline_peak_bytes / 2


def test_peak_memory_is_of_the_call_alone():
    held = torch.ones(20_000_000)
    small, large = (peak_extra_bytes(lambda size=size: torch.ones(size), held.device) for size in (10**6, 10**7))
    if small is None:
        pytest.skip("this system does not tell peak memory")
    assert 3.9e6 < small < 6e6
    assert 3.9e7 < large < 4.2e7


def test_rounds_are_interleaved():
    seen = []
    calls = {name: lambda name=name: seen.append(name) or sum(range(100_000)) for name in "ab"}
    assert set(side_by_side(calls, torch.device("cpu"), seconds=0.0, rounds=(3, 3))) == {"a", "b"}
    changes = sum(one != other for one, other in pairwise(seen))
    assert changes >= 2 * 3


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: Net(hidden=32), "hidden_size of layer 0 is 32, the artifact has 64"),
        (lambda: Net(inputs=4095), "input_size of layer 0 is 4095, the artifact has 4096"),
        (lambda: Net(num_layers=2), "rnn: layer 1 is not in the artifact"),
        (lambda: Net(bidirectional=True), r"layer 0 \(reverse\) is not in the artifact"),
        (lambda: nn.ModuleDict({"rmn": nn.LSTM(4096, 64)}), "it has no stack rnn .did you mean 'rmn'"),
    ],
)
def test_a_baseline_that_does_not_fit_is_named(files, tmp_path, net, message):
    torch.save(net().state_dict(), tmp_path / "other.pt")
    with pytest.raises(InputFileError, match=f"(?s)other.pt is not the dense model of .*{message}"):
        bench(files[0], tmp_path / "other.pt")


def test_files_of_the_wrong_kind(files):
    with pytest.raises(InputFileError, match=r"baseline must be the dense checkpoint.*dense\.pt"):
        bench(files[0], files[0])
    with pytest.raises(InputFileError):
        bench(files[1], files[1])
    with pytest.raises(UsageError, match="positive: got batches=0, steps=-1"):
        bench(*files, batches=(4, 0), steps=-1)


def test_another_checkpoint_of_the_same_layers_is_remarked(files, tmp_path):
    torch.manual_seed(1)
    torch.save(Net().state_dict(), tmp_path / "twin.pt")
    found = bench(files[0], tmp_path / "twin.pt", batches=(1,), steps=1, seconds=0.01)
    assert any("not the file that was compressed (dense.pt)" in note for note in found.notes)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_stacks_of_every_kind(kind, tmp_path):
    torch.save(kind(24, 8, 2, bidirectional=True).state_dict(), tmp_path / "dense.pt")
    checkpoint = read_checkpoint(tmp_path / "dense.pt", kind=kind.__name__.lower())
    write_artifact(tmp_path / "a", decompose_checkpoint(checkpoint, Plan.of("6x4:4x2", "2"), init="random"))
    words = ["bench", tmp_path / "a", "--baseline", tmp_path / "dense.pt", "--kind", kind.__name__.lower()]
    done = run(*words, "--batch", "2", "--steps", "2", "--seconds", "0.01", "--train")
    assert done.code == 0, done.stderr
    assert "train" in done.stdout.split()


def test_the_verb(files):
    words = ["bench", str(files[0]), "--baseline", str(files[1]), "--batch", "1,4", "--steps", "2"]
    found = run(*words, "--seconds", "0.01", "--train", "--format", "json").json
    assert [one["batch"] for one in found["timings"]] == [1, 4, 1, 4]
    assert found["timings"][0]["speedup"] > 0
    assert found["machine"]["torch"] == torch.__version__
    shown = run(*words, "--seconds", "0.01", "--threads", "1")
    assert " train " not in shown.stdout
    for text in ("rounds in ms", "bytes on disk", "merged"):
        assert text in shown.stdout
    refused = run(*words, "--batch", "1;4")
    assert (refused.code, "--batch takes numbers" in refused.stderr) == (2, True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda(files):
    found = bench(*files, batches=(4,), steps=2, train=True, device="cuda", seconds=0.05)
    assert all(one.baseline_peak_bytes > 0 for one in found.timings)


def test_ring_layers_hold_what_they_say():
    layer = TRLSTM(4096, 64, shape="64x64:16x4", ranks=2).eval()
    with torch.no_grad():
        layer(torch.randn(2, 1, 4096))
    assert layer.weight_ih_l0.kept_bytes > 0
    layer.strategy = "ring"
    with torch.no_grad():
        layer(torch.randn(2, 1, 4096))
    assert layer.weight_ih_l0.kept_bytes == 0


def test_a_projection_is_timed_without_a_remark_on_kernels(tmp_path):
    torch.save(nn.LSTM(16, 12, proj_size=5).state_dict(), tmp_path / "m.pt")
    artifact = decompose_checkpoint(read_checkpoint(tmp_path / "m.pt"), Plan.of("4x4:8x6", "2"), init="random")
    write_artifact(tmp_path / "a.safetensors", artifact)
    words = ("--baseline", tmp_path / "m.pt", "--batch", 1, "--steps", 2, "--seconds", 0.01)
    done = process("bench", tmp_path / "a.safetensors", *words)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
