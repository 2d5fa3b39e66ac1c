"""Both stacks of a benchmark as ONNX files in onnxruntime, to be timed beside PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from trcompress.deploy.onnx_graph import build_onnx
from trcompress.deploy.parity import onnx_session
from trcompress.deploy.sequence import SequenceNetwork
from trcompress.deploy.to_plain import to_plain


def onnx_calls(
    modules: Mapping[str, nn.Module], xs: Mapping[str, Tensor], threads: int
) -> dict[str, Callable[[], object]]:
    """Make a call of onnxruntime for each module.

    Args:
        modules: recurrent stacks by name, dense or ring; batch first.
        xs: (B, T, I) for each, on the CPU.
        threads: of onnxruntime, as many as PyTorch has.

    Returns:
        Calls by `<name> onnx`.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
        UsageError: a layer that ONNX has no operator for.
    """
    given = {name: {"x": x.numpy(), "lengths": torch.full((len(x),), x.shape[1]).numpy()} for name, x in xs.items()}
    calls: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, module in modules.items():
            path = Path(folder) / f"{name}.onnx"
            network = SequenceNetwork(None, [to_plain(module.eval())], None, "final")
            path.write_bytes(build_onnx(network).SerializeToString())
            session = onnx_session(str(path), threads)
            calls[f"{name} onnx"] = lambda run=session.run, fed=given[name]: run(None, fed)  # type: ignore[misc]
    return calls
