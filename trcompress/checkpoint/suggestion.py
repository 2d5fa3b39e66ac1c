"""A first goal for a checkpoint: a ratio that leaves every layer room for what reaches it."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

from trcompress.checkpoint.recurrent import Layer

ROOM = 0.5
"""Share of the directions that a layer can see or hold, min(inputs, hidden units), kept at least.

Below half of its input rank a layer that reads narrow inputs goes blind: on a three-layer network with 40 inputs
the error rate rose from 8 % to 28 %.
"""
LARGEST = 10.0
"""More than this is not suggested without having looked at the values, however wide the inputs are."""


def suggested_ratio(layers: Sequence[Layer]) -> float:
    """Choose the Eq. 7 ratio at which one rank for all weights still leaves each of them `ROOM`.

    Args:
        layers: from `read_checkpoint`.

    Returns:
        Between 1.1 and 10, rounded down to one decimal: a start that keeps the network alive, not an optimum.
    """
    sizes = [(layer.input_size, layer.hidden_size, layer.gates * layer.hidden_size) for layer in layers]
    rank = max(ceil(ROOM * min(inputs, hidden)) for inputs, hidden, _ in sizes)
    dense = sum(inputs * outputs for inputs, _, outputs in sizes)
    kept = sum(min(inputs * outputs, rank * (inputs + outputs)) for inputs, _, outputs in sizes)
    ratio = min(LARGEST, floor(10 * dense / kept) / 10)
    while int(dense / ratio) < kept and ratio > 1.1:  # 81 / 2.7 is just below 30
        ratio = round(ratio - 0.1, 1)
    return max(1.1, ratio)
