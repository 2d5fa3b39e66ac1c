"""How a weight kept as cores is evaluated: its dense form, the cheapest contraction, and its execution."""

from trcompress.layers.evaluation.cache import in_disguise
from trcompress.layers.evaluation.cost import Use, operations_per_step
from trcompress.layers.evaluation.evaluate import STRATEGIES, Evaluator, check_strategy
from trcompress.layers.evaluation.expand import cores_to_dense, ring_factors
from trcompress.layers.evaluation.form import Form
from trcompress.layers.evaluation.project import project
from trcompress.layers.evaluation.watch import Watched

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
