"""Sequences of one length or of several, and what is done to each of their steps."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

Sequences = Tensor | PackedSequence
"""(B, T, ...), or packed where lengths differ."""


def flat_rows(sequences: Sequences) -> Tensor:
    """Every valid step as one row."""
    return sequences.data if isinstance(sequences, PackedSequence) else sequences.flatten(0, 1)


def on_rows(sequences: Sequences, function: Callable[[Tensor], Tensor]) -> Sequences:
    """Apply a function to every valid step."""
    if isinstance(sequences, PackedSequence):
        return sequences._replace(data=function(sequences.data))
    return function(sequences)


def packed(entries: Tensor, lengths: Tensor | None) -> Sequences:
    """Sequences of these lengths, cut where none is longer."""
    if lengths is None or bool((lengths == entries.shape[1]).all()):
        return entries if lengths is None else entries[:, : int(lengths[0])]
    return pack_padded_sequence(entries, lengths, batch_first=True, enforce_sorted=False)
