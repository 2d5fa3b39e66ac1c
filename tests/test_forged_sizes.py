"""Forged sizes cost neither memory nor time: what a file claims is bounded before it is spent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from forged import ARCHIVES, PICKLES, SAFETENSORS, pickled_zip
from hostile import STATE

from trcompress.checkpoint import read_checkpoint
from trcompress.errors import InputFileError


@pytest.mark.parametrize("name", SAFETENSORS)
def test_forged_safetensors(name, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(SAFETENSORS[name])
    with pytest.raises(InputFileError) as caught:
        read_checkpoint(tmp_path / "model.safetensors")
    assert caught.value.exit_code == 3
    assert len(str(caught.value)) < 600


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
