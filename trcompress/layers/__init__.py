"""Recurrent layers with tensor-ring input weights, drop-in for torch.nn's."""

from trcompress.layers.baselines import BTLSTM, TTLSTM
from trcompress.layers.cells import TRGRUCell, TRLSTMCell, TRRNNCell
from trcompress.layers.convert import RECURRENT, RING_OF, from_dense, is_recurrent, slots_of, to_dense_module
from trcompress.layers.core_weight import CoreWeight
from trcompress.layers.evaluation import cores_to_dense
from trcompress.layers.linear import TRLinear, TTLinear
from trcompress.layers.recurrent import TRGRU, TRLSTM, TRRNN

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
    "cores_to_dense",
    "from_dense",
    "is_recurrent",
    "slots_of",
    "to_dense_module",
]
