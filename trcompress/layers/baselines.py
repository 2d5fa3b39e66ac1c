"""The layers the paper compares with: TT-LSTM (Yang, Krompass and Tresp 2017) and BT-LSTM (Ye et al. 2018)."""

from __future__ import annotations

from typing import Any

from trcompress.layers.recurrent import TRLSTM
from trcompress.model.grammar import Shape
from trcompress.model.plan import Plan, Rule


class TTLSTM(TRLSTM):
    """An LSTM whose input weight is one TT-matrix, gates folded into the first output mode.

    Takes torch.nn.LSTM's arguments in the same order, plus

    Args:
        shape: as many input as output modes, "8x20x20x18:4x4x4x4".
        rank: of all inner bonds.

    Raises:
        ShapeError: unequal numbers of modes, or modes that do not hold the weight.

    Example:
        >>> layer = TTLSTM(57600, 256, shape="8x20x20x18:4x4x4x4", rank=4)
        >>> sum(core.numel() for core in layer.weight_ih_l0.core)
        3360
    """

    def __init__(self, *args: Any, shape: Shape, rank: int, gates: str = "fused", **kwargs: Any) -> None:
        rule = Rule.parse(shape, rank, gates=gates, format="tensor-train")
        super().__init__(*args, plan=Plan((rule,)), **kwargs)


class BTLSTM(TRLSTM):
    """An LSTM whose input weight is a sum of Tucker terms, gates folded into the first output mode.

    Takes torch.nn.LSTM's arguments in the same order, plus

    Args:
        shape: as many input as output modes, "8x20x20x18:4x4x4x4".
        rank: the Tucker rank of every mode.
        blocks: number of terms.

    Raises:
        ShapeError: unequal numbers of modes, or modes that do not hold the weight.

    Example:
        >>> layer = BTLSTM(57600, 256, shape="8x20x20x18:4x4x4x4", rank=4)
        >>> sum(core.numel() for core in layer.weight_ih_l0.core)
        3392
    """

    def __init__(
        self, *args: Any, shape: Shape, rank: int, blocks: int = 2, gates: str = "fused", **kwargs: Any
    ) -> None:
        rule = Rule.parse(shape, rank, gates=gates, format="block-term", blocks=blocks)
        super().__init__(*args, plan=Plan((rule,)), **kwargs)
