"""Writing: all or nothing, and never over something the user wants to keep."""

import os
import stat
import subprocess
import sys

import pytest

from trcompress.errors import OutputFileError
from trcompress.util.files import atomic_path, check_output, write_text


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "model.safetensors"
    target.write_text("old")

    def crash():
        with atomic_path(target) as temporary:
            temporary.write_text("half of the new")
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        crash()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_written_files_have_ordinary_permissions(tmp_path):
    write_text(tmp_path / "a.json", "{}")
    (tmp_path / "plain").write_text("")
    mode = stat.S_IMODE((tmp_path / "a.json").stat().st_mode)
    assert mode == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_output_is_refused_before_the_work(tmp_path):
    source = tmp_path / "model.pt"
    source.write_text("x")
    with pytest.raises(OutputFileError, match="the output exists"):
        check_output(source)
    with pytest.raises(OutputFileError, match="must not replace the input"):
        check_output(source, overwrite=True, keep=(source,))
    with pytest.raises(OutputFileError, match="is a folder"):
        check_output(tmp_path)
    with pytest.raises(OutputFileError, match="folder must exist"):
        check_output(tmp_path / "missing" / "out.safetensors")
    assert check_output(source, overwrite=True) == source


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_a_clear_error(tmp_path):
    code = """
import sys
from trcompress.util.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    with open("/dev/full", "w") as full:
        full.write("x" * 100000)
"""
    target = tmp_path / "out.json"
    target.write_text("old")
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=False)
    assert "OutputFileError" in done.stderr
    assert "No space left on device; free some space" in done.stderr
    assert target.read_text() == "old"
