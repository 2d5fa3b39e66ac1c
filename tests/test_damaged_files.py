"""Truncated and damaged checkpoints, and files that are none: one clear line each."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from containers import GOOD
from hostile import STATE
from safetensors.torch import save_file
from torch import nn

from trcompress.checkpoint import inspect, read_checkpoint
from trcompress.errors import InputFileError


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
