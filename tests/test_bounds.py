"""Small files that would take minutes, gigabytes or endless lines are refused in their proportion, by name."""

import json
import struct
import subprocess
import sys

import pytest
from command import run

from trcompress.checkpoint.stored import contiguous_stride
from trcompress.errors import InputFileError
from trcompress.model.header import parse_header
from trcompress.reproduce.recipe import read_recipe

MEGABYTES = 400

IN_LITTLE_MEMORY = f"""
import resource, sys
from trcompress.cli.main import main
import trcompress.reproduce.recipe, torch
size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, ((size << 10) + ({MEGABYTES} << 20),) * 2)
main()
"""


def safetensors_of(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def recipe_with(tmp_path, more):
    assert run("recipe", "copy", "synthetic-fig5", tmp_path / "mine.toml").code == 0
    with (tmp_path / "mine.toml").open("a") as stream:
        stream.write(more)
    return tmp_path / "mine.toml"


FILES = {
    "too many tensors": (
        "many.safetensors",
        safetensors_of({f"k{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(120_000)}),
        "lists 120,000 tensors; at most 100,000 are read",
    ),
    "a key of 50,000 parts": ("key.toml", b"\n" + b".".join([b"a"] * 50_000) + b" = 1\n", "more than 32 parts"),
    "a table of 50,000 quoted parts": (
        "table.toml", b"\n[" + b" . ".join([b'"a b"'] * 50_000) + b"]\n", "more than 32 parts",
    ),
    "lists 100,000 deep": ("deep.toml", b"\nx = " + b"[" * 100_000, "is not TOML"),
    "a tensor of 200,000 dimensions": (
        "dims.safetensors",
        safetensors_of({"k": {"dtype": "F32", "shape": [1] * 200_000, "data_offsets": [0, 4]}}, bytes(4)),
        "200,000 dimensions; at most 64 are read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FILES))
def test_small_files_are_refused_in_little_memory(tmp_path, name):
    """Keys and dimensions took memory and time in the square of their number: 4 GB, 126 s, for less than 1 MB."""
    file, data, words = FILES[name]
    (tmp_path / file).write_bytes(data)
    verb = ("recipe", "validate") if file.endswith("toml") else ("inspect",)
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, *verb, tmp_path / file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr[-500:]
    assert words in done.stderr
    assert len(done.stderr) < 1000


def test_names_of_any_length_are_told_in_short(tmp_path):
    key = "x" * 5_000_000
    with pytest.raises(InputFileError) as told:
        parse_header(json.dumps({key: 1}))
    assert len(str(told.value)) < 2000
    (tmp_path / "long.safetensors").write_bytes(
        safetensors_of(
            {"__metadata__": {"trcompress": json.dumps({key: 1})},
             "k": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4),
        )
    )  # fmt: skip
    done = run("report", tmp_path / "long.safetensors")
    assert (done.code, len(done.stderr) < 2000) == (3, True)


def test_the_faults_of_a_recipe_are_counted_and_not_all_told(tmp_path):
    path = recipe_with(tmp_path, "\n" + "\n".join(f"unknown_{number} = 1" for number in range(5000)))
    with pytest.raises(InputFileError) as told:
        read_recipe(path)
    lines = str(told.value).splitlines()
    assert len(lines) < 200
    assert any("more" in line for line in lines)


def test_what_an_error_says_ends_somewhere(tmp_path):
    name = "a" * 60_000
    done = run("recipe", "validate", name)
    assert done.code in (2, 3)
    assert len(done.stderr) < 11_000


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (5, 0, 7), (1,) * 64])
def test_strides_are_those_of_a_row_major_array(shape):
    expected = []
    for k in range(len(shape)):
        inner = 1
        for size in shape[k + 1 :]:
            inner *= size
        expected.append(inner)
    assert contiguous_stride(shape) == tuple(expected)
