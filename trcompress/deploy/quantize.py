"""int8 on top: onnxruntime's own dynamic quantizer over an ONNX file."""

from __future__ import annotations

import logging
from pathlib import Path

from trcompress.errors import MissingExtraError


def quantize_onnx(source: Path, out: Path) -> None:
    """Round the weights of MatMul, LSTM and Gather to int8; activations are rounded as they come.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingExtraError("int8 needs the extra: pip install 'trcompress[onnx]'") from error
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it asks for a preprocessing that these graphs do not need
    try:
        quantize_dynamic(str(source), str(out), weight_type=QuantType.QInt8)
    finally:
        logging.disable(before)
