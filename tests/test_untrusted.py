"""Nothing in a checkpoint is ever run or imported: hostile pickles in every place where they can hide."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from hostile import (
    HIDING_PLACES,
    PAYLOADS,
    STATE,
    Calls,
    Config,
    Trap,
    body,
    command,
    in_module_zip,
    in_zip,
    text,
    whole,
)
from torch import nn

from trcompress.checkpoint import read_checkpoint
from trcompress.errors import InputFileError, UnsafeFileError


@pytest.fixture(autouse=True)
def sentinel(tmp_path):
    """A file that appears when hostile code runs; it must not be there in the end."""
    path = tmp_path / "struck"
    Trap.target = str(path)
    yield path
    assert not path.exists(), "code from a checkpoint was run"


@pytest.fixture(autouse=True)
def striking_module(tmp_path, sentinel, monkeypatch):
    """A module that strikes when it is imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "striking_module.py").write_text(f"open({str(sentinel)!r}, 'w').close()\nanything = 1\n")
    monkeypatch.syspath_prepend(str(folder))
    yield
    sys.modules.pop("striking_module", None)


@pytest.mark.parametrize("name", PAYLOADS)
def test_control_the_payloads_are_live(name, sentinel):
    assert not sentinel.exists()
    pickle.loads(whole(PAYLOADS[name][0](sentinel)))
    for _ in range(200):
        if sentinel.exists():
            break
        time.sleep(0.02)  # Popen does not wait
    sentinel.unlink()  # raises if nothing struck


ONLY_NAMED = {"newobj", "newobj_ex", "build", "copyreg", "import"}  # stand for objects, call nothing here


@pytest.mark.parametrize("place", HIDING_PLACES)
@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.filterwarnings("ignore")
def test_hostile_pickles_are_refused_and_never_run(name, place, tmp_path, sentinel):
    make, shown = PAYLOADS[name]
    path = tmp_path / "model.pt"
    HIDING_PLACES[place](make(sentinel), path)
    before, modules = path.read_bytes(), set(sys.modules)
    harmless = name in ONLY_NAMED and "module" in place
    if harmless:  # a whole module may hold objects of its author's classes: they become inert stand-ins
        assert read_checkpoint(path).layers
    elif name in ONLY_NAMED and place == "cut short":
        with pytest.raises(InputFileError, match="cannot read"):
            read_checkpoint(path)
    else:
        with pytest.raises(UnsafeFileError) as caught:
            read_checkpoint(path)
        assert caught.value.exit_code == 4
        assert shown in str(caught.value)
        assert "state_dict()" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not sentinel.exists()
    assert path.read_bytes() == before
    assert "striking_module" not in set(sys.modules) - modules


