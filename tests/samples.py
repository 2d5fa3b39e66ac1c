"""Where tests find real weights and sequences: `shared/samples` beside the checkout.

They are not part of the project. TRCOMPRESS_SAMPLES names another folder; a test that misses one skips visibly.
"""

import os
from pathlib import Path


def find_sample(name: str) -> Path | None:
    """Return the path of a sample file, or None where it is not at hand."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "samples"
    path = Path(os.environ.get("TRCOMPRESS_SAMPLES") or beside) / name
    return path if path.exists() else None


def sample(name: str) -> Path:
    """Return the path of a sample file for a test, or skip the test."""
    import pytest

    path = find_sample(name)
    if path is None:
        pytest.skip(f"sample {name} is not at hand; set TRCOMPRESS_SAMPLES to its folder")
    return path
