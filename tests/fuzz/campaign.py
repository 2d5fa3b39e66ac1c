"""One input of a campaign: which file, how it is damaged, what is done with it; all told by two numbers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from fuzz.mutations import mutate
from fuzz.targets import attempt

# target -> share of the inputs
SHARES = {
    "checkpoint": 34,
    "artifact": 24,
    "array": 12,
    "recipe": 10,
    "index": 8,
    "video": 4,
    "list": 2,
    "state": 3,
    "result": 3,
}

Files = Mapping[str, list[Path]]


def files_of(shelf: Path) -> Files:
    """Return the whole files of a shelf by target."""
    return {name: sorted(path for path in (shelf / name).iterdir() if path.is_file()) for name in SHARES}


def one_input(number: int, seed: int, shelf: Path, scratch: Path) -> tuple[str, Path]:
    """Make a damaged file; returns its target and its path."""
    files = files_of(shelf)
    rng = random.Random(f"{seed}/{number}")
    targets = [name for name in SHARES if files[name]]
    target = rng.choices(targets, [SHARES[name] for name in targets])[0]
    source = rng.choice(files[target])
    folder = shelf / "shards" if target == "index" else scratch / target  # an index lies beside its shards
    folder.mkdir(exist_ok=True)
    path = folder / source.name
    path.write_bytes(mutate(source.read_bytes(), source.suffix, rng))
    return target, path


def run_input(number: int, seed: int, shelf: Path, scratch: Path) -> tuple[str, str]:
    """Make one damaged file and try it; returns its target and how it went.

    Raises:
        FindingError: see `attempt`.
    """
    target, path = one_input(number, seed, shelf, scratch)
    return target, attempt(target, path, shelf, random.Random(f"{seed}/{number}/verb"), scratch)
