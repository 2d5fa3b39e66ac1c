"""What is remembered of the vectors that a matrix multiplies: their number, mean and second moments."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WIDEST = 1024
"""Inputs beyond which no (n, n) matrix is kept: with 3,600 of them, rounding one matrix in it takes half a minute.

Such matrices are rounded value by value, and their rings are the best for all inputs alike.
"""


@dataclass
class Moments:
    """Running mean and second moments of vectors.

    Args:
        size: n, values in a vector.
        count: vectors seen.
        total: (n,) their sum.
        products: (n, n) sum of x x', or None where n is above `WIDEST`.

    Example:
        >>> seen = Moments.of_size(2)
        >>> seen.add(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        >>> seen.mean.tolist(), seen.covariance.tolist()
        ([2.0, 0.0], [[1.0, 0.0], [0.0, 0.0]])
    """

    size: int
    count: int
    total: Tensor
    products: Tensor | None

    @classmethod
    def of_size(cls, size: int) -> Moments:
        """Begin with no vectors of `size` values."""
        products = torch.zeros(size, size, dtype=torch.float64) if size <= WIDEST else None
        return cls(size, 0, torch.zeros(size, dtype=torch.float64), products)

    def add(self, vectors: Tensor) -> None:
        """Take in vectors, (..., n)."""
        rows = vectors.detach().reshape(-1, self.size).to("cpu", torch.float64)
        self.count += len(rows)
        self.total += rows.sum(0)
        if self.products is not None:
            self.products += rows.T @ rows

    def of(self, places: Tensor) -> Moments:
        """Return the moments of some of the values, (k,) indices."""
        products = None if self.products is None else self.products[places][:, places]
        return Moments(len(places), self.count, self.total[places], products)

    @property
    def mean(self) -> Tensor:
        """(n,) mean vector; zero where none was seen."""
        return self.total / max(1, self.count)

    @property
    def second(self) -> Tensor | None:
        """E[x x'], (n, n)."""
        return None if self.products is None or not self.count else self.products / self.count

    @property
    def covariance(self) -> Tensor:
        """E[(x - mean)(x - mean)'], (n, n).

        Raises:
            ValueError: no second moments were kept.
        """
        if self.second is None:
            raise ValueError(f"no second moments of {self.size:,} values are kept; ask for `second` first")
        return self.second - torch.outer(self.mean, self.mean)

    def about(self, centred: bool) -> Tensor | None:
        """Second moments about the mean, or about zero, (n, n); None where none were kept."""
        return self.covariance if centred and self.second is not None else self.second
