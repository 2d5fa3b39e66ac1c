"""Networks that a benchmark has trained, kept in a folder, so that a long one can run in pieces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


class Kept:
    """Files of trained networks.

    Args:
        folder: where they are; made if it is not there.
        most: networks to train in this process; 0 for all.
    """

    def __init__(self, folder: Path, most: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._most, self._trained = folder, most, 0

    def path(self, name: str) -> Path:
        """Where the file of a network is, or will be."""
        return self.folder / f"{name}.safetensors"

    def made(self, name: str, train: Callable[[Path], object]) -> Path:
        """Return the file of a network; train it where it is not there yet.

        Args:
            name: of the network.
            train: called with the path to write.

        Raises:
            SystemExit: enough was trained for now.
        """
        path = self.path(name)
        if not path.exists():
            if self._most and self._trained >= self._most:
                raise SystemExit(f"{path} is still to be trained: run again to go on")
            train(path)
            self._trained += 1
        return path
