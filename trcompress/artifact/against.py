"""An artifact held against the dense checkpoint itself: sizes, identity, and today's error of every weight."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from trcompress.artifact.file import Artifact
from trcompress.checkpoint import Checkpoint, read_checkpoint
from trcompress.errors import InputFileError


@dataclass(frozen=True)
class Against:
    """What a comparison with the dense checkpoint tells.

    Args:
        file: the checkpoint.
        is_the_source: whether it is, byte for byte, the file that was compressed.
        file_bytes: of the file.
        tensor_bytes: of the model tensors in it.
        parameters: values in it.
        errors: of every compressed weight, relative to the dense one; None where the dense weight is all zero and
            the cores are not.
        weight_bytes: of every compressed weight in the checkpoint.
    """

    file: str
    is_the_source: bool
    file_bytes: int
    tensor_bytes: int
    parameters: int
    errors: dict[str, float | None]
    weight_bytes: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without those that stand with each weight."""
        return {name: value for name, value in asdict(self).items() if name not in ("errors", "weight_bytes")}


def measure_against(artifact: Artifact, baseline: str | Path | Checkpoint) -> Against:
    """Compare an artifact with a dense checkpoint.

    Raises:
        InputFileError: the checkpoint cannot be read, or lacks a weight that was compressed, or its size differs.
    """
    checkpoint = baseline if isinstance(baseline, Checkpoint) else read_checkpoint(baseline)
    errors, weight_bytes = {}, {}
    for name, plan in artifact.weight_plans().items():
        dense = checkpoint.tensor(name)
        weight_bytes[name] = dense.nbytes
        rebuilt = plan.to_dense([core.double() for core in artifact.cores(name)])
        if artifact.header.original.get(name, tuple(rebuilt.shape)) != tuple(dense.shape):
            raise InputFileError(
                f"{checkpoint.path} is not the dense model of this artifact: its {name} is {tuple(dense.shape)}, "
                f"the artifact's {tuple(rebuilt.shape)}; name the checkpoint that was compressed"
            )
        errors[name] = _relative_error(dense.double(), rebuilt)
    source = artifact.header.source
    repeated = {key for group in checkpoint.shared for key in group[1:]}
    return Against(
        file=str(checkpoint.path),
        is_the_source=source is not None and checkpoint.sha256 == source.sha256,
        file_bytes=checkpoint.size_bytes,
        tensor_bytes=checkpoint.tensor_bytes,
        parameters=sum(prod(shape) for key, shape in checkpoint.shapes.items() if key not in repeated),
        errors=errors,
        weight_bytes=weight_bytes,
    )


def _relative_error(dense: Tensor, rebuilt: Tensor) -> float | None:
    """||W - W'|| / ||W||; of a zero weight 0 if it was met, else None; None of other sizes."""
    if dense.shape != rebuilt.shape:
        return None
    if not dense.count_nonzero():
        return None if rebuilt.count_nonzero() else 0.0
    scale = dense.abs().max()  # squares of float64 may vanish or overflow
    return float(((dense - rebuilt) / scale).norm() / (dense / scale).norm())
