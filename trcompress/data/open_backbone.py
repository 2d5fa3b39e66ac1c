"""A backbone by what a user types for it; onnxruntime and torchvision load only when named."""

from __future__ import annotations

from pathlib import Path

from trcompress.data.backbones import NORMALIZATIONS, Backbone
from trcompress.errors import UsageError, nearest


def open_backbone(backbone: str | Path, weights: str | Path | None, normalize: str) -> Backbone:
    """Open a backbone by what a user types for it.

    Args:
        backbone: a .onnx file, or `torchvision:NAME`.
        weights: the state dict for torchvision's; nothing is ever downloaded.
        normalize: a key of `NORMALIZATIONS`: how the network was trained to see pixels.

    Raises:
        UsageError: neither kind, or weights are missing or superfluous.
        InputFileError: a file is missing, damaged or not such a network.
        MissingExtraError: onnxruntime or torchvision is not installed.
    """
    if normalize not in NORMALIZATIONS:
        known = ", ".join(NORMALIZATIONS)
        raise UsageError(
            f"normalize must be one of {known}: got {normalize!r}{nearest(normalize, tuple(NORMALIZATIONS))}"
        )
    kind, colon, name = str(backbone).partition(":")
    if colon and kind == "torchvision":
        from trcompress.data.backbone_torchvision import open_torchvision

        return open_torchvision(name, weights, normalize)
    if not str(backbone).lower().endswith(".onnx"):
        raise UsageError(f"a backbone must be a .onnx file or torchvision:NAME: got {str(backbone)!r}")
    if weights is not None:
        raise UsageError(f"{backbone} has its weights in it: leave the weights out")
    from trcompress.data.backbone_onnx import open_onnx

    return open_onnx(Path(backbone), normalize)
