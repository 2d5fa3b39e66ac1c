"""Every kind of dense checkpoint is read: its tensors exactly, its recurrent layers completely."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from checkpoint_cases import (
    STATE,
    WRITERS,
    Net,
    assert_same,
    save_npz_compressed,
    save_zip,
)
from safetensors.torch import save_file
from torch import nn

from trcompress.checkpoint import check_finite, is_artifact, read_checkpoint, refuse_artifact
from trcompress.errors import InputFileError, UsageError

# Formats.


@pytest.mark.parametrize("writer", WRITERS)
def test_every_format_gives_the_tensors_bit_for_bit(writer, tmp_path):
    state = Net().state_dict()
    path = tmp_path / "model.bin"  # the suffix says nothing
    WRITERS[writer](state, path)
    before = path.read_bytes()

    checkpoint = read_checkpoint(path)

    assert checkpoint.format == writer.removesuffix("-compressed")
    assert_same(checkpoint, state)
    assert sorted((one.stack, one.kind, one.index, one.reverse, one.cell) for one in checkpoint.layers) == [
        ("decoder", "gru", 0, False, True),
        ("encoder.rnn", "lstm", 0, False, False),
        ("encoder.rnn", "lstm", 0, True, False),
        ("encoder.rnn", "lstm", 1, False, False),
        ("encoder.rnn", "lstm", 1, True, False),
    ]
    assert checkpoint.sha256 == hashlib.sha256(before).hexdigest()
    assert path.read_bytes() == before


@pytest.mark.parametrize("writer", ["torch-zip", "safetensors", "npz", "torch-legacy"])
def test_file_regions_are_given_for_all_uncompressed_formats(writer, tmp_path):
    state = Net().state_dict()
    WRITERS[writer](state, tmp_path / "model")
    checkpoint = read_checkpoint(tmp_path / "model")
    assert all(checkpoint.file_region(key) is not None for key in checkpoint.shapes)


def test_no_file_region_where_the_values_do_not_lie_in_one_piece(tmp_path):
    wide = torch.randn(5, 16)
    state = nn.LSTM(5, 4).state_dict() | {"weight_ih_l0": wide.t()}
    torch.save(state, tmp_path / "strided.pt")
    save_npz_compressed(nn.LSTM(5, 4).state_dict(), tmp_path / "packed.npz")
    with (tmp_path / "fortran.npz").open("wb") as stream:
        arrays = {key: tensor.numpy() for key, tensor in nn.LSTM(5, 4).state_dict().items()}
        fortran = np.asfortranarray(arrays["weight_ih_l0"])
        np.savez(stream, **arrays | {"weight_ih_l0": fortran})

    strided = read_checkpoint(tmp_path / "strided.pt")
    assert strided.file_region("weight_ih_l0") is None
    assert torch.equal(strided.tensor("weight_ih_l0"), wide.t())
    assert read_checkpoint(tmp_path / "packed.npz").file_region("weight_ih_l0") is None
    turned = read_checkpoint(tmp_path / "fortran.npz")
    assert turned.file_region("weight_ih_l0") is None
    assert turned.tensor("weight_ih_l0").numpy().tobytes() == np.ascontiguousarray(fortran).tobytes()


@pytest.mark.parametrize("writer", ["torch-zip", "torch-legacy", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_dtype_is_kept(writer, dtype, tmp_path):
    state = nn.GRU(6, 4).to(dtype).state_dict()
    WRITERS[writer](state, tmp_path / "model")
    assert_same(read_checkpoint(tmp_path / "model"), state)


def test_large_tensors_are_mapped_small_ones_read(tmp_path):
    state = nn.LSTM(1 << 14, 8).state_dict()
    for name, writer in WRITERS.items():
        writer(state, tmp_path / name)
        assert_same(read_checkpoint(tmp_path / name), state)


def test_writing_into_a_tensor_leaves_the_file_alone(tmp_path):
    save_zip(nn.LSTM(1 << 14, 8).state_dict(), tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    read_checkpoint(tmp_path / "model.pt").tensor("weight_ih_l0").zero_()
    assert (tmp_path / "model.pt").read_bytes() == before


# Whole modules and TorchScript.


# Storages.


# Real weights.


# Small helpers.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_check_finite_names_the_weight_and_counts(dtype):
    weight = torch.zeros(3000, 1000, dtype=dtype)
    check_finite(weight, "rnn.weight_ih_l0")
    weight[0, 1], weight[1500, 2], weight[-1, -1] = float("nan"), float("inf"), float("-inf")
    with pytest.raises(InputFileError, match=r"'rnn.weight_ih_l0' holds 3 NaN or Inf values of 3,000,000"):
        check_finite(weight, "rnn.weight_ih_l0")


def test_our_own_artifact_is_refused_where_a_dense_checkpoint_is_wanted(tmp_path):
    save_file(dict(STATE), tmp_path / "done.safetensors", metadata={"format": "pt", "trcompress": "{}"})
    save_file(dict(STATE), tmp_path / "dense.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputFileError, match=r"already compressed .* trcompress report"):
        read_checkpoint(tmp_path / "done.safetensors")
    with pytest.raises(InputFileError, match="already compressed"):
        refuse_artifact("x", {"trcompress": "{}"})
    assert is_artifact(tmp_path / "done.safetensors")
    assert not is_artifact(tmp_path / "dense.safetensors")
    assert not is_artifact(tmp_path / "none.safetensors")
    assert not is_artifact(tmp_path)
    assert read_checkpoint(tmp_path / "dense.safetensors").metadata == {"format": "pt"}


def test_an_unknown_key_is_named(tmp_path):
    torch.save(STATE, tmp_path / "model.pt")
    with pytest.raises(InputFileError, match=r"no tensor 'rnn.weight_ih_l1' \(did you mean 'rnn.weight_ih_l0'"):
        read_checkpoint(tmp_path / "model.pt").tensor("rnn.weight_ih_l1")


def test_kind_is_checked_before_the_file_is_opened():
    with pytest.raises(UsageError, match=r"`kind` must be one of gru, lstm, rnn.*'lstn' \(did you mean 'lstm'"):
        read_checkpoint("nowhere.pt", kind="lstn")


# Memory.

MEASURE = """
import sys
import torch
from trcompress.checkpoint import check_finite, inspect, read_checkpoint
from trcompress.util.memory import status_bytes
peak = lambda: status_bytes("VmHWM")  # ru_maxrss would begin with what the parent had
peaks = [peak()]
checkpoint = read_checkpoint(sys.argv[1])
inspect(checkpoint)
peaks.append(peak())
checkpoint.sha256
for key, tensor in checkpoint.tensors():
    check_finite(tensor, key)
    del tensor
peaks.append(peak())
print(*peaks)
"""


@pytest.mark.parametrize("writer", ["torch-zip", "torch-legacy", "npz"])
def test_a_large_checkpoint_is_opened_in_no_memory_and_read_in_its_own_size(writer, tmp_path):
    path = tmp_path / "model"
    WRITERS[writer](nn.LSTM(16384, 256).state_dict(), path)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path],
        capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    start, opened, read = map(int, done.stdout.split())
    size = path.stat().st_size
    assert size > 60e6
    assert opened - start < 15e6
    assert read - start < 1.3 * size
