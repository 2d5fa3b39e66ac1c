"""The paper's rows, run: a recipe in, findings beside the paper's own figures out."""

from importlib import import_module
from typing import Any

# name -> the module that defines it
_PUBLIC = {
    "RUNNERS": "trcompress.reproduce.run",
    "Reproduced": "trcompress.reproduce.run",
    "Result": "trcompress.reproduce.result",
    "read_result": "trcompress.reproduce.result",
    "reproduce": "trcompress.reproduce.run",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'trcompress.reproduce' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
