"""What earlier runs of a benchmark kept, figures and trained networks, so that a long one can run in pieces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trcompress.util.hardware import this_machine


def kept_figures(path: Path) -> dict[str, Any]:
    """Read what earlier runs on this machine wrote; nothing where there is no file.

    Args:
        path: a benchmark's JSON file, with its `machine`.

    Raises:
        SystemExit: the figures are another machine's; one page would give both out as of one machine.
    """
    if not path.exists():
        return {}
    record: dict[str, Any] = json.loads(path.read_text())
    if record["machine"] != this_machine().model_dump(mode="json"):
        raise SystemExit(
            f"{path} holds figures of another machine ({record['machine']['cpu']}): give another --out or "
            "remove it to measure all parts here"
        )
    return record


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
