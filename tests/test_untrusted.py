"""Nothing in a checkpoint is ever run, imported or believed: hostile pickles, forged sizes, truncation, noise."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trcompress.checkpoint import inspect, read_checkpoint
from trcompress.errors import InputFileError, UnsafeFileError

STATE = {f"rnn.{key}": tensor for key, tensor in nn.LSTM(6, 4, 2).state_dict().items()}


# Hostile pickles. Each payload is live: a control test loads it with Python's own pickle and sees it strike.


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


class Trap(nn.Module):
    """A module whose every hook strikes; a plain class otherwise."""

    target = ""

    def __new__(cls, *args):
        strike()
        return super().__new__(cls)

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 4, 2)

    def __setstate__(self, state):
        strike()
        self.__dict__.update(state)

    def __getattr__(self, name):
        strike()
        return super().__getattr__(name)


class PlainTrap:
    def __setstate__(self, state):
        strike()


def strike() -> None:
    Path(Trap.target).touch()


@pytest.fixture(autouse=True)
def sentinel(tmp_path):
    """A file that appears when hostile code runs; it must not be there in the end."""
    path = tmp_path / "struck"
    Trap.target = str(path)
    yield path
    assert not path.exists(), "code from a checkpoint was run"


def body(thing) -> bytes:
    """A pickle without its protocol and its STOP, to be put into another."""
    return pickle.dumps(thing, protocol=2)[2:-1]


def command(sentinel: Path) -> str:
    return f"touch {sentinel}"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def opens(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


def no_state(cls: bytes) -> bytes:
    """An object of a class as protocol 0 makes it, with one attribute."""
    return b"ccopyreg\n_reconstructor\n(" + cls + b"cbuiltins\nobject\nNtR}" + text("a") + b"K\x01sb"


PAYLOADS = {
    "os.system": (lambda s: body(Calls(os.system, command(s))), "posix.system (that is os.system)"),
    "eval": (lambda s: body(Calls(eval, opens(s))), "builtins.eval"),
    "exec": (lambda s: body(Calls(exec, opens(s))), "builtins.exec"),
    "open": (lambda s: body(Calls(open, str(s), "w")), "io.open"),
    "subprocess": (lambda s: body(Calls(subprocess.check_call, ["touch", str(s)])), "subprocess.check_call"),
    "inst": (lambda s: b"(S" + repr(command(s)).encode() + b"\nios\nsystem\n", "os.system"),
    "obj": (lambda s: b"(csubprocess\nPopen\n](S'touch'\n" + text(str(s)) + b"eo", "subprocess.Popen"),
    "newobj": (lambda s: b"ctest_untrusted\nTrap\n)\x81", "test_untrusted.Trap"),
    "newobj_ex": (lambda s: b"ctest_untrusted\nTrap\n)}\x92", "test_untrusted.Trap"),
    "build": (lambda s: no_state(b"ctest_untrusted\nPlainTrap\n"), "test_untrusted.PlainTrap"),
    "copyreg": (lambda s: b"ccopyreg\n__newobj__\n(ctest_untrusted\nTrap\ntR", "test_untrusted.Trap"),
    "stack_global": (lambda s: b"\x8c\x02os\x8c\x06system\x93" + text(command(s)) + b"\x85R", "os.system"),
    "getattr": (
        lambda s: body(Calls(getattr, Calls(__import__, "os"), "system")) + text(command(s)) + b"\x85R",
        "builtins.getattr",
    ),
    "partial": (lambda s: body(functools.partial(os.system, command(s))) + b")R", "a call of a computed value"),
    "python 2 names": (lambda s: b"c__builtin__\neval\n" + text(opens(s)) + b"\x85R", "builtins.eval"),
    "map": (lambda s: body(Calls(list, Calls(map, os.system, [command(s)]))), "builtins.map"),
    "method": (lambda s: body(Calls(Path.touch, s)), "getattr"),
    "import": (lambda s: b"cstriking_module\nanything\n", "striking_module.anything"),
}


@pytest.fixture(autouse=True)
def striking_module(tmp_path, sentinel, monkeypatch):
    """A module that strikes when it is imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "striking_module.py").write_text(f"open({str(sentinel)!r}, 'w').close()\nanything = 1\n")
    monkeypatch.syspath_prepend(str(folder))
    yield
    sys.modules.pop("striking_module", None)


