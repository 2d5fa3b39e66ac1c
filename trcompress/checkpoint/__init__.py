"""Any dense checkpoint -> its recurrent layers and its tensors, read lazily and without running anything.

file -> reading -> statedicts -> unwrap -> folding -> recurrent -> Checkpoint -> summary
"""

from trcompress.checkpoint.dense import Checkpoint, check_finite, read_checkpoint
from trcompress.checkpoint.reading import is_artifact, refuse_artifact
from trcompress.checkpoint.recurrent import Layer
from trcompress.checkpoint.summary import Inspection, inspect

__all__ = [
    "Checkpoint",
    "Inspection",
    "Layer",
    "check_finite",
    "inspect",
    "is_artifact",
    "read_checkpoint",
    "refuse_artifact",
]
