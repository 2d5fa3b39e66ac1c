"""How a weight kept as cores is evaluated: its dense form, the cheapest contraction, and its execution."""

from trcompress.layers.evaluation.cost import Use, operations_per_step
from trcompress.layers.evaluation.evaluate import DENSE, STRATEGIES, Evaluator, check_strategy
from trcompress.layers.evaluation.form import Form
from trcompress.layers.evaluation.tracing import is_tracing

__all__ = [
    "DENSE",
    "STRATEGIES",
    "Evaluator",
    "Form",
    "Use",
    "check_strategy",
    "is_tracing",
    "operations_per_step",
]
