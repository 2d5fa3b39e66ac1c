"""Sequences that a stack is fed: vectors, or tokens with the embedding that turns them into vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trcompress.data.dataset import Source


class Feed(Protocol):
    """Sequences for one stack, read a few at a time."""

    @property
    def width(self) -> int:
        """Values per step."""

    @property
    def values(self) -> int:
        """Numbers that reading one sequence takes, at most."""

    def __len__(self) -> int:
        """How many sequences there are."""

    def read(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Return (vectors (B, T, I) float32 or tokens (B, T) int64, lengths (B,) or None)."""


@dataclass(frozen=True)
class VectorFeed:
    """Sequences of vectors, wherever they lie.

    Args:
        source: where they are.
        rows: (N,) the rows of the source to use.
    """

    source: Source
    rows: np.ndarray

    @property
    def width(self) -> int:
        """Values per step."""
        return self.source.shape[1]

    @property
    def values(self) -> int:
        """Numbers in one sequence, at most."""
        return self.source.shape[0] * self.source.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Return vectors (B, T, I) and lengths."""
        values, lengths = self.source.fetch(self.rows[rows], None)
        return torch.from_numpy(values), None if lengths is None else torch.from_numpy(lengths)


@dataclass(frozen=True)
class TokenFeed:
    """Sequences of tokens; token v is fed as row v of the embedding.

    Args:
        tokens: (N, T) int64.
        lengths: (N,) int64, or None where all T steps count.
        embedding: (V, I) float32.
        embedding_key: its key in the checkpoint.
    """

    tokens: np.ndarray
    lengths: np.ndarray | None
    embedding: Tensor
    embedding_key: str

    @property
    def width(self) -> int:
        """Values per step."""
        return self.embedding.shape[1]

    @property
    def values(self) -> int:
        """Numbers in one sequence, at most."""
        return self.tokens.shape[1] * self.width

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Return tokens (B, T) and lengths."""
        lengths = None if self.lengths is None else torch.from_numpy(self.lengths[rows])
        return torch.from_numpy(self.tokens[rows]), lengths
