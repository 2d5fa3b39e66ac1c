"""Every reader against every bound: files that ask for more than they hold are refused in little memory.

Pickles have a table of their own, `test_pickle_bounds.py`; a video's frames, sizes and time are bounded in
`test_data_decode.py`.
"""

import base64
import bz2
import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
from reading_child import read_in_a_child

from trcompress.util.bounded_json import check_parts, read_json

FREE_MEGABYTES = 200
DIGITS = b"9" * 5000
DEEP = b"[" * 100_000 + b"]" * 100_000
LISTS = b"[" + b"[]," * 3_000_000 + b"[]]"

READERS = """
from trcompress.artifact.file import read_artifact
from trcompress.artifact.pretrained import _read_config
from trcompress.artifact.results import _read as read_figures
from trcompress.checkpoint import read_checkpoint
from trcompress.data import load_data
from trcompress.errors import TrcompressError as Refusal
from trcompress.reproduce.recipe import read_recipe
from trcompress.reproduce.result import read_result
from trcompress.training.run_state import RunFolder
from trcompress.data.clips import _names

class State(RunFolder):
    state_path = property(lambda self: self.path)

    def __init__(self, path):
        self.path = path


READERS = {
    "checkpoint": read_checkpoint, "data": load_data, "artifact": read_artifact, "recipe": read_recipe,
    "result": read_result, "figures": read_figures, "config": _read_config, "marker": _names,
    "state": lambda path: State(path).load(),
}

def read(path):
    return READERS[path.name.partition(" ")[0]](path)
"""


