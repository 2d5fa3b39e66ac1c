"""torchvision's CNNs as backbones, without their classifier, with weights from a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trcompress.data.backbones import checked, file_hash, normalized
from trcompress.errors import InputFileError, MissingExtraError, UsageError, nearest

_HEADS = ("fc", "classifier", "heads", "head")
_SIZES = {"inception_v3": (299, 299)}
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.", "aux_classifier.")


@dataclass(frozen=True)
class TorchvisionBackbone:
    """A torchvision model whose classifier was taken off; see `Backbone`.

    Args:
        name, identity, size: see `Backbone`.
        normalize: a key of `NORMALIZATIONS`.
        model: in evaluation mode.
    """

    name: str
    identity: str
    size: tuple[int, int]
    normalize: str
    model: Any = field(repr=False)

    def features(self, frames: np.ndarray) -> np.ndarray:
        """Map (N, height, width, 3) uint8 to (N, F) float32."""
        import torch

        with torch.inference_mode():
            output = self.model(torch.from_numpy(normalized(frames, self.normalize)))
        return checked(output.numpy(), self.name)


def open_torchvision(name: str, weights: str | Path | None, normalize: str) -> TorchvisionBackbone:
    """Build a torchvision model and load its weights.

    Raises:
        MissingExtraError: torchvision is not installed.
        UsageError: there is no such model, or no weights were given.
        InputFileError: the weights cannot be read safely, or are another model's.
    """
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingExtraError(
            "torchvision backbones need torchvision: run `pip install torchvision` in the version that fits your "
            "torch, or export the CNN to ONNX and name the file"
        ) from error
    if weights is None:
        raise UsageError(
            f"torchvision:{name} needs its weights in a file (nothing is downloaded); give `weights=FILE`"
        )
    try:
        model = models.get_model(name, weights=None)
    except ValueError as error:
        raise UsageError(f"torchvision has no model {name!r}{nearest(name, models.list_models())}") from error
    _load_weights(model, Path(weights), name)
    if hasattr(model, "transform_input"):
        model.transform_input = True  # Inception and GoogLeNet take ImageNet's normalisation back themselves
    return TorchvisionBackbone(
        name=f"torchvision:{name}",
        identity=file_hash(Path(weights), name, normalize),
        size=_SIZES.get(name, (224, 224)),
        normalize=normalize,
        model=model.eval(),
    )


def _load_weights(model: Any, path: Path, name: str) -> None:
    """Take the classifier off and load the rest: every other weight must be there and fit."""
    import torch

    head = next((part for part in _HEADS if hasattr(model, part)), None)
    if head is None:
        raise UsageError(f"torchvision:{name} has no classifier to take off; export its features to ONNX instead")
    setattr(model, head, torch.nn.Identity())
    ignored = (f"{head}.", *_AUXILIARY)
    state = {key: value for key, value in _read_state(path).items() if not key.startswith(ignored)}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputFileError(f"{path} does not fit torchvision:{name}: {error}; give its own weights") from error
    missing = [key for key in missing if not key.startswith(ignored)]
    if missing or unexpected:
        raise InputFileError(
            f"{path} must hold the weights of torchvision:{name}: {len(missing)} are missing ({missing[:2]} ...), "
            f"{len(unexpected)} are others' ({unexpected[:2]} ...); give its own weights"
        )


def _read_state(path: Path) -> dict[str, Any]:
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputFileError(f"no such file of weights: {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputFileError(f"{path} cannot be read safely as weights: {reason}; save its state_dict") from error
    if not isinstance(state, dict):
        raise InputFileError(f"{path} must hold a state dict: got {type(state).__name__}; save model.state_dict()")
    return state