def whole(payload: bytes) -> bytes:
    return b"\x80\x02" + payload + b"."


@pytest.mark.parametrize("name", PAYLOADS)
def test_control_the_payloads_are_live(name, sentinel):
    assert not sentinel.exists()
    pickle.loads(whole(PAYLOADS[name][0](sentinel)))
    for _ in range(200):
        if sentinel.exists():
            break
        time.sleep(0.02)  # Popen does not wait
    sentinel.unlink()  # raises if nothing struck


# Where a payload can hide.


def inject(data: bytes, payload: bytes) -> bytes:
    """Run the payload before the rest of a pickle, and drop what it leaves."""
    assert data[:1] == b"\x80"
    return data[:2] + payload + b"0" + data[2:]


def in_zip(payload: bytes, path: Path, content=None) -> None:
    stream = io.BytesIO()
    torch.save(content or STATE, stream)
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, inject(data, payload) if name.endswith("data.pkl") else data)


def in_deflated_zip(payload: bytes, path: Path) -> None:
    stream = io.BytesIO()
    torch.save(STATE, stream)
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, inject(data, payload) if name.endswith("data.pkl") else data)


def in_module_zip(payload: bytes, path: Path) -> None:
    in_zip(payload, path, nn.LSTM(6, 4))


def legacy_pickles(content) -> tuple[list[bytes], bytes]:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    data, pickles = stream.getvalue(), []
    for _ in range(5):
        end = next(at for opcode, _, at in pickletools.genops(data) if opcode.name == "STOP") + 1
        pickles.append(data[:end])
        data = data[end:]
    return pickles, data


def in_legacy(place: int, content=None):
    def write(payload: bytes, path: Path) -> None:
        pickles, tail = legacy_pickles(content or STATE)
        pickles[place] = inject(pickles[place], payload)
        path.write_bytes(b"".join(pickles) + tail)

    return write


def bare(payload: bytes, path: Path) -> None:
    path.write_bytes(whole(payload))


def bare_without_protocol(payload: bytes, path: Path) -> None:
    path.write_bytes(payload + b".")


def cut_short(payload: bytes, path: Path) -> None:
    path.write_bytes(b"\x80\x02" + payload + b"]")


def in_scripted(payload: bytes, path: Path) -> None:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.LSTM(6, 4)), stream)
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, inject(data, payload) if name.endswith("data.pkl") else data)


HIDING_PLACES = {
    "zip": in_zip,
    "deflated zip": in_deflated_zip,
    "module": in_module_zip,
    "legacy object": in_legacy(3),
    "legacy magic": in_legacy(0),
    "legacy system": in_legacy(2),
    "legacy keys": in_legacy(4),
    "legacy module": in_legacy(3, nn.LSTM(6, 4)),
    "torchscript": in_scripted,
    "bare": bare,
    "bare without protocol": bare_without_protocol,
    "cut short": cut_short,
}
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


class Config:
    def __init__(self) -> None:
        self.size = 3


