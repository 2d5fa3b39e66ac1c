"""In which metric a weight is approximated: how its inputs weigh, and how its gates."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trcompress.calibration.sensitivity import Sensitivity
from trcompress.decomposition import Metric
from trcompress.network.moments import InputMoments

RIDGES = (0.0, 0.1, 1.0)
MIDDLE = (0.1,)
"""Weight of the plain error beside the inputs', in units of the mean variance of an input."""


def candidates(
    inputs: InputMoments, sensitivity: Sensitivity | None, *, ridges: Sequence[float] = RIDGES, jointly: bool = True
) -> list[Metric]:
    """List the metrics to try for one weight, the plain one first.

    Args:
        inputs: moments of what the weight is fed.
        sensitivity: of its gates.
        ridges: for the inputs' side.
        jointly: whether gates that answer together may weigh together; else each has its own weight.
    """
    rows, raw = _scaled(inputs.centred), _scaled(inputs.rows)
    gates = _gate_roots(sensitivity, jointly)
    found = [Metric(name="weights")]
    found += [Metric(output_weights=root, name=name) for name, root in gates.items()]
    if 0.0 in ridges and bool(raw.any()):
        found.append(Metric(raw, name="inputs with their mean"))
    for ridge in ridges if bool(rows.any()) else ():  # inputs that never change weigh nothing
        label = f"inputs, ridge {ridge:g}"
        found.append(Metric(rows, ridge, name=label))
        found += [Metric(rows, ridge, root, name=f"{label}, {name}") for name, root in gates.items()]
    return found


def _scaled(rows: Tensor) -> Tensor:
    """Rows such that the mean square of an input is 1."""
    return rows * (rows.shape[1] / rows.square().sum().clamp_min(1e-300)).sqrt()


def _gate_roots(sensitivity: Sensitivity | None, jointly: bool) -> dict[str, Tensor]:
    if sensitivity is None:
        return {}
    roots = {"gates": sensitivity.root}
    if jointly and sensitivity.joint_root is not None:
        roots["gates jointly"] = sensitivity.joint_root.double()
    return roots
