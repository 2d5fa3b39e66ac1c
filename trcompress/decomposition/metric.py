"""In which metric W_hat should be close to W: where the network's inputs are, and where its outputs care.

    ||L (W - W_hat) D||^2       L'L = X'X + ridge * I,   D = diag(output_weights), or a symmetric root

X are calibration inputs, reduced to few rows. The metric enters the normal equations; W itself is never whitened,
for that would destroy its modes, and L is never formed or inverted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trcompress.errors import InputFileError, ShapeError, UsageError

LEAST_WEIGHT = 1e-4
"""Output weights below this share of the largest are raised to it: an output that nothing asks for stays finite."""


@dataclass(frozen=True)
class Metric:
    """A weighted norm for W - W_hat.

    Args:
        input_rows: X (s, I), calibration inputs reduced to `S V'`, so that X'X is their second moment; None weighs
            all directions of the input alike.
        ridge: weight of the plain norm beside X'X; with `input_rows` only.
        output_weights: (O,) not negative, the diagonal of D, or (O, O), D itself; None weighs all outputs alike.
            ALS takes the norms of D's columns; two-mode rings take D as it is.
        name: as reports spell it.

    Raises:
        UsageError: a negative ridge or weight, or nothing but zeros.
        ShapeError: not a matrix of rows, or not a vector of weights.
        InputFileError: NaN or Inf.

    Example:
        >>> Metric(input_rows=torch.eye(3), ridge=0.1).input_rows.shape
        torch.Size([3, 3])
    """

    input_rows: Tensor | None = None
    ridge: float = 0.0
    output_weights: Tensor | None = None
    name: str = ""

    def __post_init__(self) -> None:
        for name, dims in (("input_rows", (2,)), ("output_weights", (1, 2))):
            value = getattr(self, name)
            if value is None:
                continue
            if value.dim() not in dims:
                raise ShapeError(f"{name} must have {dims[0]} dimension(s): got shape {tuple(value.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise InputFileError(f"{name} must be finite: NaN or Inf found in the calibration data")
            if not bool(value.any()):
                raise UsageError(f"{name} must not be all zeros: nothing would count")
        weights = self.output_weights
        if self.ridge < 0 or (weights is not None and weights.dim() == 1 and bool((weights < 0).any())):
            raise UsageError(f"ridge and output_weights must not be negative: got ridge {self.ridge}")

    @property
    def output_diagonal(self) -> Tensor | None:
        """(O,) the norms of D's columns."""
        if self.output_weights is None or self.output_weights.dim() == 1:
            return self.output_weights
        return self.output_weights.square().sum(0).sqrt()


@dataclass(frozen=True)
class DiagonalWeight:
    """Rows of a chain weighed one by one: the output half, rows are outputs."""

    values: Tensor

    def apply(self, chain: Tensor) -> Tensor:
        """Weigh the rows of (a, N, b)."""
        return chain * self.values.to(chain.dtype)[:, None]

    @property
    def average(self) -> float:
        """Mean weight of a row, for preconditioning."""
        return float(self.values.mean())


@dataclass(frozen=True)
class MomentWeight:
    """Rows of a chain weighed by X'X + ridge * I: the input half, rows are inputs."""

    rows: Tensor
    ridge: float

    def apply(self, chain: Tensor) -> Tensor:
        """Weigh the rows of (a, N, b)."""
        a, size, b = chain.shape
        flat = chain.transpose(0, 1).reshape(size, a * b)
        weighed = self.rows.t().to(flat.dtype) @ (self.rows.to(flat.dtype) @ flat) + self.ridge * flat
        return weighed.view(size, a, b).transpose(0, 1)

    @property
    def average(self) -> float:
        """Mean weight of a row, for preconditioning."""
        return float(self.rows.square().sum()) / self.rows.shape[1] + self.ridge


def moment_weight(metric: Metric, shape: tuple[int, int], padded: int, device: torch.device) -> MomentWeight | None:
    """Return the metric's input side for W (I, O), padded to `padded` inputs; at most I rows.

    Raises:
        ShapeError: the rows have not I columns.
    """
    rows = metric.input_rows
    if rows is None:
        return None
    if rows.shape[1] != shape[0]:
        raise ShapeError(f"input_rows must have one column per input: got {rows.shape[1]:,}, {shape[0]:,} expected")
    rows = rows.to(device, torch.float64)
    if rows.shape[0] > rows.shape[1]:
        rows = torch.linalg.qr(rows, mode="r")[1]
    return MomentWeight(torch.nn.functional.pad(rows, (0, padded - shape[0])), metric.ridge)


def output_scales(metric: Metric, shape: tuple[int, int], padded: int, device: torch.device) -> Tensor | None:
    """Return the diagonal of D for W (I, O), padded to `padded` outputs, no entry too small to divide by.

    Raises:
        ShapeError: not one weight per output.
    """
    weights = metric.output_diagonal
    if weights is None:
        return None
    if len(weights) != shape[1]:
        raise ShapeError(
            f"output_weights must have one value per output: got {len(weights):,}, {shape[1]:,} expected"
        )
    weights = weights.to(device, torch.float64)
    weights = weights.clamp(min=LEAST_WEIGHT * float(weights.max()))
    return torch.nn.functional.pad(weights, (0, padded - shape[1]), value=float(weights.mean()))
