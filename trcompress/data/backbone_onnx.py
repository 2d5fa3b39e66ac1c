"""Any CNN exported to ONNX as a backbone, run by onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trcompress.data.backbones import checked, file_hash, normalized
from trcompress.errors import InputFileError, MissingExtraError

_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


@dataclass(frozen=True)
class OnnxBackbone:
    """A CNN in ONNX whose first output is the feature vector; see `Backbone`.

    Args:
        name, identity, size: see `Backbone`.
        input_name: of its only input.
        channels_last: it takes (N, H, W, 3) instead of (N, 3, H, W).
        batch: the only batch size that it takes; None if it takes any.
        dtype: of its input; uint8 images are given as they are.
        normalize: a key of `NORMALIZATIONS`.
        session: of onnxruntime.
    """

    name: str
    identity: str
    size: tuple[int, int] | None
    input_name: str
    channels_last: bool
    batch: int | None
    dtype: str
    normalize: str
    session: Any = field(repr=False)

    def features(self, frames: np.ndarray) -> np.ndarray:
        """Map (N, height, width, 3) uint8 to (N, F) float32."""
        images = normalized(frames, "raw" if self.dtype == "uint8" else self.normalize).astype(self.dtype)
        if self.channels_last:
            images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        step = self.batch or len(images)
        parts = [self._run(images[start : start + step], step) for start in range(0, len(images), step)]
        return checked(np.concatenate(parts), self.name)

    def _run(self, images: np.ndarray, batch: int) -> np.ndarray:
        """Run one batch, filled up with zeros; feature maps are returned channels first."""
        count = len(images)
        filled = np.zeros((batch, *images.shape[1:]), dtype=images.dtype)
        filled[:count] = images
        try:
            output = np.asarray(self.session.run(None, {self.input_name: filled})[0])
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise InputFileError(f"{self.name} cannot run on images of shape {filled.shape}: {error}") from error
        maps = output.transpose(0, 3, 1, 2) if self.channels_last and output.ndim == 4 else output
        return maps[:count]


def open_onnx(path: Path, normalize: str) -> OnnxBackbone:
    """Open a model that has one input of images.

    Raises:
        InputFileError: the file is missing, is not ONNX, or takes something else.
        MissingExtraError: onnxruntime is not installed.
    """
    if not path.is_file():
        raise InputFileError(f"no such backbone: {path}")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("ONNX backbones need onnxruntime: run `pip install trcompress[onnx]`") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    providers = [name for name in _PROVIDERS if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise InputFileError(f"{path} is not an ONNX model that onnxruntime can run: {error}") from error
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    if len(shape) != 4 or 3 not in (shape[1], shape[3]) or inputs[0].type not in _TYPES:
        found = ", ".join(f"{item.name} {item.type} {item.shape}" for item in inputs)
        raise InputFileError(
            f"a backbone must have one input of images, (N, 3, H, W) or (N, H, W, 3): {path} has {found}; "
            "export the CNN alone"
        )
    last = shape[1] != 3
    height, width = shape[1:3] if last else shape[2:]
    return OnnxBackbone(
        name=path.name,
        identity=file_hash(path, normalize),
        size=(width, height) if isinstance(width, int) and isinstance(height, int) else None,
        input_name=inputs[0].name,
        channels_last=last,
        batch=shape[0] if isinstance(shape[0], int) else None,
        dtype=_TYPES[inputs[0].type],
        normalize=normalize,
        session=session,
    )
