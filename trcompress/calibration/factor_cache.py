"""The closed-form factors of weights, kept by metric: those of a rank are the leading ones of any higher rank."""

from __future__ import annotations

from torch import Tensor

from trcompress.decomposition import MatrixSource, Metric
from trcompress.decomposition.factors import metric_factors

KEPT_BYTES = 24 * 2**20
"""Bytes of factors that are kept; beyond, they are found again each time."""


class FactorCache:
    """Factors A (I, K) and B (K, O) that were found once for a weight and a metric.

    Example:
        >>> import torch
        >>> from trcompress.decomposition import InMemoryMatrix
        >>> cache, source = FactorCache(), InMemoryMatrix(torch.diag(torch.tensor([3.0, 2.0, 1.0])))
        >>> [len(cache.find("w", source, Metric(), rank)[1]) for rank in (2, 1)]
        [2, 1]
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[int, Tensor, Tensor]] = {}
        self._size = 0

    def find(self, key: str, source: MatrixSource, metric: Metric, rank: int) -> tuple[Tensor, Tensor]:
        """Return the best factors of a rank in a metric; see `metric_factors`.

        Args:
            key: of the weight; `source` must always be the same for it.
            source: W (I, O).
            metric: goes by its name.
            rank: K.

        Returns:
            A (I, k) and B (k, O), k <= K: fewer where fewer are exact.
        """
        asked, left, right = self._kept.get((key, metric.name), (0, None, None))
        if left is None or right is None or rank > asked:
            left, right = metric_factors(source, rank, metric)
            self._keep((key, metric.name), rank, left, right)
        return left[:, :rank], right[:rank]

    def clear(self) -> None:
        """Forget all factors."""
        self._kept.clear()
        self._size = 0

    def _keep(self, name: tuple[str, str], rank: int, left: Tensor, right: Tensor) -> None:
        if name in self._kept:
            self._size -= sum(one.nbytes for one in self._kept.pop(name)[1:])
        if self._size + left.nbytes + right.nbytes <= KEPT_BYTES:
            self._kept[name] = rank, left, right
            self._size += left.nbytes + right.nbytes
