"""What a decomposition gives back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trcompress.formats import TensorRing


@dataclass(frozen=True)
class Decomposition:
    """Cores of a ring, with all that tells how good they are.

    Args:
        ring: the structure they have.
        cores: `(r_k, n_k, r_{k+1})` float64, inputs first.
        error: ||W - W_hat|| / ||W||, Frobenius, from the residual itself.
        bound: no ring of these ranks has a smaller error.
        bound_at: which cut or arc of the ring gives the bound, in words.
        init: the algorithm, a key of `ALGORITHMS`.
        sweeps: ALS sweeps and Gauss-Newton steps, over all starts.
        start: which start the cores come from.
        history: relative error after each sweep of that start; never rises.
        notes: what was padded or is redundant, in words.
        metric_error: the same relative error in the metric that was asked for; `error` itself without one.
    """

    ring: TensorRing
    cores: tuple[Tensor, ...]
    error: float
    bound: float
    bound_at: str
    init: str
    sweeps: int
    start: str
    history: tuple[float, ...]
    notes: tuple[str, ...]
    metric_error: float
