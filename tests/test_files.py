"""Writing: all or nothing, and never over something the user wants to keep."""

import json
import os
import socket
import stat
import subprocess
import sys

import pytest

from trcompress.errors import OutputFileError
from trcompress.util.claims import claims_last
from trcompress.util.files import atomic_path, check_output, write_text
from trcompress.util.folders import atomic_folder
from trcompress.util.inputs import inputs_noted, note_input


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


def test_a_file_replaced_keeps_its_permissions(tmp_path):
    target = tmp_path / "private.json"
    target.write_text("old")
    target.chmod(0o600)
    write_text(target, "new")
    assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == ("new", 0o600)


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
    assert os.listdir(tmp_path) == ["model.pt"]


# An output is never an input, by whatever way it is reached.


def same_file(source, way):
    """Another name of a file: by its own path, another spelling, a link, a hard link, or a link to its folder."""
    folder = source.parent
    if way == "itself":
        return source
    if way == "spelled otherwise":
        return folder / "." / ".." / folder.name / source.name
    if way == "in another case":
        return folder / source.name.upper()
    other = folder / "other"
    if way == "a link":
        other.symlink_to(source)
    elif way == "a link to a link":
        (folder / "between").symlink_to(source)
        other.symlink_to(folder / "between")
    elif way == "a hard link":
        other.hardlink_to(source)
    else:
        other.symlink_to(folder, target_is_directory=True)
        return other / source.name
    return other


WAYS = (
    "itself",
    "spelled otherwise",
    "in another case",
    "a link",
    "a link to a link",
    "a hard link",
    "a link to the folder",
)


@pytest.fixture(params=["a file", "a file in a folder", "a shard of an index"])
def source(request, tmp_path):
    """An input, and what names it on a command line."""
    path = tmp_path / "in" / "weights-00001-of-00002.safetensors"
    path.parent.mkdir()
    path.write_text("precious")
    if request.param == "a file":
        return path, path
    if request.param == "a file in a folder":
        return path, tmp_path / "in"
    index = tmp_path / "in" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"rnn.weight_ih_l0": path.name}}))
    return path, index


@pytest.mark.parametrize("way", WAYS)
def test_an_output_is_never_an_input(source, way):
    path, named = source
    out = same_file(path, way)
    if way == "in another case" and named.is_dir():
        check_output(out, overwrite=True, keep=[named])  # a new name in the folder harms no file of it
        assert path.read_text() == "precious"
        return
    with pytest.raises(OutputFileError, match="must not replace the input"):
        check_output(out, overwrite=True, keep=[named])
    with inputs_noted():
        note_input(named)
        with pytest.raises(OutputFileError, match="must not replace the input"):
            write_text(out, "new")
    assert path.read_text() == "precious"
    write_text(tmp := path.parent / "new", "x")
    assert tmp.read_text() == "x"


def test_what_a_command_wrote_itself_it_may_write_again(tmp_path):
    with inputs_noted():
        write_text(tmp_path / "a", "1")
        note_input(tmp_path / "a")
        write_text(tmp_path / "a", "2")
    assert (tmp_path / "a").read_text() == "2"


@pytest.mark.parametrize(
    "content", ["[1", "{}", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 99_999]
)
def test_an_index_that_is_none_guards_itself_alone(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    check_output(tmp_path / "out", keep=[tmp_path / "x.json", None, "package.module:factory", "no\0name"])
    with pytest.raises(OutputFileError, match="must not replace the input"):
        check_output(tmp_path / "x.json", overwrite=True, keep=[tmp_path / "x.json"])


# Outputs that are no ordinary files.


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pipe", "is a pipe"),
        ("socket", "is a socket"),
        ("device", "is a device"),
        ("loop", "link that leads to no"),
    ],
)
def test_what_is_no_regular_file_is_refused_and_stays(tmp_path, kind, message):
    path = tmp_path / "out"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/null")
    else:
        path.symlink_to(path)
    before = os.lstat(path)
    for attempt in (lambda: check_output(path, overwrite=True), lambda: write_text(path, "x")):
        with pytest.raises(OutputFileError, match=message):
            attempt()
    assert os.lstat(path) == before
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.listdir(tmp_path) == ["out"]


