"""How a weight kept as cores is evaluated: its dense form, the cheapest contraction, and its execution."""

from trcompress.contract.cache import in_disguise
from trcompress.contract.cost import Use, operations_per_step
from trcompress.contract.evaluate import STRATEGIES, Evaluator, check_strategy
from trcompress.contract.expand import cores_to_dense, ring_factors
from trcompress.contract.form import Form
from trcompress.contract.project import project
from trcompress.contract.watch import Watched

__all__ = [
    "STRATEGIES",
    "Evaluator",
    "Form",
    "Use",
    "Watched",
    "check_strategy",
    "cores_to_dense",
    "in_disguise",
    "operations_per_step",
    "project",
    "ring_factors",
]
