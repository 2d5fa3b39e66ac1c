"""An ONNX graph of a sequence network, written operator by operator: MatMul, LSTM, GRU, RNN and a few others.

Batch and time are dynamic, and the lengths of the sequences an input: nothing is frozen.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trcompress.deploy.onnx_layers import OnnxLayer, onnx_layers
from trcompress.deploy.sequence import SequenceNetwork
from trcompress.errors import MissingExtraError
from trcompress.version import __version__

OPSET = 17
"""Read by every runtime of the last years; the operators used here have not changed since."""


def require_onnx() -> Any:
    """Import onnx.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("ONNX files need the extra: pip install 'trcompress[onnx]'") from error
    return onnx


def build_onnx(network: SequenceNetwork, *, opset: int = OPSET) -> Any:
    """Build the ONNX model of a network.

    Args:
        network: in float32.
        opset: version of the standard operators, 14 or later.

    Returns:
        An `onnx.ModelProto` with inputs `x` (batch, time, features) or `tokens` (batch, time), and `lengths`
        (batch); outputs `scores`, or `output`, `h_n` and, of an LSTM, `c_n`.

    Raises:
        MissingExtraError: onnx is not installed.
        UsageError: a layer that ONNX has no operator for.
    """
    onnx = require_onnx()
    graph = _Graph(onnx)
    inputs = [graph.input(network)]
    lengths = onnx.helper.make_tensor_value_info("lengths", onnx.TensorProto.INT64, ["batch"])
    graph.add("Cast", ["lengths"], ["lengths_int32"], to=onnx.TensorProto.INT32)
    layers = [layer for stack in network.stacks for layer in onnx_layers(stack)]
    for number, layer in enumerate(layers):
        graph.recurrent(layer, number)
    graph.outputs_of(network, layers)
    made = onnx.helper.make_graph(graph.nodes, "trcompress", [*inputs, lengths], graph.outputs, graph.constants)
    model = onnx.helper.make_model(
        made,
        producer_name="trcompress",
        producer_version=__version__,
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and constants as they are added; `now` names the sequence (T, B, features) so far."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.outputs: list[Any] = []
        self.now = ""
        self.hidden: list[str] = []
        self.cells: list[str] = []

    def add(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def input(self, network: SequenceNetwork) -> Any:
        """Declare the input and bring it into (T, B, features)."""
        types, described = self.onnx.TensorProto, self.onnx.helper.make_tensor_value_info
        if network.embedding is None:
            features = onnx_layers(network.stacks[0])[0]
            wide = features.weight if features.entry is None else features.entry.T[None]
            declared = described("x", types.FLOAT, ["batch", "time", wide.shape[2]])
            start = "x"
        else:
            declared = described("tokens", types.INT64, ["batch", "time"])
            self.constant("embedding", network.embedding.weight.detach().cpu().float().numpy())
            start = self.add("Gather", ["embedding", "tokens"], ["embedded"])
        self.now = self.add("Transpose", [start], ["steps"], perm=[1, 0, 2])
        return declared

    def recurrent(self, layer: OnnxLayer, number: int) -> None:
        """Add one layer with its bottleneck."""
        at = f"l{number}"
        if layer.entry is not None:
            self.now = self.add("MatMul", [self.now, self.constant(f"{at}.entry", layer.entry)], [f"{at}.narrow"])
        weights = [self.constant(f"{at}.W", layer.weight), self.constant(f"{at}.R", layer.recurrence)]
        bias = "" if layer.bias is None else self.constant(f"{at}.B", layer.bias)
        ends = [f"{at}.Y", f"{at}.h", *([f"{at}.c"] if layer.kind.states == 2 else [])]
        self.add(layer.kind.module, [self.now, *weights, bias, "lengths_int32"], ends, **layer.attributes)
        self.hidden.append(ends[1])
        self.cells += ends[2:]
        turned = self.add("Transpose", [ends[0]], [f"{at}.turned"], perm=[0, 2, 1, 3])  # (T, B, D, H)
        shape = self.constant(f"{at}.shape", np.array([0, 0, layer.directions * layer.hidden_size]))
        self.now = self.add("Reshape", [turned, shape], [f"{at}.steps"])

    def outputs_of(self, network: SequenceNetwork, layers: list[OnnxLayer]) -> None:
        """Add what is read of the last layer, the head, and the declarations."""
        last = layers[-1]
        width = last.directions * last.hidden_size
        self.now = self.add(
            "Transpose", [self.now], ["output" if network.head is None else "batched"], perm=[1, 0, 2]
        )
        if network.head is None:
            own = len(onnx_layers(network.stacks[-1]))
            self.declare("output", ["batch", "time", width])
            for name, parts in (("h_n", self.hidden[-own:]), ("c_n", self.cells[-own:])):
                if parts:
                    self.add("Concat", parts, [name], axis=0)
                    self.declare(name, [sum(one.directions for one in layers[-own:]), "batch", last.hidden_size])
            return
        read = self.read(network.readout, width)
        weight = self.constant("head.weight", network.head.weight.detach().cpu().float().numpy().T)
        if network.head.bias is None:
            self.add("MatMul", [read, weight], ["scores"])
        else:
            product = self.add("MatMul", [read, weight], ["product"])
            bias = self.constant("head.bias", network.head.bias.detach().cpu().float().numpy())
            self.add("Add", [product, bias], ["scores"])
        steps = ["time"] if network.readout == "every" else []
        self.declare("scores", ["batch", *steps, network.head.out_features])

    def read(self, readout: str, width: int) -> str:
        """Name what the head sees."""
        if readout == "every":
            return self.now
        if readout == "final":
            turned = self.add("Transpose", [self.hidden[-1]], ["last"], perm=[1, 0, 2])  # (B, D, H)
            return self.add("Reshape", [turned, self.constant("last.shape", np.array([0, width]))], ["read"])
        if readout == "mean":
            total = self.add(
                "ReduceSum", [self.now, self.constant("time.axis", np.array([1]))], ["total"], keepdims=0
            )
            count = self.add("Cast", ["lengths"], ["count"], to=self.onnx.TensorProto.FLOAT)
            column = self.add("Unsqueeze", [count, self.constant("column.axis", np.array([1]))], ["column"])
            return self.add("Div", [total, column], ["read"])
        place = self.add("Sub", ["lengths", self.constant("one", np.array(1))], ["place"])
        column = self.add("Unsqueeze", [place, self.constant("column.axis", np.array([1]))], ["column"])
        return self.add("GatherND", [self.now, column], ["read"], batch_dims=1)

    def declare(self, name: str, shape: list[Any]) -> None:
        self.outputs.append(self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, shape))
