"""Small files of kinds that people bring, each with its two relatives; values are random, layouts are real."""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def lstm(prefix: str = "", inputs: int = 12, hidden: int = 8, **options) -> State:
    """Tensors of an nn.LSTM under a prefix."""
    return {prefix + key: value for key, value in nn.LSTM(inputs, hidden, **options).state_dict().items()}


def cell(kind: str, prefix: str, inputs: int = 12, hidden: int = 8) -> State:
    """Tensors of an LSTMCell, GRUCell or RNNCell under a prefix."""
    made = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}[kind](inputs, hidden)
    return {prefix + key: value for key, value in made.state_dict().items()}


def norm(prefix: str, size: int) -> State:
    """A LayerNorm's tensors."""
    return {f"{prefix}.weight": torch.ones(size), f"{prefix}.bias": torch.zeros(size)}


def linear(prefix: str, rows: int, columns: int) -> State:
    """A linear layer's tensors."""
    return {f"{prefix}.weight": torch.randn(rows, columns) / columns**0.5, f"{prefix}.bias": torch.zeros(rows)}


HEAD = linear("fc", 4, 8)

# name -> (tensors, one of those that no torch.nn layer uses)
NOT_UNDERSTOOD: dict[str, tuple[State, str]] = {
    "cell with normalised gates": (cell("lstm", "cell.") | norm("cell.ln_ih", 32), "cell.ln_ih.weight"),
    "GRU cells in a list, one norm each": (
        cell("gru", "cells.0.") | norm("cells.0.norm.reset", 8) | cell("gru", "cells.1.", 8),
        "cells.0.norm.reset.weight",
    ),
    "norm at the root": (cell("lstm", "") | norm("ln_gates", 32), "ln_gates.weight"),
    "peepholes as vectors": (lstm("rnn.") | {"rnn.weight_ci_l0": torch.randn(8)}, "rnn.weight_ci_l0"),
    "peepholes as matrices": (cell("lstm", "net.core.") | {"net.core.W_cf": torch.eye(8)}, "net.core.W_cf"),
    "a peephole at the root": (cell("lstm", "") | {"w_co": torch.randn(8)}, "w_co"),
    "peephole beside prefixed weights": (cell("lstm", "enc_") | {"enc_w_ci": torch.randn(8)}, "enc_w_ci"),
    "one merged bias": (
        {key: value for key, value in lstm("lstm.").items() if "bias" not in key}
        | {"lstm.bias_l0": torch.ones(32)},
        "lstm.bias_l0",
    ),
    "a merged bias of a cell": (
        {key: value for key, value in cell("gru", "g.").items() if "bias" not in key} | {"g.bias": torch.ones(24)},
        "g.bias",
    ),
    "a projection of its own": (lstm("rnn.") | linear("rnn.proj", 8, 8), "rnn.proj.weight"),
    "attention inside a cell": (cell("lstm", "dec.cell.") | linear("dec.cell.attn", 8, 20), "dec.cell.attn.weight"),
    "attention at the root": (cell("gru", "") | {"attention.query": torch.randn(8, 8)}, "attention.query"),
    "zoneout": (cell("lstm", "cell.") | {"cell.zoneout_hidden": torch.tensor(0.1)}, "cell.zoneout_hidden"),
    "a learned initial state": (lstm("rnn.") | {"rnn.h0": torch.zeros(1, 8)}, "rnn.h0"),
    "a second recurrence inside": (lstm("rnn.") | lstm("rnn.inner.", 8, 8), "rnn.inner.weight_ih_l0"),
}

UNDERSTOOD: dict[str, State] = {
    "layers beside the stack in one parent": lstm("net.rnn.") | norm("net.norm", 8) | linear("net.fc", 4, 8),
    "a list of stacks": lstm("lstm.0.") | lstm("lstm.1.", 8) | norm("norms.0", 8),
    "head and input norm at the root": lstm() | HEAD | norm("input_norm", 12),
    "an embedding beside prefixed weights": cell("gru", "enc_") | {"enc_emb": torch.randn(20, 12)},
    "a prefixed head": cell("gru", "dec_") | {"dec_fc_w": torch.randn(4, 8), "dec_fc_b": torch.zeros(4)},
    "all options of PyTorch": lstm("rnn.", num_layers=2, bidirectional=True, proj_size=4),
}
