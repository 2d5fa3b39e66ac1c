"""Pickles that are small in a file and would be large, slow or endless in memory are refused in their proportion.

Each file took minutes, or gigabytes, before its kind was counted. A child reads all of them with bounded memory and
says how much each took; steps of the reader are what it is refused after, so that no clock is needed.
"""

import io
import struct
import zipfile

import pytest
from reading_child import read_in_a_child

COUNT = 100_000
COLLIDING = 2**61 - 1  # Python's whole numbers hash modulo this: its multiples all hash to 0
FREE_MEGABYTES = 200

READERS = """
from trcompress.checkpoint import read_checkpoint as read
from trcompress.errors import InputFileError as Refusal
"""


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def put(index):
    return b"r" + struct.pack("<I", index)


def get(index):
    return b"j" + struct.pack("<I", index)


def text(words):
    data = words.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(data)]) + data


def module(children, parameters=b"}"):
    state = text("_parameters") + parameters + text("_modules") + children + text("_buffers") + b"}"
    return name("my", "Net") + b")\x81}(" + state + b"ub"


def nested(layers, first, make):
    """A part that holds the one before it twice, and so on: 2^layers parts."""
    return first + put(0) + b"".join(make(get(k)) + put(k + 1) for k in range(layers))


LIST = b"](" + b"N" * COUNT + b"e" + put(0)
ANY = name("torch", "any")
DICT = b"}(" + b"".join(b"J" + struct.pack("<i", k) + b"N" for k in range(COUNT)) + b"u" + put(0)
TUPLE = b"(" + b"N" * COUNT + b"t" + put(0)
STORAGE = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x04tQ"
TENSOR = name("torch._utils", "_rebuild_tensor_v2") + b"(" + STORAGE + b"K\x00K\x04\x85K\x01\x85\x89}tR"
LONG = text("k" * 190)
BYTES = text("a" * 400)  # as Python 2 pickled an array's values
ARRAY = (
    name("numpy.core.multiarray", "_reconstruct") + b")R(K\x01K\x64\x85" + name("numpy", "dtype")
    + text("f4") + b"\x85R\x89" + get(0) + b"tb"
)  # fmt: skip

PICKLES = {
    "copies of a list": (LIST + name("builtins", "set") + put(1) + (get(1) + get(0) + b"\x85R") * COUNT, "memory"),
    "copies of a dict": (DICT + name("builtins", "dict") + put(1) + (get(1) + get(0) + b"\x85R") * COUNT, "memory"),
    "copies of arguments": (TUPLE + ANY + put(1) + (get(1) + get(0) + b"}\x92") * COUNT, "memory"),
    "copies of a state": (DICT + ANY + put(1) + (get(1) + b")\x81" + get(0) + b"b") * COUNT, "memory"),
    "dicts alone": (b"}" * 3_000_000, "memory"),
    "objects alone": (ANY + put(0) + (get(0) + b")\x81") * 1_000_000, "memory"),
    "marks alone": (b"(" * 4_000_000, "memory"),
    "one tuple as the key of many": (TUPLE + b"}(" + (get(0) + b"N") * COUNT + b"u", "uses a tuple as the key"),
    "keys that collide": (
        b"}(" + b"".join(number(k * COLLIDING) + b"N" for k in range(COUNT)) + b"u", "as the key",
    ),
    "parts whose numbers collide": (
        b"N" + b"".join(b"p%d\n" % (k * COLLIDING) for k in range(COUNT)), "numbers a part",
    ),
    "a large dict in a million places": (
        DICT + b"](" + get(0) * 1000 + b"e" + put(1) + b"](" + get(1) * 1000 + b"e", "parts",
    ),
    "a tensor in a million places": (
        TENSOR + put(0) + b"](" + get(0) * 1000 + b"e" + put(1) + b"](" + get(1) * 1000 + b"e",
        "over 100,000 tensors",
    ),
    "paths of 12,000 characters": (
        nested(60, TENSOR, lambda one: b"}(" + LONG + one + text("b") + one + text("p") + b"Nu"), "characters",
    ),
    "modules of 12,000 characters": (
        TENSOR + put(99) + nested(
            60, module(b"}", b"}" + text("w") + get(99) + b"s"),
            lambda one: module(b"}(" + LONG + one + text("b") + one + b"u"),
        ), "characters",
    ),
    "an array of 100,000 dimensions": (
        name("numpy.core.multiarray", "_reconstruct") + b")R(K\x01(" + b"K\x02" * 100_000 + b"t"
        + name("numpy", "dtype") + text("f4") + b"\x85R\x89" + text("") + b"tb", "100,000 dimensions",
    ),
    "a text of 4 bytes a character": (text("a" * 50_000_000 + "\N{GRINNING FACE}"), "a text of 50,000,004 bytes"),
    "a text that ends far away": (b"X" + struct.pack("<I", 2**32 - 16), "a text of 4,294,967,280 bytes"),
    "bytes that end far away": (b"\x8e" + struct.pack("<Q", 2**60), "expected 1152921504606846976 bytes"),
}  # fmt: skip


def zipped(pickle, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("m/data.pkl", pickle)
        archive.writestr("m/data/0", bytes(16))
    return stream.getvalue()


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What one child said of every file: name -> (megabytes it took, its size in megabytes, message)."""
    folder = tmp_path_factory.mktemp("pickles")
    for title, (body, _) in PICKLES.items():
        (folder / title).write_bytes(zipped(b"\x80\x02" + body + b"."))
    bomb = b"\x80\x02" + text("a" * 300_000_000) + b"."
    (folder / "a bomb").write_bytes(zipped(bomb, zipfile.ZIP_DEFLATED))
    return read_in_a_child(folder, READERS)


@pytest.mark.parametrize("title", [*PICKLES, "a bomb"])
def test_small_pickles_are_refused_in_their_proportion(read, title):
    took, size, words = read[title]
    wanted = PICKLES[title][1] if title in PICKLES else "declares 300,000,008 bytes; at most 33,554,432 are read"
    assert wanted in words
    assert took < 2 * size + FREE_MEGABYTES
    assert len(words) < 1000
