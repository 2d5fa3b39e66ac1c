"""Whole modules, TorchScript, storages of every kind, real weights."""

from __future__ import annotations

import enum
import functools
import logging
import pickle
import re
import struct
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from checkpoint_cases import (
    STATE,
    Net,
    assert_same,
)
from samples import sample
from torch import nn

from trcompress.checkpoint import read_checkpoint


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_pickle_protocol(protocol, zipped, tmp_path):
    net = Net()
    for name, content in {"state": net.state_dict(), "module": net}.items():
        path = tmp_path / name
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        assert_same(read_checkpoint(path), net.state_dict())


class Tagged(nn.Module):
    """What people keep in modules: functions, options, loggers, hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 3)
        self.act, self.gate, self.mode = torch.relu, nn.functional.softplus, Mode.FAST
        self.pattern, self.log, self.dtype = re.compile("a+"), logging.getLogger("x"), torch.float16
        self.seen, self.path, self.half = Counter("aab"), Path("runs"), functools.partial(torch.clamp, min=0)
        self.register_forward_hook(print_nothing)
        self.weight_copy = nn.Parameter(torch.ones(2))
        self.weight_copy.origin = "tagged"


class Mode(enum.Enum):
    FAST = 1


def print_nothing(*_) -> None: ...


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_modules_with_all_kinds_of_attributes(zipped, tmp_path):
    net = Tagged()
    torch.save(net, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    assert_same(read_checkpoint(tmp_path / "net.pt"), net.state_dict())


@pytest.mark.parametrize("zipped", [True, False])
def test_unusual_tensors_beside_the_weights(zipped, tmp_path):
    state = STATE | {
        "u16": torch.arange(3).to(torch.uint16),
        "f8": torch.ones(3).to(torch.float8_e4m3fn),
        "c64": torch.ones(2, dtype=torch.complex64),
        "bool": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3),
        "expanded": torch.ones(1, 4).expand(3, 4),
        "turned": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
    }
    torch.save(state, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert set(checkpoint.shapes) == set(state)
    for key, tensor in checkpoint.tensors():
        assert tensor.dtype == state[key].dtype
        assert torch.equal(view(tensor, key), view(state[key], key))


def view(tensor, key):
    return tensor.view(torch.uint8) if key == "f8" else tensor


class Storage0x(NamedTuple):
    """A storage as PyTorch 0.x pickled it, perhaps as part of another."""

    key: str
    numel: int
    view: tuple[str, int, int] | None


class Rebuilt:
    def __init__(self, storage, offset, shape, stride) -> None:
        self.args = storage, offset, shape, stride

    def __reduce__(self):
        return torch._utils._rebuild_tensor, self.args


def test_legacy_files_with_parts_of_storages(tmp_path):
    """PyTorch 0.x wrote views of storages; torch.load still reads them, and is the oracle here."""
    values = torch.arange(200.0)
    tensors = {
        "weight_ih_l0": Rebuilt(Storage0x("root", 200, ("part", 10, 96)), 0, (16, 6), (6, 1)),
        "weight_hh_l0": Rebuilt(Storage0x("root", 200, None), 120, (16, 4), (4, 1)),
        "bias_ih_l0": Rebuilt(Storage0x("root", 200, ("tail", 150, 50)), 3, (16,), (2,)),
    }

    class Pickler(pickle._Pickler):
        def persistent_id(self, thing):
            if isinstance(thing, Storage0x):
                return "storage", torch.FloatStorage, thing.key, "cpu", thing.numel, thing.view
            return None

    path = tmp_path / "old.pt"
    with path.open("wb") as stream:
        for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(head, stream, protocol=2)
        Pickler(stream, protocol=2).dump(tensors)
        pickle.dump(["root"], stream, protocol=2)
        stream.write(struct.pack("<q", 200) + values.numpy().tobytes())
    expected = torch.load(path, weights_only=True)
    assert torch.equal(expected["weight_ih_l0"], values[10:106].view(16, 6))
    assert_same(read_checkpoint(path), expected | {"bias_hh_l0": torch.zeros(16)})  # one bias is exact with a zero


def test_a_zip_without_checksums_is_read_as_torch_reads_it(tmp_path):
    from torch.serialization import get_crc32_options, set_crc32_options

    before = get_crc32_options()
    state = nn.LSTM(6, 4).state_dict()
    set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "model.pt")
    finally:
        set_crc32_options(before)
    assert_same(read_checkpoint(tmp_path / "model.pt"), state)


def test_big_endian_arrays_are_swapped(tmp_path):
    state = nn.LSTM(6, 4).state_dict()
    with (tmp_path / "model.npz").open("wb") as stream:
        np.savez(stream, **{key: tensor.numpy().astype(">f4") for key, tensor in state.items()})
    checkpoint = read_checkpoint(tmp_path / "model.npz")
    assert_same(checkpoint, state)
    assert checkpoint.file_region("weight_ih_l0") is None


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_whole_modules_are_read_as_their_state_dict(zipped, tmp_path):
    net = Net()
    net.register_buffer("fleeting", torch.ones(3), persistent=False)
    net.hidden = torch.ones(2)  # an attribute, no buffer
    torch.save({"model": net, "epoch": 1}, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / "net.pt")
    assert_same(checkpoint, net.state_dict())
    assert any("checkpoint_cases.Net" in note for note in checkpoint.notes)


def test_a_pickled_module_tells_its_options(tmp_path):
    modules = nn.ModuleList(
        [nn.RNN(4, 3, 2, nonlinearity="relu", batch_first=True, dropout=0.25), nn.RNNCell(3, 3)]
    )
    torch.save(modules, tmp_path / "m.pt")
    torch.save(modules.state_dict(), tmp_path / "s.pt")
    first, _, cell = read_checkpoint(tmp_path / "m.pt").layers
    assert (first.nonlinearity, first.batch_first, first.dropout) == ("relu", True, 0.25)
    assert cell.nonlinearity == "tanh"
    plain = read_checkpoint(tmp_path / "s.pt")
    assert (plain.layers[0].nonlinearity, plain.layers[0].batch_first) == ("tanh", False)
    assert any("tanh assumed" in note for note in plain.notes)


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 4, bidirectional=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.filterwarnings("ignore")
def test_torchscript_archives_give_their_weights(how, tmp_path):
    net = Scripted()
    scripted = torch.jit.script(net) if how == "script" else torch.jit.trace(net, torch.randn(3, 2, 6))
    torch.jit.save(scripted, tmp_path / "net.pt")
    checkpoint = read_checkpoint(tmp_path / "net.pt")
    assert_same(checkpoint, net.state_dict())
    assert any("TorchScript" in note for note in checkpoint.notes)


def test_cuda_tagged_tensors_are_read_on_the_cpu(tmp_path):
    import zipfile

    torch.save({"model": STATE}, tmp_path / "cpu.pt")
    with zipfile.ZipFile(tmp_path / "cpu.pt") as source, zipfile.ZipFile(tmp_path / "cuda.pt", "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                assert data.count(b"X\x03\x00\x00\x00cpu") == 1
                data = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:3")
            target.writestr(name, data)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(tmp_path / "cuda.pt", weights_only=True)
    assert_same(read_checkpoint(tmp_path / "cuda.pt"), STATE)


def test_shared_and_packed_storages(tmp_path):
    """Tied weights are one tensor; CUDA packs all weights of a layer as views of one storage."""
    net = nn.LSTM(6, 4)
    flat = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    state, at = {}, 0
    for key, tensor in net.state_dict().items():
        state[f"rnn.{key}"] = flat[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    state["head.weight"] = state["embedding.weight"] = torch.randn(7, 6)
    state["half.weight"] = state["head.weight"][:3]
    for name, zipped in {"zip": True, "legacy": False}.items():
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=zipped)
        checkpoint = read_checkpoint(tmp_path / name)
        assert_same(checkpoint, state)
        assert checkpoint.shared == (("head.weight", "embedding.weight"),)
        assert checkpoint.tensor("rnn.weight_hh_l0").untyped_storage().nbytes() == 16 * 4 * 4


def test_pretrained_g2p():
    path = sample("g2p/checkpoint20.npz")
    checkpoint = read_checkpoint(path)
    arrays = np.load(path, allow_pickle=False)
    assert_same(checkpoint, {key: torch.from_numpy(arrays[key]) for key in arrays})
    for layer, name in zip(checkpoint.layers, ("enc", "dec"), strict=True):
        assert (layer.stack, layer.kind, layer.input_size, layer.hidden_size) == (name, "gru", 256, 256)
        assert layer.keys["weight_ih"] == f"{name}_w_ih"
        assert layer.keys["bias_hh"] == f"{name}_b_hh"


def test_pretrained_silero():
    path = sample("silero_vad_16k.safetensors")
    checkpoint = read_checkpoint(path)
    (layer,) = checkpoint.layers
    assert (layer.stack, layer.kind, layer.input_size, layer.hidden_size) == ("lstm_cell", "lstm", 128, 128)
    assert layer.cell
    cell = nn.LSTMCell(128, 128)
    cell.load_state_dict({role: checkpoint.tensor(key) for role, key in layer.keys.items()})