def test_objects_beside_plain_weights_are_refused_unless_skipped(tmp_path):
    torch.save({"model": STATE, "config": Config()}, tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match=r"test_untrusted\.Config.*`skip_objects=True`"):
        read_checkpoint(tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt", skip_objects=True)
    assert set(checkpoint.shapes) == set(STATE)
    assert checkpoint.ignored["config"] == "an object of test_untrusted.Config"


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


# Truncated and damaged files.


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


@pytest.mark.parametrize("write", GOOD)
@pytest.mark.filterwarnings("ignore")
def test_truncation_anywhere_is_one_clear_line(write, tmp_path):
    write(tmp_path / "good")
    data = (tmp_path / "good").read_bytes()
    assert read_checkpoint(tmp_path / "good").layers
    path = tmp_path / "cut"
    places = {0, 1, 2, 7, 8, 9, len(data) - 1, len(data) - 2, *random.Random(0).sample(range(len(data)), 60)}
    for size in sorted(places):
        path.write_bytes(data[:size])
        with pytest.raises(InputFileError) as caught:
            read_checkpoint(path)
        assert caught.value.exit_code == 3
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("write", GOOD)
@pytest.mark.filterwarnings("ignore")
def test_damage_anywhere_never_crashes(write, tmp_path):
    """Whatever bytes change: the file reads, or is refused in words."""
    write(tmp_path / "good")
    data, path = (tmp_path / "good").read_bytes(), tmp_path / "damaged"
    chance = random.Random(1)
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(chance.choice([1, 1, 3, 10])):
            damaged[chance.randrange(min(len(damaged), 4000))] = chance.randrange(256)
        path.write_bytes(damaged)
        try_to_read(path)


def test_a_damaged_pickle_never_crashes(tmp_path):
    """As above, aimed at the pickle and with its checksum mended."""
    torch.save({"model": STATE, "module": nn.GRU(3, 2)}, tmp_path / "good")
    with zipfile.ZipFile(tmp_path / "good") as source:
        entries = {name: source.read(name) for name in source.namelist()}
    main = next(name for name in entries if name.endswith("data.pkl"))
    chance = random.Random(2)
    for _ in range(400):
        damaged = bytearray(entries[main])
        for _ in range(chance.choice([1, 1, 2, 5])):
            at = chance.randrange(len(damaged))
            if chance.random() < 0.5:
                damaged[at] = chance.randrange(256)
            else:
                damaged[at:at] = bytes([chance.choice(b"0123456789.()RbcioQUX\x80\x81\x85\x86\x92\x93]}{eutqhsrj")])
        with zipfile.ZipFile(tmp_path / "damaged", "w") as target:
            for name, content in entries.items():
                target.writestr(name, damaged if name == main else content)
        try_to_read(tmp_path / "damaged")


def try_to_read(path: Path) -> None:
    try:
        checkpoint = read_checkpoint(path)
        inspect(checkpoint)
        for key, _ in checkpoint.tensors():
            checkpoint.file_region(key)
    except InputFileError as refused:
        error = str(refused)
    else:
        error = ""
    assert "\n" not in error


def test_a_file_that_shrinks_after_opening(tmp_path):
    for name, size in {"mapped": 1 << 15, "read": 8}.items():
        path = tmp_path / name
        save_file(nn.LSTM(size, 8).state_dict(), path)
        checkpoint = read_checkpoint(path)
        with path.open("r+b") as stream:
            stream.truncate(700)
        with pytest.raises(InputFileError, match="truncated"):
            checkpoint.tensor("weight_ih_l0")


# Not checkpoints.

NOT_CHECKPOINTS = {
    "text": (b"epoch,loss\n1,0.5\n", "is not a checkpoint"),
    "json": (b'{"model": {"layers": [1, 2, 3]}}', "is not a checkpoint"),
    "python": (b"import torch\nclass Net(torch.nn.Module):\n    pass\n", "is not a checkpoint"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG image"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(100), "a JPEG image"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "unpack it first"),
    "npy": (b"\x93NUMPY\x01\x00" + bytes(100), "single NumPy array"),
    "tar": (bytes(257) + b"ustar\x0000" + bytes(300), "a tar archive"),
    "zeros": (bytes(4096), "is not a checkpoint"),
    "ones": (b"\xff" * 4096, "is not a checkpoint"),
    "one byte": (b"\x80", "cannot read"),
    "a plain pickle": (pickle.dumps({"weight_ih_l0": [1, 2, 3]}), "torch.save did not write"),
    "an empty zip": (b"PK\x05\x06" + bytes(18), "no entry"),
}


@pytest.mark.parametrize("name", NOT_CHECKPOINTS)
def test_other_files_are_named_for_what_they_are(name, tmp_path):
    content, message = NOT_CHECKPOINTS[name]
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(InputFileError, match=message) as caught:
        read_checkpoint(tmp_path / "model.pt")
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_random_bytes(tmp_path):
    for seed in range(100):
        (tmp_path / "model.pt").write_bytes(random.Random(seed).randbytes(500))
        with pytest.raises(InputFileError):
            read_checkpoint(tmp_path / "model.pt")


def test_missing_empty_folder_device_and_foreign_zip(tmp_path):
    (tmp_path / "empty.pt").touch()
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    for path, message in {
        tmp_path / "none.pt": "no such file",
        tmp_path / "empty.pt": r"is empty \(0 bytes\)",
        tmp_path: "is a folder; name a file in it",
        Path("/dev/null"): "a device",
        tmp_path / "a.docx": "zip archive but not a checkpoint.*word/document.xml",
        Path("a\0b"): "no such file",
    }.items():
        with pytest.raises(InputFileError, match=message) as caught:
            read_checkpoint(path)
        assert caught.value.exit_code == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"x")
    (tmp_path / "model.pt").chmod(0)
    with pytest.raises(InputFileError, match="Permission denied"):
        read_checkpoint(tmp_path / "model.pt")


def test_object_arrays_beside_the_weights_are_never_opened(tmp_path, sentinel):
    arrays = {key: tensor.numpy() for key, tensor in STATE.items()}
    trap = np.array([Calls(os.system, command(sentinel))], dtype=object)
    np.savez(tmp_path / "model.npz", **arrays, words=trap)
    checkpoint = read_checkpoint(tmp_path / "model.npz")
    assert "never opened" in checkpoint.unreadable["words"]
    np.savez(tmp_path / "only.npz", model=trap)
    with pytest.raises(UnsafeFileError, match="model hold Python objects"):
        read_checkpoint(tmp_path / "only.npz")


# Forged sizes. Each is tried in one child process with little memory to spend.


def safetensors_bytes(header, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape, begin=0, end=None, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end if end is not None else 4]}