def safetensors(header, data=bytes(4)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(**changes):
    return {"k": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes}


def artifact(header, compressed=False):
    text = header if isinstance(header, str) else json.dumps(header)
    if compressed:
        text = "zlib:" + base64.b85encode(zlib.compress(text.encode(), 9)).decode()
    return safetensors({"__metadata__": {"trcompress": text}} | tensor())


def described(more):
    return '{"version":2,"layers":[],"weights":[],' + more + "}"


def npy(shape, kind="'<f4'", data=bytes(4)):
    header = f"{{'descr':{kind},'fortran_order':False,'shape':{shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + data


def npz(compression=zipfile.ZIP_STORED, **arrays):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


def array(values):
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


X = array(np.zeros((40, 4, 8), np.float32))
ZEROS = [bz2.compress(bytes(64 * 800_000)), bz2.compress(bytes(128))]  # codes and scales of an artifact
INDEX = b'{"weight_map":%s}'
HEADERS = {
    "depth": (safetensors(b'{"k":%s}' % DEEP), "nested too deep"),
    "count": (safetensors(b'{"k":%s}' % LISTS), "more than 1,500,000 parts"),
    "tensors": (
        safetensors({f"k{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(110_000)}, b""),
        "lists 110,000 tensors",
    ),
    "digits": (safetensors(b'{"k":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % DIGITS), "4300 digits"),
    "size": (struct.pack("<Q", 2**40) + b"{" + bytes(100), "declares 1,099,511,627,776 bytes"),
}
TABLE = {
    **{f"checkpoint {name}.safetensors": file for name, file in HEADERS.items()},
    **{f"data {name}.safetensors": file for name, file in HEADERS.items()},
    **{f"state {name}.safetensors": file for name, file in HEADERS.items()},
    "state text.safetensors": (
        safetensors({"__metadata__": {"trcompress-run": DEEP.decode()}} | tensor()), "nested too deep",
    ),
    **{f"artifact {name}.safetensors": file for name, file in HEADERS.items()},
    "checkpoint dimensions.safetensors": (safetensors(tensor(shape=[1] * 5000)), "5,000 dimensions"),
    "checkpoint long.safetensors": (safetensors(tensor(dtype="F" * 10**7)), "a tensor of type"),
    "checkpoint depth.index.json": (INDEX % DEEP, "nested too deep"),
    "checkpoint count.index.json": (INDEX % LISTS, "more than 1,500,000 parts"),
    "checkpoint files.index.json": (
        json.dumps({"weight_map": {f"k{k}": f"f{k}" for k in range(20_000)}}).encode(), "names 20,000 files",
    ),
    "checkpoint dimensions.npz": (npz(k=npy("(" + "1," * 4000 + ")")), "4000 dimensions"),
    "checkpoint depth.npz": (npz(k=npy("(" * 3000 + ")" * 3000)), "no valid header"),
    "checkpoint digits.npz": (npz(k=npy(f"({DIGITS.decode()},)")), "no valid header"),
    "checkpoint header.npz": (npz(k=npy("(1,)" + " " * 20_000)), "no valid header"),
    "data dimensions.npz": (npz(x=npy("(" + "1," * 4000 + ")"), y=X), "64, found 4000"),
    "data digits.npz": (npz(x=npy(f"({DIGITS.decode()},)"), y=X), "no valid header"),
    "data unpacked.npz": (
        npz(zipfile.ZIP_DEFLATED, x=npy("(40,4,300000)", data=bytes(192_000_000)), y=X), "raise max_bytes",
    ),
    "data text.npz": (
        npz(zipfile.ZIP_DEFLATED, x=X, notes=npy("(1,)", "'<U50000000'", bytes(200_000_000))),
        "raise max_bytes",
    ),
    "data labels.npz": (
        npz(x=X, y=array(np.full(40, 2**62)), group=array(np.arange(40))), "4,611,686,018,427,387,904",
    ),
    "data lengths.npz": (
        npz(x=X, y=array(np.arange(40) % 3), group=array(np.arange(40)), length=array(np.full(40, 2**62))),
        "40 outside",
    ),
    "artifact deep header.safetensors": (
        artifact(described(f'"metrics":{{"a":{DEEP.decode()}}}')), "recursion limit",
    ),
    "artifact lists.safetensors": (
        artifact(described(f'"metrics":{{"a":{LISTS.decode()}}}')), "more than 300,000 parts",
    ),
    "artifact compressed.safetensors": (
        artifact(described(f'"metrics":{{"a":{LISTS.decode()}}}'), compressed=True), "more than 300,000 parts",
    ),
    "artifact unpacked header.safetensors": (artifact('"' + "a" * 70_000_000, compressed=True), "above 64 MiB"),
    "artifact long digits.safetensors": (
        artifact(described(f'"metrics":{{"a":{"9" * 10**6}}}')), "number out of range",
    ),
    "artifact faults.safetensors": (
        artifact({"version": 1, "layers": [0] * 250_000, "weights": []}), "250,000 of its values",
    ),
    "artifact dimensions.safetensors": (
        artifact(described('"storage":{"k":["int8","float32",[%s1]]}' % ("1048576," * 100_000))),
        "at most 64 items",
    ),
    "artifact packed.safetensors": (
        safetensors({
            "__metadata__": {"trcompress": described(
                '"storage":{"k":["int8","float32",[9000,9000]]},"packed":[["none",4]]'
            )},
            "trcompress.packed": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
        }), "does not hold the streams" ,
    ),
    "artifact expanded.safetensors": (
        safetensors({
            "__metadata__": {"trcompress": described(
                '"storage":{"k":["int8","float64",[64,800000]]},"packed":'
                + json.dumps([["bz2", len(one)] for one in ZEROS])
            )},
            "trcompress.packed": {
                "dtype": "U8", "shape": [len(b"".join(ZEROS))], "data_offsets": [0, len(b"".join(ZEROS))],
            },
        }, b"".join(ZEROS)), "claim to hold 409,600,000 bytes of values",
    ),
    "recipe depth.toml": (b"x = " + b"[" * 100_000, "is not TOML"),
    "recipe digits.toml": (b"x = " + DIGITS, "4300 digits"),
    "recipe count.toml": (b"x = [" + b"[]," * 300_000 + b"]", "x"),
    "recipe size.toml": (b"#" * 2**21, "under 1 MiB"),
    "result depth.json": (DEEP, "recursion limit"),
    "result count.json": (b'{"seeds":%s}' % LISTS, "parts"),
    "figures depth.json": (DEEP, "is not a result"),
    "figures count.json": (b'{"classes":%s}' % LISTS[:7_000_000], "is not a result"),
    "figures size.json": (b'{"model":"%s"}' % (b"a" * 17_000_000), "under 16 MiB"),
    "config depth.json": (DEEP, "nested too deep"),
    "config size.json": (b'{"a":"%s"}' % (b"a" * 2**25), "larger"),
    "marker depth.json": (DEEP, "READ set()"),
    "marker count.json": (b'{"layout":"ucf11","classes":11,"groups":999999999,"clips_per_group":99}', "READ set()"),
}  # fmt: skip


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What one child said of every file: name -> (megabytes it took, its size in megabytes, message)."""
    folder = tmp_path_factory.mktemp("readers")
    for title, (data, _) in TABLE.items():
        (folder / title).write_bytes(data)
    return read_in_a_child(folder, READERS)


@pytest.mark.parametrize("title", list(TABLE))
def test_no_reader_takes_more_than_its_file_allows(read, title):
    took, size, words = read[title]
    assert TABLE[title][1] in words
    assert took < 2 * size + FREE_MEGABYTES
    assert len(words) < 2000


def test_a_document_is_counted_in_a_time_linear_in_it():
    """Texts are not counted, and one that does not end is not begun again at every quote in it."""
    check_parts('{"a":"' + "[]," * 10**6 + '"}')
    check_parts('{"a":"' + '\\",' * 10**6)
    with pytest.raises(ValueError, match="more than 1,500,000 parts"):
        check_parts("[" + '"",' * 2_000_000 + "0]")
    assert read_json('{"a,b": ["[", 1]}') == {"a,b": ["[", 1]}
