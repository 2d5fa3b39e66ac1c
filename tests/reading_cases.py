"""A small network's tensors, and whether a checkpoint gives them back."""

import torch
from torch import nn

STATE = {
    key: value.detach().clone()
    for key, value in nn.ModuleDict({"encoder": nn.LSTM(64, 48, 2), "head": nn.Linear(48, 5)}).state_dict().items()
}

RINGS = ("--shape", "8x8:8x6", "--ranks", "2", "--layer", "encoder.weight_ih_l0")


def assert_same(checkpoint, state=STATE) -> None:
    assert set(checkpoint.shapes) == set(state)
    for key, tensor in checkpoint.tensors():
        assert tensor.dtype == state[key].dtype
        assert torch.equal(tensor, state[key])


def content(data):
    return lambda path: path.write_bytes(data)
