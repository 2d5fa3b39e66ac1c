"""Video trees: clips are found, divided, decoded by several processes, cached, and left out where they are bad."""

import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from command import run as trcompress
from safetensors.torch import save_file
from video_cases import SETTINGS, counting_frames, cut, noisy_frames, numbers

from trcompress.data import decode_pool, find_clips, load_data, make_clips
from trcompress.data.decode import UnreadableClipError
from trcompress.data.decode_pool import DecodeJob, decode_all
from trcompress.data.encode import encode_clip
from trcompress.data.frame_cache import read_entry
from trcompress.errors import InputFileError, MissingExtraError, OutputFileError, UsageError

pytest.importorskip("av", reason="needs the extra [video]")


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """A small tree of each layout."""
    folder = tmp_path_factory.mktemp("trees")
    same = {"classes": 3, "groups": 6, "clips_per_group": 1, "frames": 12, "size": (64, 48)}
    return {layout: make_clips(folder / layout, layout, **same).root for layout in ("ucf11", "hmdb51")}


@pytest.fixture
def options(tmp_path):
    return {"cache_dir": tmp_path / "cache", "workers": 0, "size": "32x24", "frames": 3, "candidates": 6}


@pytest.fixture
def damaged(trees, tmp_path):
    """A copy of the UCF11 tree with a truncated clip and one of random bytes."""
    root = tmp_path / "damaged"
    shutil.copytree(trees["ucf11"], root)
    first, second = sorted(root.glob("*/*/*.mpg"))[:2]
    encode_clip(first, noisy_frames(12))
    cut(first, first, first.stat().st_size * 6 // 10)
    second.write_bytes(np.random.default_rng(0).bytes(20_000))
    return root, first.name, second.name


def test_ucf11_is_divided_by_group(trees, options):
    data = load_data(trees["ucf11"], **options)
    assert (data.input_size, data.steps, data.classes) == (32 * 24 * 3, 3, ("left", "right", "up"))
    assert data.name == "procedural clips (ucf11)"
    assert data.split_note == "by group: 1 of 6 groups are test only (4)"
    assert sum(len(part) for part in data.splits.values()) == 18
    assert not set(data.test.groups) & (set(data.train.groups) | set(data.validation.groups))
    named = load_data(trees["ucf11"], test_groups="2,5", **options)
    assert sorted(set(named.test.groups)) == ["2", "5"]


def test_the_originals_own_folders_are_understood(trees, tmp_path, options):
    """UCF11 unpacks to one folder, with Annotation beside the groups and other files about."""
    inner = tmp_path / "UCF11_updated_mpg"
    shutil.copytree(trees["ucf11"], inner)
    (inner / "procedural_clips.json").unlink()
    (inner / "left" / "Annotation").mkdir()
    (inner / "left" / "Annotation" / "v_left_01_01.mpg").write_bytes(b"not a clip")
    (inner / "left" / "v_left_01" / "notes.txt").write_text("nor this")
    (inner / "left" / "v_left_01" / "._v_left_01_01.mpg").write_bytes(b"nor this")
    tree = find_clips(tmp_path)
    assert (tree.layout, len(tree.clips), tree.name) == ("ucf11", 18, "UCF11_updated_mpg")
    assert {clip.group for clip in tree.clips} == {"1", "2", "3", "4", "5", "6"}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_hmdb51_follows_its_official_lists(trees, options, number):
    data = load_data(trees["hmdb51"], split_number=number, **options)
    assert data.split_note == f"official split {number}"
    listed = set()
    for path in trees["hmdb51"].glob(f"*_test_split{number}.txt"):
        kind = path.name.removesuffix(f"_test_split{number}.txt")
        listed |= {f"{kind}/{line.split()[0]}" for line in path.read_text().splitlines() if line.split()[1] == "2"}
    found = {data.test.source.clips[row].name for row in data.test.rows}
    assert found == listed
    assert len(found) == 6
    assert not set(data.train.groups) & set(data.validation.groups)


def test_hmdb51_lists_may_lie_elsewhere_and_leave_clips_out(trees, tmp_path, options):
    root = tmp_path / "hmdb51_org"
    shutil.copytree(trees["hmdb51"], root)
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    for path in root.glob("*.txt"):
        text = path.read_text()
        lines = text.splitlines(keepends=True)
        (lists / path.name).write_text("".join([lines[0].replace(" 1 ", " 0 ").replace(" 2 ", " 0 "), *lines[1:]]))
        path.unlink()
    data = load_data(root, **options)
    assert sum(len(part) for part in data.splits.values()) == 15
    assert "3 clips are in neither part of official split 1" in data.notes
    (lists / "up_test_split1.txt").unlink()
    with pytest.raises(InputFileError, match=r"up_test_split1\.txt is missing"):
        load_data(root, **options)
    shutil.rmtree(lists)
    with pytest.raises(UsageError, match="split_dir, or ask for split=group"):
        load_data(root, **options)
    assert load_data(root, split="group", **options).split_note.startswith("by group")


def test_listed_clips_that_are_missing_count_as_bad(trees, tmp_path, options):
    root = tmp_path / "hmdb"
    shutil.copytree(trees["hmdb51"], root)
    gone = sorted(root.glob("up/*.avi"))[0]
    gone.unlink()
    with pytest.raises(InputFileError, match=r"1 of 17 clips .* is in the official lists"):
        load_data(root, **options)
    assert gone.name in " ".join(load_data(root, max_bad_clips=1, **options).notes)


def test_lines_of_a_list_are_checked(trees, tmp_path, options):
    root = tmp_path / "hmdb"
    shutil.copytree(trees["hmdb51"], root)
    (root / "up_test_split1.txt").write_text("a.avi 1\nb.avi 3\n")
    with pytest.raises(InputFileError, match=r"line 2 must be .*got 'b\.avi 3'"):
        load_data(root, **options)


def test_bad_clips_are_named_counted_and_left_out(damaged, options):
    root, truncated, junk = damaged
    with pytest.raises(InputFileError, match=r"2 of 18 clips .* max_bad_clips is 0") as caught:
        load_data(root, **options)
    assert f"{truncated} is cut short" in str(caught.value)
    assert f"{junk} cannot be decoded" in str(caught.value)
    with pytest.raises(InputFileError, match="max_bad_clips is 1"):
        load_data(root, max_bad_clips=1, **options)
    data = load_data(root, max_bad_clips=2, **options)
    assert sum(len(part) for part in data.splits.values()) == 16
    note = next(note for note in data.notes if note.startswith("2 clips were left out"))
    assert truncated in note
    assert junk in note


def test_the_command_leaves_out_as_many_bad_clips_as_it_was_told(damaged, tmp_path, monkeypatch):
    root, truncated, junk = damaged
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    lstm, head = torch.nn.LSTM(32 * 24 * 3, 4), torch.nn.Linear(4, 3)
    tensors = {f"rnn.{key}": value for key, value in lstm.state_dict().items()}
    save_file(
        tensors | {f"fc.{key}": value for key, value in head.state_dict().items()}, tmp_path / "m.safetensors"
    )
    words = ["evaluate", tmp_path / "m.safetensors", "--data", root, "--data-option", "size=32x24"]

    def run(*more):
        return trcompress(*words, *more)

    refused = run()
    assert refused.code == 3
    assert truncated in refused.stderr
    assert run("--max-bad-clips", 1).code == 3
    allowed = run("--max-bad-clips", 2)
    assert allowed.code == 0, allowed.stderr
    assert junk in allowed.stdout + allowed.stderr
    assert run("--max-bad-clips", 2, "--data-option", "max_bad_clips=2").code == 2


def test_cut_clips_can_be_kept_and_are_named(damaged, options):
    root, truncated, _ = damaged
    data = load_data(root, max_bad_clips=1, keep_cut=True, **options)
    assert sum(len(part) for part in data.splits.values()) == 17
    assert f"1 clips are cut short and were kept: left/v_left_01/{truncated}" in data.notes


def test_a_tree_of_bad_clips_is_never_data(trees, tmp_path, options):
    for path in (tmp_path / "tree/a/g_01/x.mpg", tmp_path / "tree/b/g_02/y.mpg"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"junk")
    with pytest.raises(InputFileError, match="2 of 2 clips"):
        load_data(tmp_path / "tree", max_bad_clips=99, **options)


def test_training_frames_are_random_and_test_frames_even(trees, options):
    train = load_data(trees["ucf11"], **options).train
    even = train.batch([0])[0]
    assert even.shape == (1, 3, 32 * 24 * 3)
    assert 0 <= even.min() < even.max() <= 1
    drawn = [train.batch([0], rng=np.random.default_rng(seed))[0] for seed in range(6)]
    assert len({x.sum().item() for x in drawn}) > 1
    assert (train.batch([0])[0] == even).all()


def test_pixels_are_flattened_in_the_order_asked_for(trees, options):
    rows = load_data(trees["ucf11"], **options).train.batch([4])[0]
    columns = load_data(trees["ucf11"], pixel_order="columns", **options).train.batch([4])[0]
    picture = rows.reshape(3, 24, 32, 3)
    assert (picture.permute(0, 2, 1, 3).reshape(1, 3, -1) == columns).all()
    assert not (rows == columns).all()


def test_the_cache_is_used_and_mended(trees, options, monkeypatch):
    first = load_data(trees["ucf11"], **options).train.batch([0, 1])[0]
    files = sorted((options["cache_dir"] / "frames").iterdir())
    assert len(files) == 18
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "av", None)  # nothing may be decoded again
        assert (load_data(trees["ucf11"], **options).train.batch([0, 1])[0] == first).all()
    for damage, path in enumerate(files):
        content = bytearray(path.read_bytes())
        if damage % 3 == 0:
            content[-5] ^= 0xFF  # noticed by its check sum when it is first used
        path.write_bytes(bytes(content) if damage % 3 < 2 else bytes(content[:50]))
    mended = load_data(trees["ucf11"], **options)
    assert (mended.train.batch([0, 1])[0] == first).all()
    mended.train.batch(range(len(mended.train)))
    for path in files:
        path.unlink()
    assert (mended.train.batch([0, 1])[0] == first).all()


