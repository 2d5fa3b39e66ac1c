"""A dense matrix becomes the cores of a ring.

source -> spectrum -> starts -> als / gauss_newton -> Decomposition (cores, error, bound)
"""

from trcompress.decomposition.bound import Bound, explain, lower_bound
from trcompress.decomposition.file_source import FileMatrix
from trcompress.decomposition.max_error import tr_svd_max_error
from trcompress.decomposition.metric import Metric
from trcompress.decomposition.result import Decomposition
from trcompress.decomposition.run import INITS, decompose
from trcompress.decomposition.search import Settings
from trcompress.decomposition.source import InMemoryMatrix, MatrixSource

__all__ = [
    "INITS",
    "Bound",
    "Decomposition",
    "FileMatrix",
    "InMemoryMatrix",
    "MatrixSource",
    "Metric",
    "Settings",
    "decompose",
    "explain",
    "lower_bound",
    "tr_svd_max_error",
]
