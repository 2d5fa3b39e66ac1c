"""A network as torch.onnx's tracer can follow it where its packed outputs are not read."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence


class ReadsPackedOutputs(nn.Module):
    """Calls a network, and reads every packed output of its recurrent layers: torch.onnx drops none of them then.

    The tracer takes packing and unpacking out in pairs, and fails where a network packs and reads the states alone
    (pytorch's `PackPadded` without `PadPacked`). One value of each packed output, times zero, goes into the result.

    Args:
        module: called with the inputs; gives a tensor, or a tuple or dict that begins with one.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._packed: list[PackedSequence] = []
        for one in module.modules():
            if isinstance(one, nn.RNNBase):
                one.register_forward_hook(self._keep)

    def forward(self, *inputs: Tensor) -> Any:
        """Run the network."""
        self._packed.clear()
        result = self.module(*inputs)
        nothing = [pad_packed_sequence(one)[0][0, 0, 0] * 0 for one in self._packed]
        self._packed.clear()
        if not nothing:
            return result
        if isinstance(result, dict):
            (name, first), *others = result.items()
            return {name: first + sum(nothing), **dict(others)}
        first, *rest = result if isinstance(result, tuple | list) else (result,)
        first = first + sum(nothing)
        return (first, *rest) if isinstance(result, tuple | list) else first

    def _keep(self, module: nn.Module, inputs: Any, result: Any) -> None:
        if isinstance(result, tuple) and isinstance(result[0], PackedSequence):
            self._packed.append(result[0])
