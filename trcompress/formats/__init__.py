"""What a set of cores means: sizes, counts, products, and the dense matrix it stands for. One file a format."""

from trcompress.formats.base import Format
from trcompress.formats.block_term import BlockTerm
from trcompress.formats.tensor_ring import TensorRing, as_ring, is_ring, ring_ranks
from trcompress.formats.tensor_train import TensorTrain

FORMATS: dict[str, type[Format]] = {cls.kind: cls for cls in (TensorRing, TensorTrain, BlockTerm)}
"""Every format by its kind. Plans, headers, recipes, layers and the conformance tests read it."""

__all__ = ["FORMATS", "BlockTerm", "Format", "TensorRing", "TensorTrain", "as_ring", "is_ring", "ring_ranks"]
