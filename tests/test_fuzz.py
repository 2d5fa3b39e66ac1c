"""3,000 damaged files through every reader and printer, the same ones each time; `tests/fuzz/run.py` tries more."""

from pathlib import Path
from random import Random

import pytest
from fuzz.campaign import SHARES, files_of, run_input
from fuzz.corpus import make
from fuzz.targets import CODES, LIBRARY, attempt, verbs

FOUND = Path(__file__).parent / "fuzz" / "found"
SEED, INPUTS, PIECES = 15, 3_000, 10


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "shelf"
    make(folder)
    return folder


@pytest.mark.parametrize("piece", range(PIECES))
def test_damaged_files_are_read_or_refused(shelf, tmp_path, piece):
    seen = set()
    for number in range(piece, INPUTS, PIECES):
        target, what = run_input(number, SEED, shelf, tmp_path)
        assert what in CODES.values(), f"input {number} of seed {SEED}"
        seen.add(target)
    assert len(seen) >= len(SHARES) - 2  # two kinds need a decoder of videos


@pytest.mark.parametrize("target", [name for name in SHARES if name not in (*LIBRARY, "index")])
def test_whole_files_are_read(shelf, tmp_path, target):
    """Damage is only worth counting where the same commands read what is whole."""
    for path in files_of(shelf)[target]:
        told = {attempt(target, path, shelf, Random(number), tmp_path) for number in range(20)}
        assert CODES[0] in told, path.name


@pytest.mark.parametrize("path", sorted(FOUND.iterdir()), ids=lambda path: path.name)
def test_what_was_found_once_stays_mended(shelf, tmp_path, path):
    """Every command that the target of a file has; the first part of its name is the target."""
    target = path.name.partition("-")[0]
    place = tmp_path / path.name
    place.write_bytes(path.read_bytes())
    tries = 1 if target in LIBRARY else 8 * len(verbs(target, place, shelf, Random(0), tmp_path / "out"))
    for number in range(tries):
        assert attempt(target, place, shelf, Random(number), tmp_path) in CODES.values()
