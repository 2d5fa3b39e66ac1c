"""A ring LSTM in forty lines of plain autograd, for the paper's UCF11 shape: what the layers are held against."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def merge(cores: Sequence[Tensor]) -> Tensor:
    """Join neighbours, least result first, until one core (r, n, r') is left."""
    rest = list(cores)
    while len(rest) > 1:
        sizes = [a.shape[0] * a.shape[1] * b.shape[1] * b.shape[2] for a, b in pairwise(rest)]
        k = sizes.index(min(sizes))
        a, b = rest[k : k + 2]
        joined = a.reshape(-1, a.shape[2]) @ b.reshape(b.shape[0], -1)
        rest[k : k + 2] = [joined.view(a.shape[0], a.shape[1] * b.shape[1], b.shape[2])]
    return rest[0]


class PlainRing(nn.Module):
    """A copy of a one-layer TRLSTM with 8 input modes, cut after two of them."""

    def __init__(self, like: Any, inputs: int = 8, cut: int = 2) -> None:
        super().__init__()
        self._inputs, self._cut, self._hidden = inputs, cut, like.hidden_size
        others = (like.weight_hh_l0, like.bias_ih_l0, like.bias_hh_l0)
        self.core = nn.ParameterList(nn.Parameter(core.detach().clone()) for core in like.weight_ih_l0.core)
        self.others = nn.ParameterList(nn.Parameter(one.detach().clone()) for one in others)

    def forward(self, x: Tensor) -> Any:
        """Run over x (T, B, I) from zero states; output, h_n, c_n."""
        cores = list(self.core)
        left, right = merge(cores[: self._cut]), merge(cores[self._cut : self._inputs])
        out, (rs, suffix, rn) = merge(cores[self._inputs :]), right.shape
        S = F.pad(right.permute(1, 0, 2).reshape(suffix, rs * rn), (0, -rs * rn % 16))
        y = (x.view(-1, suffix) @ S)[:, : rs * rn].view(-1, left.shape[1], rs, rn)
        z = torch.einsum("npsk,aps->nak", y, left).flatten(1)  # (T*B, r0*rn)
        z, V = (F.pad(one, (0, -one.shape[1] % 8)) for one in (z, out.permute(1, 2, 0).flatten(1)))
        zero = x.new_zeros(1, x.shape[1], self._hidden)
        weights = [V, *self.others]
        return torch._VF.lstm(
            z.view(*x.shape[:2], -1), (zero, zero), weights, True, 1, 0.0, self.training, False, False
        )