def test_a_link_is_written_through_and_a_dangling_one_refused(tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    link.symlink_to(target)
    for attempt in (lambda: check_output(link), lambda: write_text(link, "x")):
        with pytest.raises(OutputFileError, match=r"a link that leads to no file: .*link -> .*target"):
            attempt()
    target.write_text("old")
    with pytest.raises(OutputFileError, match="the output exists"):
        check_output(link)
    write_text(check_output(link, overwrite=True), "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert os.listdir(tmp_path / "far") == ["target"]


def test_a_hard_link_of_no_input_leaves_the_other_name_alone(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    write_text(tmp_path / "b", "new")
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x" * 250])
def test_names_that_cannot_be(tmp_path, name):
    if len(name) == 250:  # long, but the name of its own temporary file need not be longer
        write_text(tmp_path / name, "x")
        assert os.listdir(tmp_path) == [name]
        return
    for attempt in (lambda: check_output(tmp_path / name), lambda: write_text(tmp_path / name, "x")):
        with pytest.raises(OutputFileError, match=r"cannot write|too long|null"):
            attempt()
    assert os.listdir(tmp_path) == []


# Killed runs and second writers.

WRITER = """
import os, sys, time
from trcompress.util.claims import claims_last
from trcompress.util.files import atomic_path, check_output
with claims_last():
    check_output(sys.argv[1], overwrite=True)
    print("claimed", flush=True)
    sys.stdin.readline()
    with atomic_path(sys.argv[1]) as part:
        part.write_text("half")
        print("writing", flush=True)
        sys.stdin.readline()
        part.write_text("whole")
"""


@pytest.fixture
def writer(tmp_path):
    """Another process that claims `out`, and goes on a step with every line."""
    started = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path / "out"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout.readline() == "claimed\n"
    yield started
    started.kill()
    started.communicate()


def go_on(process):
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_of_two_writers_one_wins_and_the_other_says_so(writer, tmp_path):
    refused = "another run is writing .*out now; wait until it is done"
    with pytest.raises(OutputFileError, match=refused):
        check_output(tmp_path / "out", overwrite=True)
    assert go_on(writer) == "writing\n"
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for attempt in (lambda: check_output(tmp_path / "out"), lambda: write_text(tmp_path / "out", "other")):
        with pytest.raises(OutputFileError, match=refused):
            attempt()
    assert go_on(writer) == ""
    assert writer.wait() == 0
    assert (tmp_path / "out").read_text() == "whole"
    assert sorted(os.listdir(tmp_path)) == ["link", "out"]
    write_text(tmp_path / "link", "other")
    assert (tmp_path / "out").read_text() == "other"


def test_the_next_run_clears_up_after_a_killed_one_and_touches_nothing_else(writer, tmp_path):
    assert go_on(writer) == "writing\n"
    others = [".out.part", ".out.1234.part", ".other.trcompress.part", ".out.trcompress.part.mine", "out.part"]
    for name in others:
        (tmp_path / name).write_text("someone else's")
    writer.kill()
    writer.wait()
    left = {".out.trcompress.lock", ".out.trcompress.part"}
    assert set(os.listdir(tmp_path)) == left | set(others)
    check_output(tmp_path / "out")
    assert set(os.listdir(tmp_path)) == set(others)
    write_text(tmp_path / "out", "new")
    assert set(os.listdir(tmp_path)) == {"out"} | set(others)
    assert {(tmp_path / name).read_text() for name in others} == {"someone else's"}


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    target = tmp_path / "out"

    def write():
        with atomic_path(target, overwrite=False) as part:
            part.write_text("mine")
            target.write_text("another program's")

    with pytest.raises(OutputFileError, match="appeared while this run worked"):
        write()
    assert target.read_text() == "another program's"
    assert os.listdir(tmp_path) == ["out"]


def test_two_threads_do_not_write_one_file(tmp_path):
    with atomic_path(tmp_path / "out") as part:
        part.write_text("first")
        with pytest.raises(OutputFileError, match="another run is writing"):
            write_text(tmp_path / "out", "second")
    assert (tmp_path / "out").read_text() == "first"


def test_claims_end_with_the_command(tmp_path):
    with claims_last():
        check_output(tmp_path / "out")
        assert os.listdir(tmp_path) == [".out.trcompress.lock"]
        check_output(tmp_path / "out")
    assert os.listdir(tmp_path) == []


# Whole folders.


def test_a_folder_appears_when_it_is_complete(tmp_path):
    out = tmp_path / "tree"
    out.mkdir()
    (out / "old").write_text("old")

    def fill(fails):
        with atomic_folder(out, lambda there: None) as folder:
            (folder / "new").write_text("new")
            assert os.listdir(out) == ["old"]
            if fails:
                raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        fill(fails=True)
    assert (os.listdir(tmp_path), os.listdir(out)) == (["tree"], ["old"])
    fill(fails=False)
    assert (os.listdir(tmp_path), os.listdir(out)) == (["tree"], ["new"])


def test_a_folder_put_aside_by_a_killed_run_comes_back(tmp_path):
    for name in (".tree.trcompress.old", ".tree.trcompress.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name[-4:]).write_text("x")

    def refuse(there):
        raise OutputFileError(f"{there} is kept")

    with pytest.raises(OutputFileError, match="is kept"), atomic_folder(tmp_path / "tree", refuse):
        raise AssertionError
    assert os.listdir(tmp_path) == ["tree"]
    assert os.listdir(tmp_path / "tree") == [".old"]


def test_a_folder_is_refused_where_it_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, message in (
        ("file", "is a file"),
        ("link", "leads nowhere"),
        ("file/in", "Not a directory|File exists"),
    ):
        with (
            pytest.raises(OutputFileError, match=message),
            atomic_folder(tmp_path / name, lambda there: None),
        ):
            raise AssertionError
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


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
