"""Files whose sizes are forged: safetensors, pickles, archives."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from containers import write_npz_deflated, write_zip
from hostile import Config, text


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
