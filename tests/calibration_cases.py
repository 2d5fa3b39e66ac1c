"""Inputs and weights on which calibration has something to find."""

import numpy as np

from trcompress.model.kinds import kind_of_gates
from trcompress.model.matrix import Matrix
from trcompress.model.weight_plan import WeightPlan


def narrow_inputs(count, steps, size, rank, seed=0, shift=1.0):
    """Sequences in a few directions around a mean that is not zero."""
    random = np.random.default_rng(seed)
    basis = random.normal(size=(rank, size))
    return (random.normal(size=(count, steps, rank)) @ basis + shift * random.normal(size=size)).astype(np.float32)


def small_weight(structure, per_gate=False, inputs=12, hidden=8, gates=4):
    matrix = Matrix.input_to_hidden("weight_ih_l0", kind_of_gates(gates).name, inputs, hidden)
    return WeightPlan(matrix, structure, per_gate)
