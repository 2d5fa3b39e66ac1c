"""Ranks that no memory holds are refused before a value of the weight is read; others are never."""

import resource

import pytest
import torch
from command import run
from safetensors.torch import save_file
from torch import nn

import trcompress
from trcompress import Plan
from trcompress.decomposition import InMemoryMatrix, MatrixSource, decompose, least_memory
from trcompress.decomposition.least_memory import check_memory, least_bytes
from trcompress.errors import ShapeError
from trcompress.formats import TensorRing
from trcompress.util import memory
from trcompress.util.memory import available_bytes, peak_extra_bytes

HUGE = TensorRing((4, 2, 5, 8, 6, 5, 3, 2), (16, 4, 2, 4, 2), (1000,) * 14)


class Untouched(MatrixSource):
    """A matrix that may not be looked at."""

    def blocks(self, multiple=1):
        raise AssertionError("values were asked for")


@pytest.mark.parametrize("init", ["tr-als", "tr-svd", "random"])
def test_huge_ranks_are_refused_before_the_weight_is_touched(init):
    with pytest.raises(ShapeError, match=r"R0 \* Rn = 1,000,000.* are free; choose lower ones"):
        decompose(Untouched((57600, 1024), torch.float32, torch.device("cpu")), HUGE, init=init)


def test_the_command_refuses_huge_ranks_and_names_the_weight(tmp_path):
    save_file(nn.LSTM(2048, 64).state_dict(), tmp_path / "net.safetensors")
    words = ("decompose", tmp_path / "net.safetensors", "--shape", "4x4x4x4x8:4x4x4", "--ranks", 240)
    assert "240,240" in run(*words, "--dry-run").stderr
    done = run(*words, "-o", tmp_path / "out.safetensors")
    assert done.code == 2
    assert "weight_ih_l0: the ranks must leave the fit room in memory" in done.stderr
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.skipif(available_bytes() is None, reason="the system does not tell its memory")
@pytest.mark.parametrize("ranks", [(1, 40, 30, 40, 1), (24, 24, 24, 24, 24)])
def test_no_fit_takes_less_than_is_asked_for(ranks):
    ring = TensorRing((64, 32), (32, 16), ranks)
    torch.manual_seed(0)
    source = InMemoryMatrix(torch.randn(512, 2048))
    taken = peak_extra_bytes(lambda: decompose(source, ring, starts=1, sweeps=1), torch.device("cpu"))
    if taken is None:
        pytest.skip("the system does not tell peaks")
    assert least_bytes(ring, "tr-als") <= taken


def test_a_limit_on_the_process_counts_as_memory(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (memory.status_bytes("VmSize") + 10**6, -1))
    assert available_bytes() <= 10**6
    ring = TensorRing((64, 32), (32, 16), (24, 24, 24, 24, 24))
    with pytest.raises(ShapeError, match=r"w: the ranks .* take 19\.8 MB at least"):
        check_memory("w", ring, "tr-als")


def test_where_the_system_does_not_tell_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(least_memory, "available_bytes", lambda: None)
    check_memory("w", HUGE, "tr-als")


def test_exact_ranks_are_refused_where_others_are_lowered(tmp_path):
    save_file(nn.LSTM(12, 8).state_dict(), tmp_path / "net.safetensors")
    words = ("decompose", tmp_path / "net.safetensors", "--shape", "4x3:8", "--ranks", "1,90,2,1")
    done = run(*words, "--exact-ranks", "-o", tmp_path / "out.safetensors")
    assert done.code == 2
    assert "1,90,2,1 are above 1,4,2,1; give these, or leave out --exact-ranks" in done.stderr
    done = run(*words, "-o", tmp_path / "out.safetensors")
    assert done.code == 0
    assert "1,90,2,1" in done.stderr
    with pytest.raises(ShapeError, match="or leave out `exact`"):
        trcompress.decompose(
            tmp_path / "net.safetensors", Plan.of("4x3:8", "1,90,2,1", exact=True), tmp_path / "other.safetensors"
        )


@pytest.mark.parametrize("ranks", [10**6, (5, 10**9)])
@pytest.mark.parametrize("kind", ["TRLSTM", "TRGRU", "TRRNN", "TRLSTMCell", "TRGRUCell", "TRRNNCell"])
def test_cores_that_no_machine_holds_are_refused_by_the_layer(kind, ranks):
    with pytest.raises(ShapeError, match=r"the ranks must leave the cores room in memory: .* choose lower ones"):
        getattr(trcompress, kind)(60, 32, shape="5x12:8x4", ranks=ranks)
