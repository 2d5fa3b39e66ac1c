"""Compress pretrained recurrent networks with tensor rings.

checkpoint -> plan -> cores -> layer -> finetune -> artifact -> report

Public names load on first use, so `import trcompress` and the command line's help do not pay for torch.
"""

from importlib import import_module
from typing import Any

from trcompress.version import __version__

# name -> the module that defines it
_PUBLIC = {
    "Plan": "trcompress.model.plan",
    "Rule": "trcompress.model.plan",
    "TensorRing": "trcompress.formats",
    "TensorTrain": "trcompress.formats",
    "BlockTerm": "trcompress.formats",
    "TrcompressError": "trcompress.errors",
    "read_checkpoint": "trcompress.checkpoint",
    "inspect": "trcompress.checkpoint",
    "compress_": "trcompress.passes.compress",
    "decompose_checkpoint": "trcompress.passes.compress",
    "read_artifact": "trcompress.artifact.file",
    "write_artifact": "trcompress.artifact.file",
    "save": "trcompress.artifact.save_load",
    "load": "trcompress.artifact.save_load",
    "load_": "trcompress.artifact.save_load",
    "make_report": "trcompress.artifact.report",
    "TRLSTM": "trcompress.layers",
    "TRGRU": "trcompress.layers",
    "TRRNN": "trcompress.layers",
    "TRLSTMCell": "trcompress.layers",
    "TRGRUCell": "trcompress.layers",
    "TRRNNCell": "trcompress.layers",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'trcompress' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
