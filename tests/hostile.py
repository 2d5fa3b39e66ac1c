"""Live hostile pickles, and the places of a checkpoint where they can hide."""

from __future__ import annotations

import functools
import io
import os
import pickle
import pickletools
import struct
import subprocess
import zipfile
from pathlib import Path

import torch
from torch import nn

STATE = {f"rnn.{key}": tensor for key, tensor in nn.LSTM(6, 4, 2).state_dict().items()}


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
    "newobj": (lambda s: b"chostile\nTrap\n)\x81", "hostile.Trap"),
    "newobj_ex": (lambda s: b"chostile\nTrap\n)}\x92", "hostile.Trap"),
    "build": (lambda s: no_state(b"chostile\nPlainTrap\n"), "hostile.PlainTrap"),
    "copyreg": (lambda s: b"ccopyreg\n__newobj__\n(chostile\nTrap\ntR", "hostile.Trap"),
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


def whole(payload: bytes) -> bytes:
    return b"\x80\x02" + payload + b"."


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


class Config:
    """An object as users keep one beside their weights."""

    def __init__(self) -> None:
        self.size = 3