def test_a_payload_deep_inside_a_checkpoint(tmp_path, sentinel):
    hidden = {"model": STATE, "extra": {"callbacks": [{"hook": Calls(os.system, command(sentinel))}]}}
    for zipped in (True, False):
        torch.save(hidden, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(UnsafeFileError, match=r"os\.system"):
            read_checkpoint(tmp_path / "model.pt")


def test_a_payload_in_the_place_of_a_tensor(tmp_path, sentinel):
    torch.save(STATE | {"rnn.weight_hh_l0": Calls(os.system, command(sentinel))}, tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match=r"os\.system"):
        read_checkpoint(tmp_path / "model.pt")


def test_a_payload_as_a_tensor_rebuilder(tmp_path, sentinel):
    """`_rebuild_from_type_v2` calls its first argument."""
    rebuild = Calls(torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (command(sentinel),), {})
    torch.save(STATE | {"x": rebuild}, tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match=r"os\.system"):
        read_checkpoint(tmp_path / "model.pt")


def test_a_nested_torch_load_is_refused(tmp_path, sentinel):
    inner = io.BytesIO()
    torch.save(Calls(os.system, command(sentinel)), inner, _use_new_zipfile_serialization=False)
    torch.save(STATE | {"x": Calls(torch.storage._load_from_bytes, inner.getvalue())}, tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match=r"torch\.storage\._load_from_bytes"):
        read_checkpoint(tmp_path / "model.pt")


def test_torch_functions_are_not_called_either(tmp_path):
    torch.save(STATE | {"x": Calls(torch.hub.set_dir, "/nowhere")}, tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match=r"torch\.hub\.set_dir"):
        read_checkpoint(tmp_path / "model.pt")


def test_a_torch_function_may_be_named_but_not_called(tmp_path):
    """An activation is pickled as `getattr(torch's functions, name)`; a call of such a name stays a call."""
    named = b"cbuiltins\ngetattr\n(ctorch.hub\nos\n" + text("system") + b"tR"
    in_module_zip(body(torch.relu), tmp_path / "relu.pt")
    assert read_checkpoint(tmp_path / "relu.pt").layers
    for place in (in_zip, in_module_zip):
        place(named + text("true") + b"\x85R", tmp_path / "call.pt")
        with pytest.raises(UnsafeFileError, match=r"torch\.hub\.os\.system"):
            read_checkpoint(tmp_path / "call.pt")


def test_every_blocked_global_is_named(tmp_path):
    torch.save(STATE | {"a": os.system, "b": subprocess.run, "c": Calls(eval, "1")}, tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match=r"builtins\.eval, posix\.system.*, subprocess\.run"):
        read_checkpoint(tmp_path / "model.pt")


# Whole modules: read, without running what their class would run.


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_a_modules_own_hooks_are_not_run(zipped, tmp_path, sentinel):
    trap = Trap()
    trap.rnn.load_state_dict(nn.LSTM(6, 4, 2).state_dict())
    expected = nn.Module.state_dict(trap)
    torch.save({"model": trap}, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    sentinel.unlink()
    torch.load(tmp_path / "model.pt", weights_only=False)
    sentinel.unlink()  # the control: loading it strikes
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert not sentinel.exists()
    for key, tensor in checkpoint.tensors():
        assert torch.equal(tensor, expected[key])
    assert set(checkpoint.shapes) == set(expected)


def test_a_modules_package_is_not_imported(tmp_path, monkeypatch, sentinel):
    package = tmp_path / "modules" / "author_net"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "model.py").write_text(
        "import enum, torch\n"
        "class Mode(enum.Enum):\n    FAST = 1\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.rnn, self.mode = torch.nn.GRU(5, 3), Mode.FAST\n"
    )
    import importlib

    torch.save(importlib.import_module("author_net.model").Net(), tmp_path / "net.pt")
    for name in [name for name in sys.modules if name.startswith("author_net")]:
        del sys.modules[name]
    (package / "model.py").write_text(f"open({str(sentinel)!r}, 'w').close()")

    checkpoint = read_checkpoint(tmp_path / "net.pt")

    assert not any(name.startswith("author_net") for name in sys.modules)
    assert [(layer.stack, layer.kind) for layer in checkpoint.layers] == [("rnn", "gru")]
    assert any("author_net.model.Net" in note for note in checkpoint.notes)


def test_objects_beside_plain_weights_are_refused_unless_skipped(tmp_path):
    torch.save({"model": STATE, "config": Config()}, tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match=r"hostile\.Config.*`skip_objects=True`"):
        read_checkpoint(tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt", skip_objects=True)
    assert set(checkpoint.shapes) == set(STATE)
    assert checkpoint.ignored["config"] == "an object of hostile.Config"


def test_skipping_objects_does_not_skip_calls(tmp_path, sentinel):
    torch.save({"model": STATE, "config": Calls(os.system, command(sentinel))}, tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match=r"os\.system"):
        read_checkpoint(tmp_path / "model.pt", skip_objects=True)


def test_a_list_of_thousands_of_globals_is_shown_in_short(tmp_path):
    payload = b"".join(b"cforeign%d\nthing\n0" % number for number in range(5000)) + b"N"
    in_zip(payload, tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match="and 4992 more") as caught:
        read_checkpoint(tmp_path / "model.pt")
    assert len(str(caught.value)) < 1500


def test_text_of_the_file_cannot_steer_a_terminal(tmp_path):
    """Names with line ends and escape sequences are shown escaped, in errors, notes and lists alike."""
    nasty = "a\nb\x1b[2J\u202e"
    hostile = b"\x8c" + bytes([len(nasty.encode())]) + nasty.encode()
    in_zip(hostile + b"\x8c\x01f\x93", tmp_path / "global.pt")
    torch.save(STATE | {nasty: torch.ones(1)}, tmp_path / "key.pt")
    torch.save({nasty: {"x": {"rnn.weight_ih_l0": torch.ones(3, 3), "y": torch.ones(1)}}}, tmp_path / "path.pt")
    torch.save({"model": STATE, nasty: 3, "note": {nasty: STATE}}, tmp_path / "ignored.pt")
    with zipfile.ZipFile(tmp_path / "entry.pt", "w") as archive:
        archive.writestr(nasty, "x")
    said = []
    for name in ("global.pt", "key.pt", "entry.pt"):
        with pytest.raises(InputFileError) as caught:
            read_checkpoint(tmp_path / name)
        said.append(str(caught.value))
    for name in ("path.pt", "ignored.pt"):
        checkpoint = read_checkpoint(tmp_path / name)
        said += [*checkpoint.notes, *checkpoint.ignored, *checkpoint.ignored.values()]
    assert all(text.isprintable() for text in said)
    assert sum("\\x1b[2J" in text for text in said) >= 5


def test_object_arrays_beside_the_weights_are_never_opened(tmp_path, sentinel):
    arrays = {key: tensor.numpy() for key, tensor in STATE.items()}
    trap = np.array([Calls(os.system, command(sentinel))], dtype=object)
    np.savez(tmp_path / "model.npz", **arrays, words=trap)
    checkpoint = read_checkpoint(tmp_path / "model.npz")
    assert "never opened" in checkpoint.unreadable["words"]
    np.savez(tmp_path / "only.npz", model=trap)
    with pytest.raises(UnsafeFileError, match="model hold Python objects"):
        read_checkpoint(tmp_path / "only.npz")