SAFETENSORS = {
    "header of 2**63": safetensors_bytes({}, length=2**63),
    "header of 1 GB": safetensors_bytes({}, length=2**30),
    "header longer than the file": safetensors_bytes({}, length=100),
    "no header": safetensors_bytes({}, length=0),
    "deep": safetensors_bytes(b'{"a":' + b"[" * 100_000),
    "long number": safetensors_bytes(b'{"a":' + b"9" * 10_000 + b"}"),
    "a list": safetensors_bytes(b"{]"),
    "not UTF-8": safetensors_bytes(b'{"\xff":1}'),
    "twice": safetensors_bytes(b'{"a":%(e)b,"a":%(e)b}' % {b"e": json.dumps(entry([1])).encode()}, bytes(4)),
    "no offsets": safetensors_bytes({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    "negative": safetensors_bytes({"a": entry([1], -4, 0)}, bytes(4)),
    "backwards": safetensors_bytes({"a": entry([1], 4, 0)}, bytes(4)),
    "text offsets": safetensors_bytes({"a": entry([1], "0", "4")}, bytes(4)),
    "behind the end": safetensors_bytes({"a": entry([1000], 0, 4000)}, bytes(4)),
    "shape too large": safetensors_bytes({"a": entry([2**40, 2**40])}, bytes(4)),
    "shape too small": safetensors_bytes({"a": entry([0])}, bytes(4)),
    "negative shape": safetensors_bytes({"a": entry([-1, -1])}, bytes(4)),
    "shape of text": safetensors_bytes({"a": entry("big")}, bytes(4)),
    "100 dimensions": safetensors_bytes({"a": entry([1] * 100)}, bytes(4)),
    "overlap": safetensors_bytes({"a": entry([1]), "b": entry([1])}, bytes(4)),
    "gap": safetensors_bytes({"a": entry([1], 4, 8)}, bytes(8)),
    "rest": safetensors_bytes({"a": entry([1])}, bytes(8)),
    "metadata of numbers": safetensors_bytes({"__metadata__": {"a": 1}}),
    "long name": safetensors_bytes({"a." * 50_000: entry([1])}, bytes(4)),
    "unknown type": safetensors_bytes({"rnn.weight_ih_l0": entry([1], dtype="F3")}, bytes(4)),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_forged_safetensors(name, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(SAFETENSORS[name])
    with pytest.raises(InputFileError) as caught:
        read_checkpoint(tmp_path / "model.safetensors")
    assert caught.value.exit_code == 3
    assert len(str(caught.value)) < 600


def pickled_zip(path: Path, data: bytes, storages: dict[str, bytes] | None = None) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x04" + data + b".")
        for key, content in (storages or {}).items():
            archive.writestr(f"m/data/{key}", content)


def tensor_bytes(
    numel: int, size: bytes, stride: bytes, offset: bytes = b"K\x00", kind: bytes = b"FloatStorage"
) -> bytes:
    storage = b"(\x8c\x07storagectorch\n" + kind + b"\n\x8c\x010\x8c\x03cpuJ" + struct.pack("<i", numel) + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + size + stride + b"\x89}tR"


def named(tensor: bytes) -> bytes:
    return b"}" + text("rnn.weight_ih_l0") + tensor + b"s"


BIG = b"\x8a\x08" + struct.pack("<q", 2**40)
PICKLES = {
    "memo index of 2**32": b"Nr\xff\xff\xff\xff0}",
    "text of 2**60 bytes": b"\x8d" + struct.pack("<Q", 2**60) + b"abc",
    "bytes of 2**60 bytes": b"\x8e" + struct.pack("<Q", 2**60) + b"abc",
    "bytearray of 2**60 bytes": b"\x96" + struct.pack("<Q", 2**60) + b"abc",
    "frame of 2**60 bytes": b"\x95" + struct.pack("<Q", 2**60) + b"}",
    "integer of 2**31 bytes": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"1",
    "integer of negative size": b"\x8b" + struct.pack("<i", -5) + b"1",
    "a decimal of 100,000 digits": b"L" + b"9" * 100_000 + b"L\n",
    "lists 200,000 deep": b"]" * 200_000 + b"a" * 199_999,
    "tuples 200,000 deep as a key": b"})" + b"\x85" * 200_000 + b"Ns",
    "tuples that double, as a key": b"})" + b"2\x86" * 60 + b"Ns",
    "tuples that double": b")" + b"2\x86" * 1000,
    "dicts 300 deep": b"}X\x01\x00\x00\x00a" * 300 + b"}" + b"s" * 300,
    "too many steps": b"N0" * 300_000 + b"}",
    "a dict in itself": b"}q\x00X\x01\x00\x00\x00ah\x00s",
    "billion laughs": b"]q\x00" + b"".join(b"](" + b"h%c" % k * 10 + b"eq%c" % (k + 1) for k in range(30)),
    "bytearray(10**12)": b"cbuiltins\nbytearray\n\x8a\x08" + struct.pack("<q", 10**12) + b"\x85R",
    "extension code": b"\x82\x01",
    "out of band buffer": b"\x97",
    "shape beyond the storage": named(tensor_bytes(4, b"K\x64K\x64\x86", b"K\x64K\x01\x86")),
    "offset beyond the storage": named(tensor_bytes(4, b"K\x01K\x01\x86", b"K\x01K\x01\x86", BIG)),
    "2**80 values": named(tensor_bytes(4, BIG + BIG + b"\x86", b"K\x00K\x00\x86")),
    "negative size": named(tensor_bytes(4, b"J\xff\xff\xff\xffK\x01\x86", b"K\x01K\x01\x86")),
    "negative stride": named(tensor_bytes(4, b"K\x02K\x02\x86", b"J\xff\xff\xff\xffK\x01\x86")),
    "size of text": named(tensor_bytes(4, b"\x8c\x01aK\x01\x86", b"K\x01K\x01\x86")),
    "size is no tuple": named(tensor_bytes(4, b"K\x04", b"K\x01")),
    "storage longer than its bytes": named(tensor_bytes(1000, b"K\x01K\x01\x86", b"K\x01K\x01\x86")),
    "storage of negative length": named(tensor_bytes(-4, b"K\x00K\x01\x86", b"K\x01K\x01\x86")),
    "storage of unknown type": named(tensor_bytes(4, b"K\x02K\x02\x86", b"K\x02K\x01\x86", kind=b"EvilStorage")),
    "rebuild without arguments": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "rebuild of a number": b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01K\x01K\x01tR",
    "parameter without arguments": b"ctorch._utils\n_rebuild_parameter\n)R",
    "persistent id of a number": b"K\x01Q",
    "persistent text": b"Pabc\n",
    "stack underflow": b"0000",
    "mark underflow": b"t",
    "set item of a number": b"K\x01K\x01K\x01s",
    "append to a number": b"K\x01K\x01a",
    "build of a global": b"cargparse\nNamespace\n}b",
    "unknown memo": b"h\x09",
    "odd items": b"}(K\x01u",
    "dict(text)": b"ccollections\nOrderedDict\n(](X\x03\x00\x00\x00abcetR",
}  # fmt: skip

CHILD = """
import resource, sys
from pathlib import Path
import torch
from trcompress.checkpoint import machine, read_checkpoint, statedicts
from trcompress.errors import InputFileError
from trcompress.util.memory import status_bytes
machine.MAX_STEPS, statedicts.MAX_NODES = 500_000, 100_000  # as in earnest, but sooner
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_checkpoint(path)
        said = "READ"
    except InputFileError as error:
        said = str(error) if len(str(error)) < 900 else "LONG"
    except BaseException as error:
        said = "CRASH " + repr(error)
    rss = status_bytes("VmHWM") >> 20  # ru_maxrss would begin with what the parent had
    print(path.name, rss, said, sep="\\t", flush=True)
"""


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    """What one child with bounded memory said of every forged file: name -> (MB, message)."""
    folder = tmp_path_factory.mktemp("forged")
    for name, data in PICKLES.items():
        pickled_zip(folder / name.replace("/", " "), data, {"0": bytes(16)})
    for name, write in ARCHIVES.items():
        write(folder / name)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, folder],
        capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    rows = (line.split("\t") for line in child.stdout.splitlines())
    return {name: (int(rss), said) for name, rss, said in rows}


def forged_directory(path: Path) -> None:
    """A deflated entry that declares 2**33 bytes."""
    write_npz_deflated(path)
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(data)


def two_of_one_name(path: Path) -> None:
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("m/data.pkl", b"\x80\x02}.")
        archive.writestr("m/data.pkl", b"\x80\x02}.")


def two_checkpoints(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("b/data.pkl", b"\x80\x02}.")


def encrypted(path: Path) -> None:
    write_zip(path)
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02")
    data[at + 8] |= 1
    path.write_bytes(data)


def directory_of_a_gigabyte(path: Path) -> None:
    """A sparse file whose zip directory is declared as 1 GB."""
    with path.open("wb") as stream:
        stream.write(b"PK\x03\x04")
        stream.truncate(2**30 + 100)
        stream.seek(0, 2)
        stream.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 2**30, 50, 0))


def bomb(path: Path) -> None:
    """2 GB of zeros in 2 MB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = block * 128 + packer.flush()
    name, size = b"rnn.weight_ih_l0.npy", (1 << 24) * 128
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, 0, len(packed), size, len(name), 0) + name
    central = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, 0, len(packed), size, len(name), 0, 0, 0, 0, 0, 0
    ) + name  # fmt: skip
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local) + len(packed), 0)
    path.write_bytes(local + packed + central + end)


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npz_of(content: bytes):
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("rnn.weight_ih_l0.npy", content)

    return write


def objects(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, weight_ih_l0=np.array([{"a": 1}, Config()], dtype=object))


def shape(text: str) -> bytes:
    return ("{'descr': '<f4', 'fortran_order': False, 'shape': " + text + "}").encode()


ARCHIVES = {
    "npz forged size": forged_directory,
    "two of one name": two_of_one_name,
    "two checkpoints": two_checkpoints,
    "encrypted": encrypted,
    "directory of a gigabyte": directory_of_a_gigabyte,
    "bomb": bomb,
    "npy shape of 2**60": npz_of(npy(shape("(1152921504606846976,)"), bytes(16))),
    "npy negative shape": npz_of(npy(shape("(-4, -1)"), bytes(16))),
    "npy shape too large": npz_of(npy(shape("(5, 1)"), bytes(16))),
    "npy nested": npz_of(npy(b"(" * 9_000)),
    "npy calls": npz_of(npy(b"__import__('os').system('touch struck')")),
    "npy header of 60,000": npz_of(npy(b" " * 60_000)),
    "npy version 9": npz_of(b"\x93NUMPY\x09\x00" + bytes(100)),
    "npy of nothing": npz_of(b""),
    "npy of text": npz_of(b"hello"),
    "objects": objects,
}


@pytest.mark.parametrize("name", [*(name.replace("/", " ") for name in PICKLES), *ARCHIVES])
def test_forged_sizes_cost_neither_memory_nor_time(name, forged):
    rss, said = forged[name]
    assert not said.startswith(("CRASH", "READ", "LONG")), said
    assert name in said  # the message names the file
    assert rss < 2200, f"{rss} MB"


def test_forged_sizes_are_named(forged):
    for name, words in {
        "shape beyond the storage": "its storage holds 4 values",
        "2**80 values": "expands 4 stored values",
        "storage longer than its bytes": "declares 4,000 bytes but has 16",
        "tuples that double, as a key": "uses a tuple as the key",
        "too many steps": "more than 500,000 steps",
        "dicts 300 deep": "nested deeper than 100",
        "build of a global": "argparse.Namespace",
        "bomb": "decompression bomb",
        "encrypted": "encrypted",
        "two of one name": "two entries of one name",
        "two checkpoints": "2 checkpoints in one archive",
        "npz forged size": "more than can be there",
        "directory of a gigabyte": "directory asks for",
        "npy shape too large": "its storage holds 4 values",
        "objects": "refused as unsafe: weight_ih_l0 hold Python objects",
    }.items():
        assert words in forged[name][1], forged[name][1]


# What a file nests is never walked into for a message, and views are counted by what they would take.


def doubling(depth: int) -> bytes:
    """Push a list that holds another twice, `depth` times: short in the file, endless in `str`."""
    lists = b"".join(b"q%c]q%c(h%ch%ce" % (k, k + 1, k, k) for k in range(depth))
    return b"(]" + lists + b"1h%c" % depth


@pytest.mark.parametrize("place", ["key", "dtype"])
def test_values_that_are_endless_as_text_cost_nothing(place, tmp_path):
    nested = doubling(90)
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    blob = {
        "key": b"\x80\x02}(cfoo\nBar\n)\x81}X\x01\x00\x00\x00a" + nested + b"sb" + b"]u.",
        "dtype": b"\x80\x03" + array + b"(K\x01K\x01\x85cnumpy\ndtype\n" + nested + b"\x85RI00\nC\x00tb.",
    }[place]
    (tmp_path / "a.pkl").write_bytes(blob)
    with pytest.raises(InputFileError, match="no recurrent layer") as refused:
        read_checkpoint(tmp_path / "a.pkl", skip_objects=True)
    assert len(str(refused.value)) < 2_000


def test_whole_numbers_of_many_digits_are_told_by_their_size(tmp_path):
    torch.save({"model": STATE, "huge": 1 << 100_000, "epoch": 3}, tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert checkpoint.ignored["huge"] == "the value a whole number of 100,001 bits"


def test_views_count_by_what_they_take(tmp_path):
    one = torch.zeros(1)
    views = {f"v{k}": one.expand(1000 + k, 1000) for k in range(48)}
    torch.save(STATE | views, tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")  # 196 MB: within what is free
    assert len(checkpoint.shapes) == len(STATE) + 48
    torch.save(STATE | views | {f"w{k}": one.expand(1000, 1000 + k) for k in range(1, 48)}, tmp_path / "model.pt")
    with pytest.raises(InputFileError, match=r"its tensors are views that take .* bytes of .* stored"):
        read_checkpoint(tmp_path / "model.pt")
