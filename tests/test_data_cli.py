"""`trcompress data make-clips` and `trcompress data extract`, end to end."""

import subprocess
import sys

import pytest
from command import run as trcompress

from trcompress.data import load_data

SMALL = ["--classes", "2", "--groups", "3", "--clips-per-group", "1", "--frames", "6", "--size", "64x48"]


def run(*arguments, code=0):
    done = trcompress("data", *arguments)
    assert done.code == code, done.stderr
    return done


def test_help_has_examples_and_imports_no_torch():
    for arguments in ([], ["make-clips"], ["extract"]):
        text = run(*arguments, "--help").stdout
        assert "Example: trcompress data" in text
    code = (
        "import sys; from click.testing import CliRunner; from trcompress.cli.data import data; "
        "CliRunner().invoke(data, ['extract', '--help']); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize("layout", ["ucf11", "hmdb51"])
def test_clips_are_made_and_load(tmp_path, layout):
    pytest.importorskip("av", reason="needs the extra [video]")
    found = run("make-clips", tmp_path / "tree", "--layout", layout, *SMALL, "--format", "json")
    made = found.json
    assert (made["clips"], made["layout"], made["classes"]) == (6, layout, ["right", "left"])
    assert len(load_data(tmp_path / "tree", cache_dir=tmp_path / "cache", workers=0).test) >= 2
    run("make-clips", tmp_path / "tree", *SMALL, code=2)
    run("make-clips", tmp_path / "tree", *SMALL, "--overwrite")


def test_a_dry_run_makes_nothing(tmp_path):
    found = run("make-clips", tmp_path / "tree", *SMALL, "--dry-run")
    assert found.stdout.strip() == "would render 6 clips"
    assert not (tmp_path / "tree").exists()


def test_features_are_extracted_from_made_clips(tmp_path):
    pytest.importorskip("av", reason="needs the extra [video]")
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    from test_data_features import TinyCNN, export

    export(TinyCNN(), tmp_path / "tiny.onnx", (1, 3, 24, 32))
    run("make-clips", tmp_path / "tree", "--layout", "hmdb51", *SMALL)
    common = [tmp_path / "tree", "--backbone", tmp_path / "tiny.onnx", "-o", tmp_path / "f.npz"]
    planned = run("extract", *common, "--dry-run", "--format", "json").json
    assert (planned["clips"], planned["layout"]) == (6, "hmdb51")
    assert not (tmp_path / "f.npz").exists()
    found = run("extract", *common, "--frames", 3, "--cache-dir", tmp_path / "cache", "--workers", 0)
    assert found.stdout.strip().endswith("6 clips x 3 frames x 5 features")
    assert "note: features of procedural clips" in found.stderr
    assert load_data(tmp_path / "f.npz").split_note == "official split 1"


def test_sizes_are_read_or_refused():
    refused = run("make-clips", "x", "--size", "big", code=2)
    assert "must be WIDTHxHEIGHT, such as 320x240: got 'big'" in refused.stderr