def test_changed_clips_and_settings_are_decoded_anew(trees, tmp_path, options):
    root = tmp_path / "tree"
    shutil.copytree(trees["ucf11"], root)
    before = load_data(root, **options)
    clip = before.train.source.clips[before.train.rows[0]]
    encode_clip(clip.path, counting_frames(12))
    after = load_data(root, **options)
    assert not (after.train.batch([0])[0] == before.train.batch([0])[0]).all()
    assert numbers(after.train.source.pixels(int(after.train.rows[0]), None)) == [3, 7, 11]
    assert load_data(root, **(options | {"size": "16x8"})).input_size == 16 * 8 * 3


def test_a_pool_of_processes_gives_what_one_process_gives(trees, options, tmp_path):
    alone = load_data(trees["ucf11"], **options)
    pooled = load_data(trees["ucf11"], **(options | {"workers": 2, "cache_dir": tmp_path / "other"}))
    assert (alone.train.batch(range(5))[0] == pooled.train.batch(range(5))[0]).all()
    assert not list((tmp_path / "other" / "frames").glob("*.part"))


def test_a_pool_names_bad_clips_and_reports_progress(damaged, options):
    root, truncated, junk = damaged
    seen = []
    data = load_data(root, max_bad_clips=2, progress=lambda *done: seen.append(done), **(options | {"workers": 2}))
    assert truncated in " ".join(data.notes)
    assert junk in " ".join(data.notes)
    assert seen[-1] == (18, 18, "decoding clips")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.kill(os.getpid(), 9)", r"ended its decoding process \(code -9\)"),
        ("time.sleep(60)", "within clip_timeout_s"),
    ],
)
def test_a_decoder_that_dies_or_hangs_costs_one_clip(tmp_path, monkeypatch, body, message):
    """The first request kills or stalls its worker; the next one gets a new worker."""
    encode_clip(tmp_path / "good.mpg", counting_frames(8))
    code = (
        "import sys, os, time; sys.path.append(sys.argv[1]); import trcompress.data.decode_worker as w; "
        "real = w.answer\n"
        "def answer(request):\n"
        f"    if 'bad' in request['clip']: {body}\n"
        "    return real(request)\n"
        "w.answer = answer; w.main()"
    )
    monkeypatch.setattr(decode_pool, "_START", code)
    jobs = [DecodeJob(tmp_path / name, tmp_path / f"{name}.frames") for name in ("bad.mpg", "good.mpg")]
    timeout = 5.0 if "sleep" in body else 60.0
    results = dict(decode_all(jobs, SETTINGS, 1, timeout))
    assert results[jobs[1]] == ""
    assert read_entry(jobs[1].target, SETTINGS) is not None
    with pytest.raises(UnreadableClipError, match=message):
        raise UnreadableClipError(results[jobs[0]])


