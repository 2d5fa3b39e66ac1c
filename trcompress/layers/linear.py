"""Linear layers whose weight is a tensor ring or a tensor train."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trcompress.layers.core_weight import CoreWeight
from trcompress.layers.evaluation import Use
from trcompress.layers.feed import rounded
from trcompress.layers.strategy import Evaluated
from trcompress.model.grammar import Ranks, Shape
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Rule


class TRLinear(Evaluated):
    """torch.nn.Linear with a tensor-ring weight: y = x W + b, W as in Eq. 5.

    Args:
        in_features: size of an input.
        out_features: size of an output.
        bias: learn an additive bias.
        device: where the parameters live.
        dtype: their type.
        shape: modes as text, "4x2x5:4x4", or as two tuples; their products may exceed the sizes (zero padding).
        ranks: as text, "5,10", or as numbers.

    Raises:
        ShapeError: the modes do not hold the weight.

    Example:
        >>> layer = TRLinear(20, 12, shape="4x5:3x4", ranks=2)
        >>> layer(torch.zeros(7, 20)).shape
        torch.Size([7, 12])
    """

    format = "tensor-ring"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        shape: Shape,
        ranks: Ranks,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        matrix = Matrix.input_to_hidden("weight", "rnn", in_features, out_features)
        self.weight = CoreWeight(Rule.parse(shape, ranks, format=self.format).resolve(matrix), device, dtype)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from torch.nn.Linear's distribution: variance 1 / (3 * in_features)."""
        bound = 1.0 / math.sqrt(self.in_features)
        self.weight.reset_parameters(bound**2 / 3)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features).

        Raises:
            RuntimeError: another number of features.
        """
        if input.shape[-1] != self.in_features:
            raise RuntimeError(
                f"the input's last dimension must be in_features {self.in_features}: got shape {tuple(input.shape)}"
            )
        training = self.training and self.weight.trains
        rows = rounded(input.numel() // self.in_features)
        use = Use(rows, training, training and input.requires_grad, gpu=input.is_cuda)
        form, keep = self.weight.form(use, self._strategy), self._strategy != "ring"
        if form.kind == "dense":
            return F.linear(input, self.weight.weight(keep), self.bias)
        z, V = self.weight.project(input, form, keep)
        return F.linear(z, V, self.bias) if V is not None else z if self.bias is None else z + self.bias

    def extra_repr(self) -> str:
        """Return what `print(layer)` shows."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, strategy={self._strategy}"


class TTLinear(TRLinear):
    """torch.nn.Linear with a TT-matrix weight (Novikov et al. 2015); as many input as output modes, one rank."""

    format = "tensor-train"
