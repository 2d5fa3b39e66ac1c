"""Where benchmarks find real weights and sequences: TRCOMPRESS_SAMPLES, or `shared/samples` beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path


def find_sample(name: str) -> Path | None:
    """Return the path of a sample file, or None where it is not at hand."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "samples"
    path = Path(os.environ.get("TRCOMPRESS_SAMPLES") or beside) / name
    return path if path.exists() else None