def test_stopping_early_leaves_no_process_and_no_part(tmp_path):
    encode_clip(tmp_path / "a.mpg", counting_frames(30))
    jobs = [DecodeJob(tmp_path / "a.mpg", tmp_path / f"{k}.frames") for k in range(40)]
    results = decode_all(jobs, SETTINGS, 2, 60.0)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if "_work" in thread.name]
    assert not list(tmp_path.glob("*.part"))
    assert len(list(tmp_path.glob("*.frames"))) < 40


@pytest.mark.skipif(os.name != "posix", reason="needs process groups")
def test_ctrl_c_ends_all_processes_and_leaves_no_part(tmp_path):
    first = tmp_path / "tree" / "a" / "g_01" / "0.mpg"
    first.parent.mkdir(parents=True)
    encode_clip(first, np.repeat(noisy_frames(20, (320, 240)), 10, axis=0))
    for number in range(1, 30):
        shutil.copy(first, first.with_name(f"{number}.mpg"))
    code = (
        "import sys; from trcompress.data import load_data; "
        "load_data(sys.argv[1], workers=2, split='none', cache_dir=sys.argv[2], "
        "progress=lambda *done: print(done, flush=True))"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "tree"), str(tmp_path / "cache")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert run.stdout.readline()
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=30)
    assert b"KeyboardInterrupt" in errors
    assert errors.count(b"Traceback") == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)
    done = list((tmp_path / "cache" / "frames").iterdir())
    assert 0 < len(done) < 30
    assert {path.suffix for path in done} == {".frames"}


