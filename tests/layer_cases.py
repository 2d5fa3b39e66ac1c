"""Drawn configurations of ring layers, and the comparison with torch.nn that all layer tests share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from trcompress.layers import BTLSTM, TRGRU, TRLSTM, TRRNN, TTLSTM, CoreWeight, to_dense_module
from trcompress.layers.evaluation import STRATEGIES

INPUTS = 24
RINGS = {
    TRLSTM: {},
    TRGRU: {},
    TRRNN: {"nonlinearity": "tanh"},
    "relu": {"nonlinearity": "relu"},
    TTLSTM: {},
    BTLSTM: {},
}
SHAPES = ["3x2x4:2x3", "4x6:6", "24:2x3", "5x5:7", "13x2:2x4"]
"""For 24 inputs and 6 hidden units: exact, one mode a side, and padded ones."""


def tensors(value: Any) -> list[torch.Tensor]:
    """Flatten nested outputs into a list of tensors."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, PackedSequence):
        return [value.data]
    return [tensor for part in value if part is not None for tensor in tensors(part)]


def assert_close(ours: Any, theirs: Any, tolerance: float) -> None:
    """Same nesting, same shapes, values within a tolerance relative to their size."""
    for mine, other in zip(tensors(ours), tensors(theirs), strict=True):
        assert mine.dtype == other.dtype
        scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(mine, other, rtol=0, atol=tolerance * scale)


@dataclass(frozen=True)
class Case:
    """One layer and one call of it."""

    layer: Any
    x: Any
    hx: Any
    tolerance: float
    training: bool


@st.composite
def cases(draw: Any, dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64)) -> Case:
    """Draw a layer, its input in one of torch.nn's forms, and maybe an initial state."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    layer = draw(layers(dtypes))
    x = draw(inputs(layer)).requires_grad_(draw(st.booleans()))
    packed = draw(st.booleans()) and x.dim() == 3
    batch = None if x.dim() == 2 else x.shape[0 if layer.batch_first else 1]
    given = draw(st.booleans())
    hx = initial_state(layer, batch, x.dtype) if given else None
    sequence = pack(x, layer.batch_first, draw(st.booleans())) if packed else x
    layer.train(draw(st.booleans()))
    return Case(layer, sequence, hx, 1e-5 if x.dtype == torch.float32 else 1e-10, layer.training)


@st.composite
def layers(draw: Any, dtypes: Sequence[torch.dtype]) -> Any:
    """Draw a layer of 24 inputs and 6 hidden units."""
    kind = draw(st.sampled_from([*RINGS]))
    options: dict[str, Any] = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "dtype": draw(st.sampled_from(dtypes)),
        "gates": draw(st.sampled_from(["fused", "per-gate"])),
    } | RINGS[kind]
    make = TRRNN if kind == "relu" else kind
    if make is TRLSTM and draw(st.booleans()):
        options["proj_size"] = draw(st.integers(1, 5))
    if make in (TTLSTM, BTLSTM):
        return make(INPUTS, 6, shape="3x2x4:2x3x1", rank=draw(st.integers(1, 3)), **options)
    layer = make(
        INPUTS, 6, shape=draw(st.sampled_from(SHAPES)), ranks=draw(st.sampled_from(["1", "3", "2,4"])), **options
    )
    layer.strategy = draw(st.sampled_from(STRATEGIES))
    return layer


@st.composite
def inputs(draw: Any, layer: Any) -> torch.Tensor:
    """Draw (T, I), (T, B, I) or (B, T, I); some of them views with other strides."""
    dtype = next(layer.parameters()).dtype
    steps, batch = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    if draw(st.integers(0, 3)) == 0:
        return torch.randn(steps, INPUTS, dtype=dtype)
    first, second = (batch, steps) if layer.batch_first else (steps, batch)
    if draw(st.booleans()):
        return torch.randn(second, first, INPUTS, dtype=dtype).transpose(0, 1).detach()
    return torch.randn(first, second, INPUTS, dtype=dtype)


def initial_state(layer: Any, batch: int | None, dtype: torch.dtype) -> Any:
    """Random states that want gradients."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    lead = (rows,) if batch is None else (rows, batch)
    hidden = torch.randn(*lead, layer.proj_size or layer.hidden_size, dtype=dtype, requires_grad=True)
    if layer.mode != "LSTM":
        return hidden
    return hidden, torch.randn(*lead, layer.hidden_size, dtype=dtype, requires_grad=True)


def pack(x: torch.Tensor, batch_first: bool, ordered: bool) -> PackedSequence:
    """Pack a batch with lengths 1 .. T, longest first or not."""
    batch, steps = (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])
    lengths = torch.randint(1, steps + 1, (batch,))
    lengths = lengths.sort(descending=True).values if ordered else lengths
    return pack_padded_sequence(x, lengths, batch_first, enforce_sorted=ordered)


def compare(case: Case) -> None:
    """Outputs, states and all gradients against torch.nn carrying the dense weights."""
    dense = to_dense_module(case.layer)
    leaves = [tensor for tensor in tensors([case.x, case.hx]) if tensor.requires_grad]
    ours, theirs = case.layer(case.x, case.hx), dense(case.x, case.hx)
    assert_close(ours, theirs, case.tolerance)
    assert type(ours[0]) is type(theirs[0])
    probes = [torch.randn_like(tensor) for tensor in tensors(theirs)]
    dense_names, dense_values = zip(*dense.named_parameters(), strict=True)
    expected = torch.autograd.grad(_loss(theirs, probes), [*leaves, *dense_values], allow_unused=True)
    mine = [*leaves, *case.layer.parameters()]
    got = torch.autograd.grad(_loss(ours, probes), mine, allow_unused=True)
    assert_close(got[: len(leaves)], expected[: len(leaves)], 10 * case.tolerance)
    by_name = dict(zip(dense_names, expected[len(leaves) :], strict=True))
    found = dict(zip((name for name, _ in case.layer.named_parameters()), got[len(leaves) :], strict=True))
    for name, weight in case.layer.named_children():
        if isinstance(weight, CoreWeight):
            carried = torch.autograd.grad(weight.to_dense(), list(weight.core), by_name.pop(name))
            by_name |= {f"{name}.core.{k}": grad for k, grad in enumerate(carried)}
    assert set(by_name) == set(found)
    for name, grad in by_name.items():
        assert_close(found[name], grad, 30 * case.tolerance)


def _loss(outputs: Any, probes: list[torch.Tensor]) -> torch.Tensor:
    return sum((tensor * probe).sum() for tensor, probe in zip(tensors(outputs), probes, strict=True))


def small(kind: Any = TRLSTM, **options: Any) -> Any:
    """A ring layer of 12 inputs and 8 hidden units; `options` are its own."""
    torch.manual_seed(0)
    return kind(12, 8, **{"shape": "3x4:2x4", "ranks": "2,3"} | options)
