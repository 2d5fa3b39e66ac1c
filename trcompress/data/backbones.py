"""Networks that turn frames into feature vectors: what they have in common."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np

from trcompress.errors import InputFileError

# name -> (mean, deviation) of pixels in 0..255
NORMALIZATIONS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "signed": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "raw": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


class Backbone(Protocol):
    """A network over frames."""

    @property
    def name(self) -> str:
        """What notes call it."""

    @property
    def identity(self) -> str:
        """Hash of its files and settings, so that features of another network are never taken for its own."""

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) of its frames; None if it takes any."""

    def features(self, frames: np.ndarray) -> np.ndarray:
        """Map (N, height, width, 3) uint8 to (N, F) float32."""


def normalized(frames: np.ndarray, normalize: str) -> np.ndarray:
    """Return frames as (N, 3, height, width) float32, shifted and scaled as the network expects."""
    mean, deviation = (np.array(values, dtype=np.float32) for values in NORMALIZATIONS[normalize])
    return np.ascontiguousarray(((frames - mean) / deviation).transpose(0, 3, 1, 2))


def checked(output: np.ndarray, name: str) -> np.ndarray:
    """Average feature maps (N, F, h, w) over places, and check that features are finite vectors.

    Raises:
        InputFileError: they are not.
    """
    vectors = output.mean(axis=(2, 3)) if output.ndim == 4 else output
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise InputFileError(
            f"a backbone must give one finite vector per frame: {name} gave {output.shape} with "
            f"{int((~np.isfinite(output)).sum()):,} values NaN or infinite; check the export, or normalize"
        )
    return vectors.astype(np.float32)


def file_hash(path: Path, *settings: str) -> str:
    """Hash a file with its settings, and the sizes and times of the files that belong to it by name."""
    digest = hashlib.sha256(repr(settings).encode())
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    for beside in sorted(path.absolute().parent.glob(f"{path.stem}*")):
        if beside.name != path.name and beside.is_file():
            digest.update(repr((beside.name, beside.stat().st_size, beside.stat().st_mtime_ns)).encode())
    return digest.hexdigest()
