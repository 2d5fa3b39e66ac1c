"""A dense matrix becomes the cores of a ring.

source -> spectrum -> starts -> als / planted -> Decomposition (cores, error, bound)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trcompress.decomposition.algorithms import ALGORITHMS
    from trcompress.decomposition.bound import Bound, beside_bound, lower_bound
    from trcompress.decomposition.file_source import FileMatrix
    from trcompress.decomposition.max_error import tr_svd_max_error
    from trcompress.decomposition.metric import Metric
    from trcompress.decomposition.result import Decomposition
    from trcompress.decomposition.run import decompose
    from trcompress.decomposition.settings import Settings
    from trcompress.decomposition.source import InMemoryMatrix, MatrixSource

_MODULES = {
    "ALGORITHMS": "algorithms",
    "Bound": "bound",
    "Decomposition": "result",
    "FileMatrix": "file_source",
    "InMemoryMatrix": "source",
    "MatrixSource": "source",
    "Metric": "metric",
    "Settings": "settings",
    "beside_bound": "bound",
    "decompose": "run",
    "lower_bound": "bound",
    "tr_svd_max_error": "max_error",
}

__all__ = [
    "ALGORITHMS",
    "Bound",
    "Decomposition",
    "FileMatrix",
    "InMemoryMatrix",
    "MatrixSource",
    "Metric",
    "Settings",
    "beside_bound",
    "decompose",
    "lower_bound",
    "tr_svd_max_error",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: the registry of algorithms is read without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
