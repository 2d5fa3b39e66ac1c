"""Full, limited, read-only and foreign file systems: one line, exit code 2, and what was there stays."""

import errno
import os
import resource
import subprocess

import pytest
import torch
from command import process, run
from safetensors.torch import save_file
from torch import nn

from trcompress.cli.faults import machine_fault
from trcompress.errors import MissingExtraError

SHAPE = ("--shape", "16x16:16x8", "--ranks", 12)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    path = tmp_path_factory.mktemp("disks") / "dense.safetensors"
    torch.manual_seed(0)
    save_file({f"rnn.{key}": value for key, value in nn.LSTM(256, 128).state_dict().items()}, path)
    return path


def command(dense, out):
    """The command that must not get through."""
    return ["decompose", dense, *SHAPE, "-o", out, "--overwrite"]


def test_a_full_disk_keeps_what_is_there(dense, disk):
    out = disk / "out.safetensors"
    out.write_text("old")
    done = run(*command(dense, out))
    assert (done.code, "No space left on device; free some space" in done.stderr) == (2, True), done.stderr
    assert out.read_text() == "old"
    assert os.listdir(disk) == ["out.safetensors"]


def test_a_read_only_disk_is_told_before_the_work(dense, disk):
    (disk / "out.safetensors").write_text("old")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = run(*command(dense, disk / "out.safetensors"))
    assert done.code == 2
    assert "must be writable" in done.stderr or "Read-only file system" in done.stderr
    assert "off" not in done.stdout
    assert (disk / "out.safetensors").read_text() == "old"


def test_a_link_to_another_file_system_is_written_through_there(dense, disk, tmp_path):
    subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
    (disk / "target").write_text("old")
    link = tmp_path / "link.safetensors"
    link.symlink_to(disk / "target")
    assert run(*command(dense, link)).code == 0
    assert link.is_symlink()
    assert (disk / "target").stat().st_size > 100_000
    assert os.listdir(disk) == ["target"]


@pytest.mark.parametrize("limit", [0, 1_000, 100_000])
def test_a_limit_on_file_size_is_one_line(dense, tmp_path, limit):
    """As a quota is: the write fails in the middle."""
    out = tmp_path / "out.safetensors"
    out.write_text("old")

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = process(*command(dense, out), preexec_fn=limited)
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "File too large; free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert out.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.safetensors"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told_before_the_work(dense, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    done = run(*command(dense, tmp_path / "closed" / "out.safetensors"))
    assert (done.code, "must be writable" in done.stderr) == (2, True)


def test_little_memory_is_one_line(dense, tmp_path):
    """The limit leaves room for the program, and none for a network of this size."""
    wide = tmp_path / "wide.safetensors"
    save_file(nn.LSTM(8192, 1024, bias=False).state_dict(), wide)

    def limited():
        resource.setrlimit(resource.RLIMIT_DATA, (420 << 20, 420 << 20))

    words = ("decompose", wide, "--shape", "64x128:32x32", "--ranks", 40, "-o", tmp_path / "out.safetensors")
    done = process(*words, preexec_fn=limited)
    assert done.returncode == 2, done.stderr[-500:]
    assert "not enough memory" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["wide.safetensors"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
        RuntimeError("can't start new thread"),
        RuntimeError("could not create a primitive"),
        ImportError("_generator.so: failed to map segment from shared object"),
        SystemError("error return without exception set"),
    ],
    ids=str,
)
def test_every_way_to_say_that_memory_is_short_is_known(error):
    told, code = machine_fault(error)
    assert code == 2
    assert told.startswith("not enough memory for this")


def test_an_error_is_told_when_not_even_its_wording_can_be_loaded(monkeypatch):
    def short(text):
        raise MemoryError

    monkeypatch.setattr("trcompress.cli.console.spelled", short)
    done = run("inspect", "missing.pt")
    assert (done.code, done.stderr.startswith("error: no such file: missing.pt")) == (3, True), done.stderr


def test_an_extra_that_does_not_fit_in_memory_is_not_called_missing(monkeypatch):
    def short(*_, **__):
        try:
            raise ImportError("onnx_cpp2py_export.so: failed to map segment from shared object")
        except ImportError as error:
            raise MissingExtraError("ONNX files need the extra") from error

    monkeypatch.setattr("trcompress.deploy.export.export", short)
    done = run("export", "missing.pt", "--onnx", "out.onnx")
    assert (done.code, "not enough memory for this" in done.stderr) == (2, True), done.stderr
