"""Recurrent layers with tensor-ring input weights, drop-in for torch.nn's."""

from trcompress.layers.baselines import BTLSTM, TTLSTM
from trcompress.layers.cells import TRGRUCell, TRLSTMCell, TRRNNCell
from trcompress.layers.convert import (
    RECURRENT,
    RING_OF,
    dense_class,
    from_dense,
    is_plain_stack,
    is_recurrent,
    module_matrices,
    to_dense_module,
)
from trcompress.layers.core_weight import CoreWeight
from trcompress.layers.linear import TRLinear, TTLinear
from trcompress.layers.recurrent import TRGRU, TRLSTM, TRRNN
from trcompress.layers.resolve import layers_of, recurrent_kind

__all__ = [
    "BTLSTM",
    "RECURRENT",
    "RING_OF",
    "TRGRU",
    "TRLSTM",
    "TRRNN",
    "TTLSTM",
    "CoreWeight",
    "TRGRUCell",
    "TRLSTMCell",
    "TRLinear",
    "TRRNNCell",
    "TTLinear",
    "dense_class",
    "from_dense",
    "is_plain_stack",
    "is_recurrent",
    "layers_of",
    "module_matrices",
    "recurrent_kind",
    "to_dense_module",
]
