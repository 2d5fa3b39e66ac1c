"""The package as a stranger gets it: what a wheel holds, how fast --help answers."""

import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def built(kind: str, folder: Path) -> Path:
    """Build a "wheel" or an "sdist" into an empty folder; returns its file."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = folder.iterdir()
    return file


def tracked():
    """Files of the repository; none where there is no git, as in an unpacked distribution."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def test_help_does_not_import_torch():
    code = """
import sys
sys.argv = ["trcompress", "--help"]
from trcompress.cli.main import main
try:
    main()
finally:
    heavy = {"torch", "numpy", "rich", "pydantic"} & set(sys.modules)
    print("heavy:", sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    assert "decompose" in done.stdout
    assert "heavy: []" in done.stdout


def test_every_public_name_resolves_and_is_documented():
    import trcompress

    for name in trcompress.__all__:
        assert (getattr(trcompress, name).__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        getattr(trcompress, "nonsense")  # noqa: B009 - attribute access is what is tested


@pytest.mark.slow
def test_wheel_has_one_top_level_name(tmp_path):
    names = zipfile.ZipFile(built("wheel", tmp_path)).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"trcompress"}
    assert {"trcompress/cli/main.py", "trcompress/recipes/__init__.py", "trcompress/py.typed"} <= set(names)
    on_disk = {
        f"trcompress/{path.relative_to(ROOT / 'trcompress')}" for path in (ROOT / "trcompress").rglob("*.py")
    }
    assert on_disk <= set(names)


@pytest.mark.slow
def test_the_tests_collect_from_an_unpacked_sdist(tmp_path):
    with tarfile.open(built("sdist", tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "pytest",
            "--collect-only",
            "-qq",
            "-m",
            "slow or not slow",
            "-p",
            "no:cacheprovider",
        ],
        cwd=unpacked,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    collected = {line.partition(":")[0] for line in done.stdout.splitlines() if line.startswith("tests/")}
    assert collected == {f"tests/{path.name}" for path in (ROOT / "tests").glob("test_*.py")}
    lacking = [name for name in tracked() if not (unpacked / name).exists()]
    assert not lacking, "MANIFEST.in leaves them out"


def test_the_metadata_says_what_an_index_shows():
    found = metadata("trcompress")
    assert found["Summary"]
    assert found["License-Expression"] or found["License"]
    assert len(found["Keywords"].split(",")) >= 5
    assert {"Typing :: Typed", "Intended Audience :: Developers"} <= set(found.get_all("Classifier"))
    assert not re.search(r"\]\((?!https?://|#)", found.get_payload()), "links of the README must work elsewhere"
