"""How a weight kept as cores is evaluated: its dense form, the cheapest contraction, and its execution."""

from trcompress.layers.evaluation.cost import Use, operations_per_step
from trcompress.layers.evaluation.evaluate import DENSE, STRATEGIES, Evaluator, check_strategy
from trcompress.layers.evaluation.expand import cores_to_dense, ring_factors
from trcompress.layers.evaluation.form import Form
from trcompress.layers.evaluation.tracing import is_tracing

__all__ = [
    "DENSE",
    "STRATEGIES",
    "Evaluator",
    "Form",
    "Use",
    "check_strategy",
    "cores_to_dense",
    "is_tracing",
    "operations_per_step",
    "ring_factors",
]
