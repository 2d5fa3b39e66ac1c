"""Where outputs go: over each other, over what a command reads unasked, into folders of others, onto full disks."""

import os
import signal

import pytest
import test_outputs
from command import process, run
from test_outputs import FAST, WRITERS

from trcompress.data.frame_cache import open_cache
from trcompress.errors import OutputFileError
from trcompress.util.files import check_output
from trcompress.util.folders import work_folder

files, inputs = test_outputs.files, test_outputs.inputs
"""Fixtures: every kind of input; a copy of it for each test."""

SMALL = ("compress", "dense.safetensors", "--target-size", "2KB", "--calibrate", "data.npz", "--sidecar")
TUNE = ("finetune", "ring.safetensors", "--data", "data.npz", *FAST)
FULL_DISKS = WRITERS | {
    "expand to .pt": (["expand", "ring.safetensors", "-o", "OUT.pt"], ()),
    "export --int8": (["export", "ring.safetensors", "--int8", "--onnx", "OUT"], ()),
    "data make-clips": (
        ["data", "make-clips", "OUT", "--classes", 2, "--groups", 2, "--clips-per-group", 1, "--size", "64x48"],
        (),
    ),
    "reproduce": (["reproduce", "mine.toml", "--quick", "--out", "OUT"], ()),
    "demo": (["demo", "--out", "OUT"], ()),
}


@pytest.mark.parametrize("free", [0, 4096])
@pytest.mark.parametrize("verb", list(FULL_DISKS))
def test_a_full_disk_is_one_line_of_every_verb(inputs, disk, verb, free):
    """PyTorch's writers made errors of their own of it, or aborted the process."""
    filler = disk / "filler"
    filler.write_bytes(b"")
    os.posix_fallocate(os.open(filler, os.O_WRONLY), 0, os.statvfs(disk).f_bavail * 4096 - free)
    out = str(disk / "out.safetensors")
    done = run(
        *[word.replace("OUT", out) if isinstance(word, str) else word for word in FULL_DISKS[verb][0]], cwd=inputs
    )
    if done.code == 0:
        assert free
        return
    assert done.code == 2, done.stderr
    assert "No space left on device; free some space" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "error: " in line]) == 1
    left = set(os.listdir(disk)) - {"filler", "out.run"}  # of a training run, its log stays
    assert left <= ({"out.safetensors"} if verb in ("reproduce", "demo") else set())


# Outputs over each other, and over what is read unasked.


def test_an_export_does_not_replace_its_other_file(inputs):
    for other in ("out.bin", "./out.bin", inputs / "out.bin"):
        done = run("export", "ring.safetensors", "--onnx", "out.bin", "--torch-export", other, cwd=inputs)
        assert (done.code, "must name two files" in done.stderr) == (2, True), done.stderr
    assert not (inputs / "out.bin").exists()


def test_a_training_needs_a_name_for_each_of_its_files(inputs):
    done = run(*TUNE, "-o", "out.run", cwd=inputs)
    assert (done.code, "two of them are one; choose a name" in done.stderr) == (2, True), done.stderr
    assert run(*SMALL, "-o", "small.safetensors", cwd=inputs).code == 0
    done = run("finetune", "small.safetensors", *TUNE[2:], "-o", "out.metrics", cwd=inputs)
    assert (done.code, "two of them are one; choose a name" in done.stderr) == (2, True), done.stderr
    assert not list(inputs.glob("out.*"))


def test_a_sidecar_is_an_output_like_others(inputs):
    own = inputs / "small.safetensors.json"
    own.write_text("mine")
    done = run(*SMALL, "-o", "small.safetensors", cwd=inputs)
    assert (done.code, f"the output exists: {own.name}" in done.stderr) == (2, True), done.stderr
    assert (own.read_text(), (inputs / "small.safetensors").exists()) == ("mine", False)
    own.rename(inputs / "data.json")
    own.symlink_to(inputs / "data.npz")
    done = run(*SMALL, "-o", "small.safetensors", "--overwrite", cwd=inputs)
    assert (done.code, "must not replace the input" in done.stderr) == (2, True), done.stderr
    own.unlink()
    assert run(*SMALL, "-o", "small.safetensors", cwd=inputs).code == 0
    tuned = inputs / "small.tuned.safetensors.json"
    tuned.write_text("mine")
    done = run("finetune", "small.safetensors", *TUNE[2:], cwd=inputs)
    assert (done.code, "the output exists" in done.stderr, tuned.read_text()) == (2, True, "mine"), done.stderr


def test_what_a_report_finds_beside_an_artifact_is_an_input(inputs):
    assert run(*SMALL, "-o", "small.safetensors", cwd=inputs).code == 0
    assert run("finetune", "small.safetensors", *TUNE[2:], "-o", "tuned.safetensors", cwd=inputs).code == 0
    for name in ("tuned.metrics.json", "tuned.safetensors.json"):
        before = (inputs / name).read_bytes()
        for way in (name, "link.json"):
            if way != name:
                (inputs / way).unlink(missing_ok=True)
                (inputs / way).hardlink_to(inputs / name)
            done = run("report", "tuned.safetensors", "-o", way, "--overwrite", cwd=inputs)
            assert (done.code, "must not replace the input" in done.stderr) == (2, True), done.stderr
            assert (inputs / name).read_bytes() == before


# Folders that hold others' files.


