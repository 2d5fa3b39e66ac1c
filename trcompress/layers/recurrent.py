"""TRLSTM, TRGRU and TRRNN: torch.nn's recurrent layers with tensor-ring input weights."""

from __future__ import annotations

from typing import Any, Unpack

from torch import nn

from trcompress.layers.resolve import RingOptions
from trcompress.layers.stack import RingStack


class TRLSTM(RingStack):
    """An LSTM whose input-to-hidden weights are tensor rings (TR-LSTM, Eqs. 8-10).

    Takes torch.nn.LSTM's arguments in the same order, plus the ring: `shape` and `ranks` (and `gates`), or a
    `plan`, or `weights` (resolved plans by local name, `weight_ih_l0`). Weights that the ring does not fit stay
    dense parameters under torch.nn's names.

    Args:
        shape: modes as text, "4x2x5:4x4", or as two tuples.
        ranks: as text, "5,10", or as numbers.
        gates: "fused" folds the gates into the first output mode; "per-gate" gives each gate a ring.
        plan: a `trcompress.Plan`, resolved against this layer's weights.
        weights: one `WeightPlan` per compressed weight.

    Raises:
        ShapeError: the ring fits no weight of the layer.

    Example:
        >>> layer = TRLSTM(57600, 256, shape="4x2x5x8x6x5x3x2:4x4x2x4x2", ranks="5,10")
        >>> sum(core.numel() for core in layer.weight_ih_l0.core)
        1725
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        **ring: Unpack[RingOptions],
    ) -> None:
        template = nn.LSTM(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device="meta"
        )
        super().__init__(template, device, dtype, **ring)


class TRGRU(RingStack):
    """A GRU whose input-to-hidden weights are tensor rings; arguments of torch.nn.GRU, plus TRLSTM's ring."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        **ring: Unpack[RingOptions],
    ) -> None:
        template = nn.GRU(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device="meta"
        )
        super().__init__(template, device, dtype, **ring)


class TRRNN(RingStack):
    """An Elman RNN (tanh or relu) with tensor-ring input weights; arguments of torch.nn.RNN, plus TRLSTM's ring."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        **ring: Unpack[RingOptions],
    ) -> None:
        template = nn.RNN(
            input_size,
            hidden_size,
            num_layers,
            nonlinearity,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device="meta",
        )
        super().__init__(template, device, dtype, **ring)
        self.nonlinearity = nonlinearity
