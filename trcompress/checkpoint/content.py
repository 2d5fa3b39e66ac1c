"""What a file, or several files that are one checkpoint, hold: unjudged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FileContent:
    """What a checkpoint holds, unjudged.

    Args:
        path: the file; of several, the index or the folder.
        format: "torch-zip", "torch-legacy", "safetensors", "npz", "pickle", "npy", "torch-distributed", or one of
            these with "-shards".
        root: dicts, lists, `Instance`s and tensors that are still in the file.
        metadata: of a safetensors file.
        notes: what a user should know of how it was read.
        files: every file that was read, `path` first.
    """

    path: Path
    format: str
    root: Any
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