def test_the_demo_and_a_recipe_replace_nothing_unasked(tmp_path):
    """Names such as ring.safetensors and recipe.toml are a user's too."""
    rehearse = ("reproduce", "synthetic-fig5", "--quick")
    cases = {"report.html": ("demo",), "ring.safetensors": ("demo",), "recipe.toml": rehearse, "own.csv": rehearse}
    for number, (name, words) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_text("mine")
        (folder / ".hidden").write_text("mine")
        done = run(*words, "--out", folder)
        assert (done.code, f"must be new or empty: {folder} holds {name}" in done.stderr) == (2, True), done.stderr
        assert {path.name: path.read_text() for path in folder.iterdir()} == {name: "mine", ".hidden": "mine"}


def test_a_folder_for_outputs_is_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for words in (("demo",), ("reproduce", "synthetic-fig5", "--quick")):
        for out in ("file", "file/in"):
            done = run(*words, "--out", tmp_path / out)
            assert done.code == 2, done.stderr
            assert "is a file" in done.stderr or "Not a directory" in done.stderr


def test_a_cache_clears_its_own_old_parts_alone(tmp_path):
    names = {"film.mkv.part": True, f"{'0a' * 16}.part": False, ".x.npz.trcompress.part": False, "part": True}
    for name in names:
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (1e9, 1e9))
    (tmp_path / "new.part").symlink_to("nowhere")
    open_cache(tmp_path)
    assert set(os.listdir(tmp_path)) == {name for name, stays in names.items() if stays} | {"new.part"}


def test_what_a_killed_run_left_to_work_in_is_cleared_by_the_next(inputs):
    left = inputs / ".out.onnx.trcompress.work"
    left.mkdir()
    (left / "plain.onnx").write_text("half")
    assert run("export", "ring.safetensors", "--onnx", "out.onnx", cwd=inputs).code == 0
    assert not list(inputs.glob(".*"))
    with (
        work_folder(inputs / "out.onnx"),
        pytest.raises(OutputFileError, match="another run"),
        work_folder(inputs / "out.onnx"),
    ):
        raise AssertionError


def test_training_after_compression_leaves_nothing_beside(inputs, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "trcompress.passes.trained.finetune", lambda start, *rest, **how: seen.extend(inputs.iterdir()) or 1 / 0
    )
    before = set(inputs.iterdir())
    words = ["--target-size", "2KB", "--calibrate", "data.npz", "--finetune", "more.npz", "-o", "out.safetensors"]
    with pytest.raises(ZeroDivisionError):
        run("compress", "dense.safetensors", *words, cwd=inputs)
    made = {path.name for path in set(seen) - before}
    assert made
    assert all(name.startswith(".") and ".trcompress." in name for name in made)
    assert set(inputs.iterdir()) == before


# Odd places.


def test_a_pipe_in_the_place_of_a_lock_holds_nobody_up(tmp_path):
    os.mkfifo(tmp_path / ".out.trcompress.lock")

    def ring(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(20)
    try:
        check_output(tmp_path / "out")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_name_that_safetensors_cannot_open_is_refused_before_the_work(inputs):
    for name in (b"a\xff.safetensors", b"\xfe/out.safetensors"):
        out = os.fsdecode(os.path.join(os.fsencode(inputs), name))
        os.makedirs(os.path.dirname(out), exist_ok=True)
        for words in ((*SMALL, "-o"), ("expand", "ring.safetensors", "-o"), ("report", "ring.safetensors", "-o")):
            done = run(*words, out, cwd=inputs)
            assert (done.code, "its name must be UTF-8" in done.stderr) == (2, True), done.stderr
        assert not os.path.exists(out)


def test_inputs_whose_names_are_no_text_are_told_in_escapes(inputs):
    """What was trained on such data could not be read back, at the end."""
    odd = os.fsdecode(b"a\xff.")
    for name in ("data.npz", "dense.safetensors"):
        (inputs / name).rename(inputs / f"{odd}{name}")
    data = ("--data", f"{odd}data.npz")
    assert run("finetune", "ring.safetensors", *data, *FAST, "-o", "out.safetensors", cwd=inputs).code == 0
    assert r"a\udcff.data.npz" in run("report", "out.safetensors", "-v", cwd=inputs).stdout
    told = run("evaluate", "out.safetensors", *data, "--format", "json", cwd=inputs)
    (inputs / "told.json").write_text(told.stdout)
    assert run("report", "out.safetensors", "--results", "told.json", cwd=inputs).code == 0
    small = ("compress", "ring.safetensors", "--target-size", "2KB", "--calibrate", f"{odd}data.npz", "--sidecar")
    assert run(*small, "-o", "small.safetensors", cwd=inputs).code == 0
    ring = ("--shape", "6x2:4x4", "--ranks", 2, "-o", "x.safetensors")
    assert run("decompose", f"{odd}dense.safetensors", *ring, cwd=inputs).code == 0
    assert run("report", "x.safetensors", "--baseline", f"{odd}dense.safetensors", cwd=inputs).code == 0


def test_a_folder_that_is_gone_is_no_bug(tmp_path):
    """The current folder may have been removed; every verb asked for its name."""
    done = process("recipe", "show", "synthetic-fig5", cwd=tmp_path, preexec_fn=_leave)
    assert (done.returncode, done.stderr) == (0, "")
    done = process("recipe", "validate", "mine.toml", cwd=tmp_path, preexec_fn=_leave)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr


def _leave():
    os.makedirs("gone")
    os.chdir("gone")
    os.rmdir("../gone")
