"""Labelled sequences for training and evaluation: array files, video trees, features, procedural clips.

Names load on first use: neither torch nor PyAV is imported before data is.
"""

from importlib import import_module
from typing import Any

# name -> the module that defines it
_PUBLIC = {
    "DATA_KINDS": "trcompress.data.load",
    "DataSet": "trcompress.data.dataset",
    "Split": "trcompress.data.dataset",
    "extract": "trcompress.data.features",
    "find_clips": "trcompress.data.video_tree",
    "from_arrays": "trcompress.data.arrays",
    "make_clips": "trcompress.data.clips",
    "load_data": "trcompress.data.load",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'trcompress.data' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
