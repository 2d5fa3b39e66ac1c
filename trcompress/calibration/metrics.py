"""In which metric a weight is approximated: how its inputs weigh, and how its gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trcompress.network.moments import InputMoments

RIDGES = (0.0, 0.1, 1.0)
MIDDLE = (0.1,)
"""Weight of the plain error beside the inputs', in units of the mean variance of an input."""
FULL_GATES = 1536
"""Up to so many gate rows their full second moments are used, above only the diagonal."""
GATE_FLOOR = 1e-3
"""Least sensitivity of a gate, in units of the mean."""


@dataclass(frozen=True)
class Metric:
    """||rows (W - W_hat) gates||^2 + ridge ||(W - W_hat) gates||^2, over W (I, O).

    Args:
        name: as reports spell it.
        rows: (R, I) float64, scaled so that the mean square of an input is 1; None weighs all inputs alike.
        ridge: see above.
        gates: (O,) weights or (O, O) symmetric root; None weighs all alike.
    """

    name: str
    rows: Tensor | None = None
    ridge: float = 0.0
    gates: Tensor | None = None

    @property
    def gate_weights(self) -> Tensor | None:
        """(O,) the diagonal of the gates' side."""
        if self.gates is None or self.gates.dim() == 1:
            return self.gates
        return self.gates.square().sum(0).sqrt()


def candidates(
    inputs: InputMoments, sensitivity: Tensor | None, *, ridges: Sequence[float] = RIDGES, jointly: bool = True
) -> list[Metric]:
    """List the metrics to try for one weight, the plain one first.

    Args:
        inputs: moments of what the weight is fed.
        sensitivity: E[g g'] (O, O) of its gates.
        ridges: for the inputs' side.
        jointly: whether gates that answer together may weigh together; else each has its own weight.
    """
    rows = _scaled(inputs.centred)
    gates = _gate_roots(sensitivity, jointly)
    found = [Metric("weights")]
    found += [Metric(name, gates=root) for name, root in gates.items()]
    if 0.0 in ridges:
        found.append(Metric("inputs with their mean", _scaled(inputs.rows)))
    for ridge in ridges:
        label = f"inputs, ridge {ridge:g}"
        found.append(Metric(label, rows, ridge))
        found += [Metric(f"{label}, {name}", rows, ridge, root) for name, root in gates.items()]
    return found


def _scaled(rows: Tensor) -> Tensor:
    """Rows such that the mean square of an input is 1."""
    return rows * (rows.shape[1] / rows.square().sum().clamp_min(1e-300)).sqrt()


def _gate_roots(sensitivity: Tensor | None, jointly: bool) -> dict[str, Tensor]:
    if sensitivity is None or not float(sensitivity.diagonal().sum()) > 0:
        return {}
    floor = GATE_FLOOR * sensitivity.diagonal().mean()
    roots = {"gates": (sensitivity.diagonal() + floor).sqrt()}
    if len(sensitivity) <= FULL_GATES and jointly:
        values, vectors = torch.linalg.eigh(sensitivity)
        roots["gates jointly"] = (vectors * (values.clamp_min(0) + floor).sqrt()) @ vectors.t()
    return {name: root * (len(root) ** 0.5 / root.norm()) for name, root in roots.items()}
