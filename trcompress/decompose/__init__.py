"""A dense matrix becomes the cores of a ring.

source -> spectrum -> starts -> als / gauss_newton -> Decomposition (cores, error, bound)
"""

from trcompress.decompose.bound import Bound, explain, lower_bound
from trcompress.decompose.file_source import FileMatrix
from trcompress.decompose.max_error import tr_svd_max_error
from trcompress.decompose.metric import Metric
from trcompress.decompose.result import Decomposition
from trcompress.decompose.run import INITS, decompose
from trcompress.decompose.search import Settings
from trcompress.decompose.source import InMemoryMatrix, MatrixSource

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
