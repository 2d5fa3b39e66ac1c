"""Small checkpoints, every way to write one, and what reading must give."""

from __future__ import annotations

from collections import OrderedDict
from math import prod

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from trcompress.checkpoint import Checkpoint

MODEL = nn.ModuleDict({"rnn": nn.LSTM(6, 4), "head": nn.Linear(4, 2)})

STATE = MODEL.state_dict()


def save_zip(state, path):
    torch.save(state, path)


def save_legacy(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_safetensors(state, path):
    save_file({key: tensor.clone() for key, tensor in state.items()}, path)


def save_npz(state, path):
    with path.open("wb") as stream:
        np.savez(stream, **{key: tensor.numpy() for key, tensor in state.items()})


def save_npz_compressed(state, path):
    with path.open("wb") as stream:
        np.savez_compressed(stream, **{key: tensor.numpy() for key, tensor in state.items()})


WRITERS = {
    "torch-zip": save_zip,
    "torch-legacy": save_legacy,
    "safetensors": save_safetensors,
    "npz": save_npz,
    "npz-compressed": save_npz_compressed,
}


def assert_same(checkpoint: Checkpoint, state: dict[str, torch.Tensor]) -> None:
    assert set(checkpoint.shapes) == set(state)
    for key, tensor in checkpoint.tensors():
        assert tensor.dtype == state[key].dtype
        assert tuple(tensor.shape) == checkpoint.shapes[key] == tuple(state[key].shape)
        assert checkpoint.dtypes[key] == str(tensor.dtype).removeprefix("torch.")
        assert torch.equal(tensor, state[key].detach())
        assert_region(checkpoint, key, tensor)


def assert_region(checkpoint: Checkpoint, key: str, tensor: torch.Tensor) -> None:
    """Where a region is given, plain reading of the file at that place gives the tensor."""
    region = checkpoint.file_region(key)
    if region is None:
        return
    path, offset, shape, dtype = region
    with path.open("rb") as stream:
        stream.seek(offset)
        raw = bytearray(stream.read(prod(shape) * dtype.itemsize))
    found = torch.frombuffer(raw, dtype=dtype).reshape(shape) if raw else torch.empty(shape, dtype=dtype)
    assert torch.equal(found, tensor)


def renamed(state, change):
    return OrderedDict((change(key), tensor) for key, tensor in state.items())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.encoder = nn.ModuleDict({"rnn": nn.LSTM(6, 4, 2, bidirectional=True)})
        self.decoder = nn.GRUCell(8, 5)
        self.head = nn.Linear(5, 3)
        self.register_buffer("steps", torch.tensor(7))
