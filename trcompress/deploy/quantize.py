"""int8 on top: onnxruntime's own dynamic quantizer over an ONNX file."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np

from trcompress.errors import MissingExtraError, UsageError

FLOAT = 1
"""onnx.TensorProto.FLOAT, the type of all that is exported."""


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
        options = {"DefaultTensorType": FLOAT}  # of what its own inference of types does not follow
        quantize_dynamic(_readable(source), str(out), weight_type=QuantType.QInt8, extra_options=options)
    except OSError:
        raise
    except Exception as error:  # it raises what it likes
        raise UsageError(f"onnxruntime's quantizer cannot round this file: {error}; ship it unrounded") from error
    finally:
        logging.disable(before)


def _readable(path: Path) -> Any:
    """Read a graph as the quantizer can follow it: no Gemm, no shapes that its exporter noted inside.

    By itself it turns each Gemm into a MatMul and transposes the weight in place, which the noted shapes
    contradict, and the next Gemm of the same weight, as of a cell that steps through time.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    weights = {one.name: one for one in graph.initializer}
    nodes = [
        new for node in graph.node for new in (_matmul_of(node, weights) if node.op_type == "Gemm" else [node])
    ]
    used = {name for node in nodes for name in node.input}
    kept = [one for name, one in weights.items() if name in used or f"{name}.T" not in weights]
    for field, values in ((graph.value_info, []), (graph.node, nodes), (graph.initializer, kept)):
        copied = [copy.deepcopy(one) for one in values]
        del field[:]
        field.extend(copied)
    return model


def _matmul_of(gemm: Any, weights: dict[str, Any]) -> list[Any]:
    """Write A B' + C as MatMul and Add; the transposed weight is added to `weights`, once."""
    import onnx

    given = {one.name: onnx.helper.get_attribute_value(one) for one in gemm.attribute}
    plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0 and not given.get("transA")
    weight = gemm.input[1]
    if not (plain and given.get("transB") and weight in weights):
        return [gemm]
    turned, product = f"{weight}.T", f"{gemm.output[0]}.product"
    if turned not in weights:
        value = onnx.numpy_helper.to_array(weights[weight]).T
        weights[turned] = onnx.numpy_helper.from_array(np.ascontiguousarray(value), turned)
    biased = len(gemm.input) > 2
    nodes = [onnx.helper.make_node("MatMul", [gemm.input[0], turned], [product if biased else gemm.output[0]])]
    if biased:
        nodes.append(onnx.helper.make_node("Add", [product, gemm.input[2]], list(gemm.output)))
    return nodes
