"""int8 on top: onnxruntime's own dynamic quantizer over an ONNX file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from trcompress.errors import MissingExtraError, UsageError


def quantize_onnx(source: Path, out: Path) -> None:
    """Round the weights of MatMul, LSTM and Gather to int8; activations are rounded as they come.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        UsageError: the quantizer cannot follow the graph; its words are quoted.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingExtraError("int8 needs the extra: pip install 'trcompress[onnx]'") from error
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it asks for a preprocessing that these graphs do not need
    try:
        quantize_dynamic(_without_shapes(source), str(out), weight_type=QuantType.QInt8)
    except Exception as error:  # it raises what it likes
        raise UsageError(f"onnxruntime's quantizer cannot round this file: {error}; ship it unrounded") from error
    finally:
        logging.disable(before)


def _without_shapes(path: Path) -> Any:
    """Read a graph without the shapes its exporter noted inside: the quantizer infers its own.

    A Linear that became a Gemm is rounded transposed, which a noted shape would contradict.
    """
    import onnx

    model = onnx.load(str(path))
    del model.graph.value_info[:]
    return model
