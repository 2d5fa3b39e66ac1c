"""The demo keeps what it promises, on the data it ships."""

import json
from importlib.resources import files

import numpy as np
import pytest
from command import run

from trcompress.data.clip_arrays import clip_arrays


def test_the_shipped_clips_are_what_the_renderer_makes():
    made = clip_arrays()
    with np.load(str(files("trcompress.recipes") / "motion_clips.npz"), allow_pickle=False) as shipped:
        assert set(shipped) == set(made)
        for name, values in made.items():
            if name.startswith("x_"):  # a last bit of a cosine may move a pixel by one shade
                moved = np.abs(shipped[name].astype(int) - values)
                assert moved.max() <= 17
                assert (moved > 0).mean() < 1e-3
            else:
                assert np.array_equal(shipped[name], values)


def test_no_look_is_on_both_sides():
    made = clip_arrays(size=(16, 12), classes=3, groups=8)
    assert not set(made["group_train"]) & set(made["group_test"])
    assert sorted(set(made["y_test"])) == sorted(set(made["y_train"]))


@pytest.mark.parametrize("options", [{"classes": 1}, {"classes": 99}, {"groups": 4, "test_share": 1.0}])
def test_clips_that_cannot_be(options):
    with pytest.raises(ValueError, match="groups to train and to test on"):
        clip_arrays(**options)


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    done = run("demo", "--out", tmp_path)
    assert done.code == 2
    assert "must be new or empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_thirty_times_smaller_and_no_worse(tmp_path):
    done = run("demo", "--out", tmp_path / "demo")
    assert done.code == 0, done.stderr
    report = run("report", "ring.tuned.safetensors", "--format", "json", cwd=tmp_path / "demo").json
    dense = tmp_path / "demo" / "motion_clips_lstm.safetensors"
    assert dense.stat().st_size >= 30 * report["file_bytes_after"]
    right = {role: round(one["accuracy"] * one["sequences"]) for role, one in report["evaluations"].items()}
    assert right["compressed"] >= right["dense"] - 1
    assert right["decomposed"] < right["compressed"]
    svd = json.loads((tmp_path / "demo" / "svd.tuned.metrics.json").read_text())
    assert svd["metrics"]["accuracy_after"] < report["metrics"]["accuracy_after"]
    assert "clips right" in done.stdout
    assert (tmp_path / "demo" / "report.html").stat().st_size > 50_000
