"""Recurrent layers with tensor-ring input weights, drop-in for torch.nn's."""

from trcompress.contract import cores_to_dense
from trcompress.layers.cells import TRGRUCell, TRLSTMCell, TRRNNCell
from trcompress.layers.convert import RECURRENT, RING_OF, from_dense, is_recurrent, slots_of, to_dense_module
from trcompress.layers.core_weight import CoreWeight
from trcompress.layers.recurrent import TRGRU, TRLSTM, TRRNN

__all__ = [
    "RECURRENT",
    "RING_OF",
    "TRGRU",
    "TRLSTM",
    "TRRNN",
    "CoreWeight",
    "TRGRUCell",
    "TRLSTMCell",
    "TRRNNCell",
    "cores_to_dense",
    "from_dense",
    "is_recurrent",
    "slots_of",
    "to_dense_module",
]
