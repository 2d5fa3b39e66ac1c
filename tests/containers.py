"""A small network in every container that is read, undamaged."""

from __future__ import annotations

import numpy as np
import torch
from hostile import STATE
from safetensors.torch import save_file
from torch import nn


def write_zip(path):
    torch.save({"model": STATE, "epoch": 3}, path)


def write_legacy(path):
    torch.save({"model": STATE, "epoch": 3}, path, _use_new_zipfile_serialization=False)


def write_module(path):
    torch.save(nn.LSTM(6, 4), path)


def write_legacy_module(path):
    torch.save(nn.LSTM(6, 4), path, _use_new_zipfile_serialization=False)


def write_safetensors(path):
    save_file(STATE, path)


def write_npz(path):
    with path.open("wb") as stream:
        np.savez(stream, **{key: tensor.numpy() for key, tensor in STATE.items()})


def write_npz_deflated(path):
    with path.open("wb") as stream:
        np.savez_compressed(stream, **{key: tensor.numpy() for key, tensor in STATE.items()})


GOOD = [
    write_zip,
    write_legacy,
    write_module,
    write_legacy_module,
    write_safetensors,
    write_npz,
    write_npz_deflated,
]
