"""What a set of cores means: sizes, counts, and the dense matrix it stands for. One file a format."""

from trcompress.formats.block_term import BlockTerm
from trcompress.formats.tensor_ring import TensorRing
from trcompress.formats.tensor_train import TensorTrain

Format = TensorRing | TensorTrain | BlockTerm

FORMATS: dict[str, type[Format]] = {cls.kind: cls for cls in (TensorRing, TensorTrain, BlockTerm)}

__all__ = ["FORMATS", "BlockTerm", "Format", "TensorRing", "TensorTrain"]
