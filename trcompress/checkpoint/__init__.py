"""Any dense checkpoint -> its recurrent layers and its tensors, read lazily and without running anything.

file -> reading -> statedicts -> unwrap -> folding -> recurrent -> foreign -> Checkpoint -> summary
"""

from trcompress.checkpoint.dense import Checkpoint
from trcompress.checkpoint.finite import check_finite
from trcompress.checkpoint.foreign import foreign_tensors, refuse_foreign, without_ignored
from trcompress.checkpoint.names import is_recurrent_name
from trcompress.checkpoint.opening import read_checkpoint
from trcompress.checkpoint.reading import is_artifact, refuse_artifact
from trcompress.checkpoint.recurrent import Layer
from trcompress.checkpoint.summary import Inspection, inspect

__all__ = [
    "Checkpoint",
    "Inspection",
    "Layer",
    "check_finite",
    "foreign_tensors",
    "inspect",
    "is_artifact",
    "is_recurrent_name",
    "read_checkpoint",
    "refuse_artifact",
    "refuse_foreign",
    "without_ignored",
]
