"""What every runner is given beside its recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trcompress.util.progress import Progress


def silent(what: str, share: float) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Context:
    """Where a run writes and whom it tells.

    Args:
        folder: of this run's files; it exists.
        progress: told what is being done.
    """

    folder: Path
    progress: Progress = silent