def test_a_full_disk_is_told(trees, options, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(OutputFileError, match="has 1,000 free; lower candidates"):
        load_data(trees["ucf11"], **options)


def test_sizes_are_bounded(trees, options):
    with pytest.raises(UsageError, match="max_cache_bytes = 1,000"):
        load_data(trees["ucf11"], max_cache_bytes=1000, **options)
    with pytest.raises(UsageError, match="the frames of one clip must fit"):
        load_data(trees["ucf11"], **(options | {"size": "2048x2048", "candidates": 4096}))


def test_folders_without_clips_are_explained(tmp_path, options):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputFileError, match="class/group/clip"):
        load_data(tmp_path / "empty", **options)


def test_both_layouts_at_once_need_a_choice(trees, tmp_path):
    shutil.copytree(trees["ucf11"], tmp_path / "mixed")
    shutil.copytree(trees["hmdb51"] / "up", tmp_path / "mixed" / "extra")
    with pytest.raises(InputFileError, match="layout=ucf11 or hmdb51"):
        find_clips(tmp_path / "mixed")
    assert find_clips(tmp_path / "mixed", "hmdb51").classes == ("extra",)


def test_video_without_pyav_names_the_extra(trees, options, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install trcompress\[video\]"):
        load_data(trees["ucf11"], **options)


def test_importing_the_data_package_is_cheap():
    code = (
        "import sys, trcompress.data.decode_worker, trcompress.data.load; print({'av', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
