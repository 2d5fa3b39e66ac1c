"""Second moments of inputs that pass by once, in bounded memory: E[x x'] as rows, whatever the number of inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trcompress.errors import InputFileError

EXACT_WIDTH = 1024
"""Up to so many inputs the moments are kept exactly, as an (I, I) matrix."""
KEPT_ROWS = 512
"""Rows that stand for wider inputs, at most."""
KEPT_VALUES = 1 << 23
"""Values of those rows, at most: 64 MB in float64."""
BLOCK_ROWS = 4096
"""Inputs that are turned into float64 at once."""


@dataclass(frozen=True)
class InputMoments:
    """What is known of the inputs of a layer.

    Args:
        mean: (I,) float64.
        rows: (R, I), with rows' rows = E[x x'].
        centred: (R, I), the same of x - mean.
        count: inputs seen.
    """

    mean: Tensor
    rows: Tensor
    centred: Tensor
    count: int


class Sketch:
    """Collect inputs a block at a time.

    Narrow inputs are summed up exactly. Wide ones are kept as S V' of the rows so far: the singular directions of
    the kept rows and the new ones together, the strongest `keep` of them; no (I, I) matrix is ever formed.

    Args:
        width: I.
        keep: rows kept where the width is above `EXACT_WIDTH`.
        device: where sums are kept; moments are given on the CPU.

    Example:
        >>> sketch = Sketch(2)
        >>> sketch.add(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        >>> sketch.moments().mean.tolist(), float(sketch.moments().centred.square().sum())
        ([2.0, 0.0], 1.0)
    """

    def __init__(self, width: int, keep: int = KEPT_ROWS, device: torch.device | str | None = None) -> None:
        self._keep = max(1, min(keep, KEPT_VALUES // width))
        self._count = 0
        self._sum = torch.zeros(width, dtype=torch.float64, device=device)
        self._gram = torch.zeros(width, width, dtype=torch.float64, device=device) if width <= EXACT_WIDTH else None
        self._rows = torch.zeros(0, width, device=device)

    def add(self, inputs: Tensor) -> None:
        """Take in some inputs, (n, I)."""
        self._count += len(inputs)
        self._sum += inputs.sum(0, dtype=torch.float64)
        if self._gram is not None:
            for block in inputs.split(BLOCK_ROWS):
                exact = block.double()
                self._gram.addmm_(exact.t(), exact)
            return
        for block in inputs.float().split(self._keep):
            self._rows = torch.cat([self._rows, block])
            if len(self._rows) >= 2 * self._keep:
                self.require_finite()  # no eigenvectors of NaN; they wait for the device anyway
                self._rows = _strongest(self._rows, self._keep)

    def moments(self) -> InputMoments:
        """What was seen so far.

        Raises:
            InputFileError: NaN or Inf was among it.
        """
        self.require_finite()
        mean = self._sum.cpu() / self._count
        if self._gram is not None:
            second = self._gram.cpu() / self._count
            return InputMoments(mean, _root(second), _root(second - torch.outer(mean, mean)), self._count)
        rows = _strongest(self._rows, self._keep).cpu().double() / self._count**0.5
        return InputMoments(mean, rows, _without_mean(rows, mean), self._count)

    def require_finite(self) -> None:
        """Refuse inputs that are not finite; see the function."""
        require_finite(self._sum)


def require_finite(total: Tensor) -> None:
    """Refuse inputs whose sum is not finite: one NaN or Inf among them stays one.

    Raises:
        InputFileError: NaN or Inf was among them.
    """
    if not bool(torch.isfinite(total).all()):
        raise InputFileError("what reaches a recurrent layer must be finite: the calibration data gives NaN or Inf")


def weighted_moments(rows: Tensor, use: Tensor, floor: float = 1e-3) -> InputMoments:
    """Moments of inputs that are rows of a table, each used so many times.

    Args:
        rows: (V, I) the table: an embedding.
        use: (V,) how often each row occurs.
        floor: share of the weight that is spread over all rows alike, so that none is free to be anything.
    """
    share = use.double() / use.sum()
    weights = (1 - floor) * share + floor / len(rows)
    exact = rows.double()
    middle = weights @ exact
    root = weights.sqrt().unsqueeze(1)
    return InputMoments(share @ exact, root * exact, root * (exact - middle), int(use.sum()))


def _strongest(rows: Tensor, keep: int) -> Tensor:
    """The `keep` strongest singular directions of the rows, each times its singular value."""
    if len(rows) <= keep:
        return rows
    gram = (rows @ rows.t()).double()
    vectors = torch.linalg.eigh(gram)[1][:, -keep:]
    return vectors.t().to(rows.dtype) @ rows


def _root(second: Tensor) -> Tensor:
    """R with R' R = the given symmetric matrix."""
    values, vectors = torch.linalg.eigh(second)
    return values.clamp_min(0).sqrt().unsqueeze(1) * vectors.t()


def _without_mean(rows: Tensor, mean: Tensor) -> Tensor:
    """R_c with R_c' R_c = R' R - mean mean', as far as the mean lies among the rows."""
    basis, values = torch.linalg.qr(rows.t())  # rows' = basis @ values
    inner = basis.t() @ mean
    return _root(values @ values.t() - torch.outer(inner, inner)) @ basis.t()
